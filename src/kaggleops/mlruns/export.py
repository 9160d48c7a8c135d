"""A bucket unpacked into a plain file-store `mlruns` for other tools, without our notes.

It is made once, in an empty folder, so that nobody's runs are overwritten. For a copy that is a
bucket itself, the objects are copied: they are plain files (docs/moving.md).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from kaggleops.bucket import Entry
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.layout import (
    ARTIFACTS,
    EntityId,
    Kind,
    artifact_owner,
    experiment,
)
from kaggleops.mlruns.entity import BrokenEntityError, Entity
from kaggleops.mlruns.folder import TRASH, write_folder
from kaggleops.mlruns.locations import rebase
from kaggleops.mlruns.store import EntityStore

WORKERS = 16
_BATCH = 500

_Item = TypeVar("_Item")
Progress = Callable[[int, int], None]


@dataclass
class Exported:
    """What became of an export."""

    entities: int = 0
    """How many experiments, runs, models and the like are in the folder now."""
    artifacts: int = 0
    """How many artifacts are."""
    problems: list[str] = field(default_factory=list)
    """What was passed over."""


def export(
    store: EntityStore, folder: Path, *, artifacts: bool, progress: Progress = lambda *_: None
) -> Exported:
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
    doing, hint = f"exporting to {folder}", "Name a new or an empty folder."
    if folder.exists() and not folder.is_dir():
        raise UsageError(doing, "it is a file", hint)
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(doing, "it is not empty", hint)
    return _Export(store, folder.absolute(), artifacts).run(progress)


class _Export:
    """A file-store `mlruns` that is being made."""

    def __init__(self, store: EntityStore, folder: Path, artifacts: bool) -> None:
        self._store = store
        self._folder = folder
        self._artifacts = artifacts
        self._deleted: set[str] = set()
        self._result = Exported()

    def run(self, progress: Progress) -> Exported:
        ids = [entity_id for entity_id, _ in self._store.every()]
        bucket, artifacts = self._store.bucket, []
        if self._artifacts:
            artifacts = list(bucket.list(f"{ARTIFACTS}/", checksums=True))
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
        return self._result

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
            self._result.problems.append(f"exporting {where}: it is no artifact of a run.")
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
