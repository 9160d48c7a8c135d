"""Artifacts, copied from a file-store `mlruns` into a bucket.

They lie in their run's folder, or where its `artifact_uri` points: on this machine, or in another
bucket. Such an address is the source's claim, and what it names ends up in a bucket that others may
read: so it is followed only if it ends the way MLflow lays out that run's artifacts. What has to
stay where it is is named.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from kaggleops.bucket import ABSENT, Bucket, ConflictError, Entry, Version, open_bucket
from kaggleops.bucket.base import is_key
from kaggleops.bucket.directory import DirectoryBucket
from kaggleops.bucket.location import at_its_service, is_s3, local_path, root_and_prefix
from kaggleops.errors import KaggleOpsError
from kaggleops.layout import ARTIFACTS, MLRUNS, EntityId, Kind
from kaggleops.mlruns.entity import Entity
from kaggleops.mlruns.import_sources import Source
from kaggleops.mlruns.locations import (
    artifact_location,
    artifact_path,
    is_elsewhere,
    is_inside,
    relocate,
)
from kaggleops.redaction import redacted

_BUCKETS = re.compile(r"(?:gs|gcs|s3|s3a|abfss?|az|adl|wasbs?|hdfs|oci)://", re.IGNORECASE)
_UNKNOWN = "which is no place that MLflow gives them"

_HINT = (  # where an address says no host, and so leads to Amazon
    ". If it is not one of Amazon's buckets, name its service in AWS_ENDPOINT_URL_S3 and import "
    "again, or export again with --artifacts"
)
_PATIENCE = 10.0  # seconds that it takes to find out that a service cannot be reached

_File = tuple[Bucket, Entry]

# Not Path's, which raise an error for a drive that does not answer or a name that is too long.
_is_dir, _is_file = os.path.isdir, os.path.isfile


class Carrier:
    """Carries the artifacts of one source into one bucket. Thread-safe.

    `progress` is called after each artifact that was written, from any thread.
    """

    def __init__(
        self,
        source: Source,
        bucket: Bucket,
        artifact_root: str,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._source = source
        self._bucket = bucket
        self._root = artifact_root
        self._progress = progress
        self._there: dict[str, Entry] = {entry.key: entry for entry in bucket.list(f"{ARTIFACTS}/")}
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._reached: dict[str, str] = {}  # "", or why not
        self._here: set[str] = set()  # roots that are not away
        self._left: dict[tuple[str, str], list[EntityId]] = {}  # by root and reason
        self.carried = 0
        """How many artifacts were written."""
        self.size = 0
        """How many bytes they have."""
        self.problems: list[str] = []
        """What could not be carried, and why."""

    def carry(self, entity: Entity, folder: Path, new_id: EntityId) -> Entity:
        """Copy an entity's artifacts; return it with their location in the bucket."""
        location = artifact_location(entity)
        if location is None:
            return entity
        target = artifact_path(new_id)
        if is_inside(location, self._root):
            return entity
        if entity.id.kind is not Kind.EXPERIMENT:
            for path, file in self._find(entity.id, folder, location).items():
                self._copy(*file, f"{ARTIFACTS}{target}/{path}")
        return relocate(entity, self._root + target)

    def _find(self, entity_id: EntityId, folder: Path, location: str) -> dict[str, _File]:
        """Return what lies in its folder and where its location leads; the later written of two."""
        root, own = _root_of(location, entity_id), folder / ARTIFACTS
        found: dict[str, _File] = {}
        address: str | Path | None = None
        try:
            if own.is_dir() and (found := dict(self._files(own))):
                self._here.add(root)
            named = self._followed(location, entity_id)
            reason = _UNKNOWN if is_elsewhere(location) else ""
            if named is not None and not is_elsewhere(named):
                address = Path(named) if _is_dir(named) else None
            elif named is not None and not (reason := self._why_not(root, named)):
                address = named
            if address and not (found and Path(address).is_relative_to(own)):
                for path, file in self._files(address):
                    if path not in found or found[path][1].updated_ms < file[1].updated_ms:
                        found[path] = file
        except KaggleOpsError as error:
            self._say(f"importing the artifacts of {entity_id}: {error}")
            return found
        if address is not None or found or _is_of_bucket_here(root, entity_id):
            self._here.add(root)
        else:
            with self._lock:
                self._left.setdefault((root, reason), []).append(entity_id)
        return found

    def _files(self, address: str | Path, patience: float = 120.0) -> Iterator[tuple[str, _File]]:
        """Yield the plain files in a folder, or below an address of a remote bucket.

        Not what is behind a link: it could lead anywhere, and others may read the bucket.
        """
        prefix = ""
        if isinstance(address, str):
            root, prefix = root_and_prefix(address)
            bucket = open_bucket(root, patience=patience)
        elif address.is_symlink():
            hint = "Put the files themselves there."
            raise KaggleOpsError(f"reading {address}", "it is a symbolic link", hint)
        else:
            bucket = DirectoryBucket(address.absolute())

        def left_out(where: str, why: str) -> None:
            self._say(f"importing {where}: {why}. It was skipped.")

        prefix = prefix and f"{prefix}/"
        for entry in bucket.list(prefix, checksums=True, left_out=left_out):
            yield entry.key.removeprefix(prefix), (bucket, entry)

    def _why_not(self, root: str, location: str) -> str:
        """Return why a root in another bucket cannot be read; "" where it can."""
        with self._asking:  # once for each
            if root not in self._reached:
                try:
                    next(self._files(location, _PATIENCE), None)
                    self._reached[root] = ""
                except KaggleOpsError as error:
                    hint = _HINT if is_s3(location) and "@" not in location else ""
                    self._reached[root] = f"which cannot be read ({error.problem}){hint}"
            return self._reached[root]

    def _followed(self, location: str, entity_id: EntityId) -> str | None:
        """Return where a location leads, as a path or an address; None where it leads nowhere."""
        ends = location.replace("\\", "/").rstrip("/").endswith(f"/{entity_id.name}/{ARTIFACTS}")
        if is_elsewhere(location):
            # With its bucket's host, which it does not say, where that is ours.
            known = at_its_service(location, self._bucket.uri)
            return known if ends and _BUCKETS.match(location) else None
        path = local_path(location)
        if location.startswith("mlflow-artifacts:"):
            # Where `mlflow server` keeps them, unless it is told otherwise.
            path = self._source.folder.parent / f"mlartifacts{artifact_path(entity_id)}"
        if path is None or not path.is_absolute():
            return None
        return str(path) if path.parts[-2:] == (entity_id.name, ARTIFACTS) else None

    def _copy(self, source: Bucket, entry: Entry, key: str) -> None:
        if not is_key(key):
            where = source.object_uri(entry.key)
            self._say(f"importing {where}: no object can have the name {key[:200]!r}.")
            return
        there = self._there.get(key)
        # Written into the bucket after the source's was written here: the same, or an edit.
        if there is not None and there.updated_ms >= entry.updated_ms:
            return
        expected: Version = ABSENT if there is None else there.version
        with ExitStack() as stack:
            try:
                content = stack.enter_context(source.on_disk(entry))
            except KaggleOpsError as error:
                self._say(str(error))
                return
            try:
                self._bucket.write(key, content, expected=expected)
            except ConflictError as error:
                self._say(str(error))
                return
        with self._lock:
            self.carried += 1
            self.size += entry.size
        self._progress()

    def _say(self, problem: str) -> None:
        with self._lock:
            self.problems.append(problem)

    def left(self) -> list[str]:
        """Say which artifacts, if there are any, stay where they are."""
        return [
            f"importing the artifacts of {_named(ids)}: they stay under {redacted(root)}, "
            f"{reason or 'and that is not here'}."
            for (root, reason), ids in sorted(self._left.items())
            # Those of a plain mlruns lie in it, and a place that is here has no folder for none.
            if reason or (root not in self._here and root.rpartition("/")[2] != MLRUNS)
        ]


def _root_of(location: str, entity_id: EntityId) -> str:
    as_path = location.replace("\\", "/").rstrip("/")
    own = f"/{entity_id.name}/{ARTIFACTS}"
    return as_path.removesuffix(artifact_path(entity_id)).removesuffix(own)


def _is_of_bucket_here(root: str, entity_id: EntityId) -> bool:
    """Tell whether that is where a bucket on this machine that holds it keeps artifacts."""
    path = local_path(root)
    return path is not None and path.name == ARTIFACTS and _is_file(path.parent / entity_id.key)


def _named(ids: list[EntityId]) -> str:
    shown = ", ".join(str(entity_id) for entity_id in sorted(ids)[:3])
    return shown if len(ids) <= 3 else f"{shown} and {len(ids) - 3} more"
