"""Artifacts, carried from a file-store `mlruns` into a bucket.

They lie in their run's folder, or where its `artifact_uri` points. Such an address is the source's
word, and what it names ends up in a bucket that others may read: so an address on this machine is
followed only if it ends the way MLflow lays out that run's artifacts.
"""

import threading
from pathlib import Path

from kaggleops.bucket import ABSENT, Bucket, ConflictError, Entry, Version
from kaggleops.bucket.keys import is_key
from kaggleops.mlruns.entity import Entity
from kaggleops.mlruns.layout import ARTIFACTS, MLRUNS, EntityId, Kind
from kaggleops.mlruns.places import File, LocalPlace, Place, PlaceError, local_path, place_at
from kaggleops.mlruns.rebasing import (
    artifact_location,
    artifact_path,
    follows_the_bucket,
    is_elsewhere,
    relocate,
)
from kaggleops.mlruns.sources import Source


class Carrier:
    """Carries the artifacts of one source into one bucket. Thread-safe.

    Args:
        source: where from.
        bucket: where to.
        artifact_root: the URI under which the bucket's artifacts lie.
    """

    def __init__(self, source: Source, bucket: Bucket, artifact_root: str) -> None:
        self._source = source
        self._bucket = bucket
        self._root = artifact_root
        self._there: dict[str, Entry] = {entry.key: entry for entry in bucket.list(f"{ARTIFACTS}/")}
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._reached: dict[str, bool] = {}
        self._found_inside: set[str] = set()
        self._lost: dict[str, list[EntityId]] = {}
        self.carried = 0
        """How many artifacts were written."""
        self.problems: list[str] = []
        """What could not be carried, and why."""

    def carry(self, entity: Entity, folder: Path, new_id: EntityId) -> Entity:
        """Carry an entity's artifacts and return it with their location in the bucket.

        Args:
            entity: as it lies in the source.
            folder: its folder there.
            new_id: its id in the bucket.
        """
        location = artifact_location(entity)
        if location is None:
            return entity
        target = artifact_path(new_id)
        if location == self._root + target or self._is_chosen(location, entity.id):
            return entity
        if entity.id.kind is not Kind.EXPERIMENT:
            place, files = self._find(entity.id, folder, location)
            for path, file in files.items():
                self._copy(place, file, f"{ARTIFACTS}{target}/{path}")
        return relocate(entity, self._root + target)

    def _is_chosen(self, location: str, entity_id: EntityId) -> bool:
        return is_elsewhere(location) and not follows_the_bucket(location, entity_id)

    def _find(
        self, entity_id: EntityId, folder: Path, location: str
    ) -> tuple[Place, dict[str, File]]:
        root = _root_of(location, entity_id)
        try:
            place, files = self._source.artifacts_in(folder)
            if files:
                self._found_inside.add(root)
                return place, files
            if (named := self._followed(location, entity_id)) is not None:
                if not is_elsewhere(named):
                    there: Place = LocalPlace(Path(named))
                    files = {file.path: file for file in there.files()}
                    if files or Path(named).is_dir():
                        return there, files
                elif self._reaches(root, named):
                    there = place_at(named)
                    return there, {file.path: file for file in there.files()}
        except PlaceError as error:
            with self._lock:
                self.problems.append(f"importing the artifacts of {entity_id}: {error}")
            return LocalPlace(folder), {}
        with self._lock:
            self._lost.setdefault(root, []).append(entity_id)
        return place, {}

    def _reaches(self, root: str, location: str) -> bool:
        """Tell whether a root in another bucket can be read.

        Asked only once: it may take a minute to find out that it cannot.
        """
        with self._asking:
            if root not in self._reached:
                try:
                    next(place_at(location).files(), None)
                    self._reached[root] = True
                except PlaceError as error:
                    self._reached[root] = False
                    with self._lock:
                        self.problems.append(f"importing the artifacts under {root}: {error}")
            return self._reached[root]

    def _followed(self, location: str, entity_id: EntityId) -> str | None:
        """Return where a location leads, as a path or an address; None where it leads nowhere."""
        if is_elsewhere(location):
            return location
        path = local_path(location)
        if location.startswith("mlflow-artifacts:"):
            # Where `mlflow server` keeps them, unless it is told otherwise.
            path = self._source.folder.parent / f"mlartifacts{artifact_path(entity_id)}"
        if path is None or not path.is_absolute():
            return None
        return str(path) if path.parts[-2:] == (entity_id.name, ARTIFACTS) else None

    def _copy(self, place: Place, file: File, key: str) -> None:
        if not is_key(key):
            problem = (
                f"importing {place.uri}/{file.path}: no object can have the name {key[:200]!r}."
            )
            with self._lock:
                self.problems.append(problem)
            return
        there = self._there.get(key)
        # Written into the bucket after the source's was written here: the same, or an edit.
        if there is not None and there.updated_ms >= file.modified_ms:
            return
        expected: Version = ABSENT if there is None else there.version
        try:
            with place.on_disk(file.path) as content:
                self._bucket.write(key, content, expected=expected)
        except (PlaceError, ConflictError) as error:
            with self._lock:
                self.problems.append(str(error))
            return
        with self._lock:
            self.carried += 1

    def lost(self) -> list[str]:
        """Say which artifacts should lie somewhere that is not here."""
        return [
            f"importing the artifacts of {_named(ids)}: they lie under {root}, if there are any, "
            "and that is not here."
            for root, ids in sorted(self._lost.items())
            # Those of a plain mlruns lie in it: these have none.
            if root not in self._found_inside | self._reached.keys()
            and root.rpartition("/")[2] != MLRUNS
        ]


def _root_of(location: str, entity_id: EntityId) -> str:
    as_path = location.replace("\\", "/").rstrip("/")
    return as_path.removesuffix(artifact_path(entity_id))


def _named(ids: list[EntityId]) -> str:
    shown = ", ".join(str(entity_id) for entity_id in sorted(ids)[:3])
    return shown if len(ids) <= 3 else f"{shown} and {len(ids) - 3} more"
