"""A bucket brought onto this disk: mirrored as it is, or unpacked into a file-store `mlruns`.

A mirror is a bucket of its own. It can be brought up to date again and again: only what changed is
fetched; what changed in the mirror too is merged; what is broken in the bucket does not replace
what the mirror has; and nothing is deleted from it.

Unpacked it is a plain `mlruns` for other tools, without our notes. It is made once, in an empty
folder, so that nobody's runs are overwritten.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from kaggleops.bucket import ABSENT, ConflictError, Entry, ObjectNotFoundError, Version
from kaggleops.bucket.content import crc32c
from kaggleops.bucket.directory import DirectoryBucket
from kaggleops.bucket.keys import HIDDEN_FOLDER
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.mlruns.entity import BrokenEntityError, Entity
from kaggleops.mlruns.folder import TRASH, replace_file, write_folder
from kaggleops.mlruns.layout import (
    ARTIFACTS,
    MLRUNS,
    EntityId,
    Kind,
    artifact_owner,
    experiment,
    parse_key,
)
from kaggleops.mlruns.rebasing import rebase
from kaggleops.mlruns.store import EntityStore

WORKERS = 16
_CODE = "code"
_BATCH = 500

_Item = TypeVar("_Item")
Progress = Callable[[int, int], None]


@dataclass
class Pulled:
    """What became of a pull."""

    entities: int = 0
    """How many entities are in the folder now."""
    fetched: int = 0
    """How many of them were fetched."""
    artifacts: int = 0
    """How many artifacts and other plain objects were fetched."""
    problems: list[str] = field(default_factory=list)
    """What was passed over."""


def mirror(
    store: EntityStore, folder: Path, *, artifacts: bool, progress: Progress = lambda *_: None
) -> Pulled:
    """Make a folder a bucket that holds what this one holds.

    Args:
        store: the bucket's entities.
        folder: new, empty, or an earlier mirror of the same bucket.
        artifacts: whether to fetch these too.
        progress: called with how many objects were looked at, and how many there are.

    Raises:
        UsageError: the folder holds something else.
        BucketError: the bucket cannot be read.
    """
    return _Mirror(store, folder).update(artifacts, progress)


class _Mirror:
    """A mirror's folder, and which versions were fetched into it."""

    def __init__(self, store: EntityStore, folder: Path) -> None:
        if folder.absolute().name == MLRUNS:
            hint = f"Name another folder, or unpack the bucket there: --unpack {folder}"
            raise UsageError(f"mirroring into {folder}", f"a bucket is never called {MLRUNS}", hint)
        self._source = store
        self._target = EntityStore(DirectoryBucket(folder.absolute()))
        self._record = folder.absolute() / HIDDEN_FOLDER / "pulled.json"
        self._fetched = self._read_record(folder)
        self._result = Pulled()

    def _read_record(self, folder: Path) -> dict[str, list[Version]]:
        """Return the bucket's version and the mirror's by key, and a plain object's checksum.

        Mirrors of earlier releases lack the checksums: they were not compared with anything.
        """
        doing = f"mirroring into {folder}"
        if not self._record.is_file():
            _require_empty(folder, doing)
            return {}
        try:
            content = json.loads(self._record.read_bytes())
            uri, objects = content["uri"], dict(content["objects"])
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(doing, f"{self._record} is damaged ({error})", "Delete it.") from error
        if uri != self._source.bucket.uri:
            raise UsageError(doing, f"it mirrors {uri}", "Name another folder.")
        return objects

    def _write_record(self) -> None:
        self._record.parent.mkdir(parents=True, exist_ok=True)
        content = {"uri": self._source.bucket.uri, "objects": self._fetched}
        replace_file(self._record, json.dumps(content).encode(), self._record.parent)

    def update(self, artifacts: bool, progress: Progress) -> Pulled:
        entries = [entry for entry, _ in _entities(self._source)]
        self._result.entities = len(entries)
        for prefix in (_CODE, ARTIFACTS) if artifacts else (_CODE,):
            entries += self._source.bucket.list(
                f"{prefix}/", checksums=self._source.bucket.lists_checksums
            )
        self._target.bucket.prepare()
        self._write_record()  # so that a mirror that breaks off here can be continued
        here = {entry.key for entry in self._target.bucket.list()}
        changed = [entry for entry in entries if entry.key not in here or not self._is_right(entry)]
        done = len(entries) - len(changed)
        progress(done, len(entries))
        with ThreadPoolExecutor(WORKERS) as pool:
            for batch in batches(changed):
                for entry, ours in zip(batch, pool.map(self._fetch, batch), strict=True):
                    if ours is not None:
                        if self._fetched.get(entry.key, [])[:2] != [entry.version, ours]:
                            self._count(entry.key)
                        plain = parse_key(entry.key) is None
                        checksum = [entry.crc32c] if plain else []
                        self._fetched[entry.key] = [entry.version, ours, *checksum]
                    done += 1
                    progress(done, len(entries))
                self._write_record()
        return self._result

    def _fetch(self, entry: Entry) -> Version | None:
        """Return the mirror's version of the object; None where it was passed over."""
        entity_id = parse_key(entry.key)
        try:
            return self._fetch_plain(entry) if entity_id is None else self._fetch_entity(entity_id)
        except (BrokenEntityError, ConflictError, ObjectNotFoundError) as error:
            self._result.problems.append(str(error))
        except OSError as error:
            where = self._source.bucket.object_uri(entry.key)
            self._result.problems.append(f"fetching {where}: {error.strerror}: {error.filename}")
        return None

    def _is_right(self, entry: Entry) -> bool:
        theirs, *rest = self._fetched.get(entry.key, [ABSENT])
        return theirs == entry.version and (len(rest) > 1 or parse_key(entry.key) is not None)

    def _count(self, key: str) -> None:
        if parse_key(key) is None:
            self._result.artifacts += 1
        else:
            self._result.fetched += 1

    def _expected(self, key: str) -> Version:
        known = self._fetched.get(key)
        # One that was deleted from the mirror is fetched again.
        return known[1] if known and self._target.bucket.stat(key) else ABSENT

    def _fetch_entity(self, entity_id: EntityId) -> Version:
        found = self._source.read_packed(entity_id)
        assert found is not None  # noqa: S101 - it was read unconditionally
        entity = self._source.unpack(entity_id, found.data)
        try:
            expected = self._expected(entity_id.key)
            return self._target.bucket.write(entity_id.key, found.data, expected=expected)
        except ConflictError:
            stored = self._target.merge_in(entity)
            self._result.problems += stored.renamed
            return stored.version

    def _fetch_plain(self, entry: Entry) -> Version:
        expected = self._expected(entry.key)
        here = self._target.bucket.stat(entry.key)
        if here and here.version == expected and self._fetched[entry.key][0] == entry.version:
            with (
                self._target.bucket.on_disk(here) as unchecked,
                unchecked.open("rb") as content,
            ):
                if not entry.crc32c or crc32c(content) == entry.crc32c:
                    return expected
        with self._source.bucket.on_disk(entry) as file:
            return self._target.bucket.write(entry.key, file, expected=expected)


def unpack_into(
    store: EntityStore, folder: Path, *, artifacts: bool, progress: Progress = lambda *_: None
) -> Pulled:
    """Make a folder a plain file-store `mlruns` that holds what the bucket holds.

    Args:
        store: the bucket's entities.
        folder: a new or an empty one.
        artifacts: whether to copy these too; then their locations lead to the copies, else to the
            bucket.
        progress: called with how many objects were written, and how many there are.

    Raises:
        UsageError: the folder holds something already.
        BucketError: the bucket cannot be read.
    """
    _require_empty(folder, f"unpacking into {folder}")
    return _Unpacking(store, folder.absolute(), artifacts).run(progress)


class _Unpacking:
    """A file-store `mlruns` that is being made."""

    def __init__(self, store: EntityStore, folder: Path, artifacts: bool) -> None:
        self._store = store
        self._folder = folder
        self._artifacts = artifacts
        self._deleted: set[str] = set()
        self._result = Pulled()

    def run(self, progress: Progress) -> Pulled:
        ids = [entity_id for _, entity_id in _entities(self._store)]
        artifacts = list(self._list_artifacts())
        total = len(ids) + len(artifacts)
        (self._folder / TRASH).mkdir(parents=True, exist_ok=True)
        # The experiments first: what belongs to a deleted one lies in the trash.
        homes = [entity_id for entity_id in ids if entity_id.kind is Kind.EXPERIMENT]
        others = [entity_id for entity_id in ids if entity_id.kind is not Kind.EXPERIMENT]
        done = 0
        with ThreadPoolExecutor(WORKERS) as pool:
            for batch in (*batches(homes), *batches(others)):
                for written in pool.map(self._write_entity, batch):
                    self._result.entities += written
                    done += 1
                    progress(done, total)
            for entries in batches(artifacts):
                for written in pool.map(self._write_artifact, entries):
                    self._result.artifacts += written
                    done += 1
                    progress(done, total)
        self._result.fetched = self._result.entities
        return self._result

    def _list_artifacts(self) -> Iterator[Entry]:
        if self._artifacts:
            bucket = self._store.bucket
            yield from bucket.list(f"{ARTIFACTS}/", checksums=bucket.lists_checksums)

    def _write_entity(self, entity_id: EntityId) -> bool:
        try:
            stored = self._store.read(entity_id)
            assert stored is not None  # noqa: S101 - it was read unconditionally
            entity = stored.entity
            if self._artifacts:
                entity = rebase(entity, self._folder.as_uri())
            write_folder(entity, self._home_of(entity) / entity_id.folder, notes=False)
        except BrokenEntityError as error:
            self._result.problems.append(str(error))
            return False
        return True

    def _home_of(self, entity: Entity) -> Path:
        home = entity.id.experiment_id
        deleted = entity.id == experiment(home) and entity.meta["lifecycle_stage"] == "deleted"
        if deleted:
            self._deleted.add(home)
        return self._folder / TRASH if home in self._deleted else self._folder

    def _write_artifact(self, entry: Entry) -> bool:
        path = entry.key.removeprefix(f"{ARTIFACTS}/")
        owner = artifact_owner(path)
        if owner is None:
            # It might lie where an entity's own files do.
            where = self._store.bucket.object_uri(entry.key)
            self._result.problems.append(f"unpacking {where}: it is no artifact of a run.")
            return False
        target = self._folder / (TRASH if owner.experiment_id in self._deleted else "") / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._store.bucket.fetch(entry.key, target, listed=entry)
            written_ns = entry.updated_ms * 1_000_000
            os.utime(target, ns=(written_ns, written_ns))  # tells a later import which is newer
        except (KaggleOpsError, OSError) as error:
            self._result.problems.append(str(error))
            return False
        return True


def batches(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """Yield the items, a bounded number at a time."""
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]


def _entities(store: EntityStore) -> Iterator[tuple[Entry, EntityId]]:
    """Yield every entity in the bucket, from one listing."""
    for entry in store.bucket.list(f"{MLRUNS}/"):
        entity_id = parse_key(entry.key)
        if entity_id is not None:
            yield entry, entity_id


def _require_empty(folder: Path, doing: str) -> None:
    hint = "Name a new or an empty folder."
    if folder.exists() and not folder.is_dir():
        raise UsageError(doing, "it is a file", hint)
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(doing, "it is not empty", hint)
