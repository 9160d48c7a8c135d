"""The packed entities of one bucket: the one object that reads and writes them.

A read gives an entity whole, its artifacts rebased to this bucket. A write is conditional; on a
conflict the two versions merge and the write is tried again, so nobody's writes are lost.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from kaggleops.bucket import (
    ABSENT,
    Bucket,
    ConflictError,
    Entry,
    ObjectNotFoundError,
    ObjectTooLargeError,
    StoredObject,
    Version,
)
from kaggleops.layout import ARTIFACTS, EntityId, Kind, experiment, glob_of, parse_key, prefix_of
from kaggleops.mlruns.archive import check_size, pack, unpack
from kaggleops.mlruns.change_log import ATTEMPTS, ChangeLog, pause
from kaggleops.mlruns.entity import BrokenEntityError, Entity
from kaggleops.mlruns.locations import rebase
from kaggleops.mlruns.merge_rules import merge_onto


@dataclass(frozen=True)
class Stored:
    """An entity as the bucket holds it."""

    entity: Entity
    version: Version
    # what was brought in under another name than its own, a sentence each
    renamed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Write:
    """What a write has made of an object."""

    replaced: Version  # the version that it was at before; `ABSENT` where there was none
    stored: StoredObject  # what it holds now; at version `ABSENT` where it was deleted


class EntityStore:
    """Reads and writes the packed entities of a bucket.

    Each is announced in `changes` before it is written, for those who poll; None to only read.
    """

    def __init__(self, bucket: Bucket, changes: ChangeLog | None = None) -> None:
        self.bucket = bucket
        self._changes = changes
        self._open_runs: set[EntityId] = set()
        self.artifact_root = f"{bucket.artifact_uri}/{ARTIFACTS}"
        self.on_write: Callable[[EntityId, Write | None], object] = lambda *_: None
        """Called with whatever is about to be written or deleted, and once more when it is."""
        self.before_write: Callable[[Entity], object] = lambda _: None
        """Called with an entity before it is written; what it raises keeps the entity out."""

    def check(self) -> None:
        """Read the bucket once; raise `BucketError` where it is not there or cannot be read."""
        self.bucket.stat(experiment("0").key)

    def read(self, entity_id: EntityId) -> Stored:
        """Return the entity.

        Raises ObjectNotFoundError if the bucket has none, BrokenEntityError if its object is not a
        readable archive.
        """
        stored = self.read_unless(entity_id, None)
        assert stored is not None  # noqa: S101 - it was read unconditionally
        return stored

    def read_unless(self, entity_id: EntityId, known: Version | None) -> Stored | None:
        """Return the entity as `read`, or None if it is still at the version that is known."""
        try:
            found = self.bucket.read(entity_id.key, unless=known)
        except ObjectTooLargeError as error:
            raise BrokenEntityError(error.doing, error.problem) from error
        return Stored(self.unpack(entity_id, found.data), found.version) if found else None

    def write(self, entity: Entity, *, expected: Version, distinct: bool = False) -> Version:
        """Write the entity if its object is still at version `expected`; else ConflictError.

        A bucket takes what is there already for a write of ours whose answer was lost. `distinct`
        is for what two writers may make alike and only one may have made.
        """
        self.announce([entity.id])
        return self._write(entity, expected, distinct)

    def _write(self, entity: Entity, expected: Version, distinct: bool = False) -> Version:
        check_size(entity, f"writing {entity.id}")  # nobody could read it again
        self.before_write(entity)
        self.on_write(entity.id, None)
        key, packed = entity.id.key, pack(entity)
        if distinct:
            packed = packed[:4] + secrets.token_bytes(4) + packed[8:]  # the time in gzip's header
        version = self.bucket.write(key, packed, expected=expected)
        self.on_write(entity.id, Write(expected, StoredObject(key, version, packed)))
        return version

    def merge_in(self, entity: Entity, *, known: Version = ABSENT) -> Stored:
        """Make the bucket hold what the entity holds, besides what it holds already; return that.

        One request, if `known`, the version that the entity is based on, is still current. Raises
        BrokenEntityError if what the bucket holds is not readable.
        """
        self.announce([entity.id])
        expected = known
        renamed: list[str] = []
        for attempt in range(ATTEMPTS):
            try:
                return Stored(entity, self._write(entity, expected), renamed)
            except ConflictError:
                if attempt == ATTEMPTS - 1:
                    raise
            try:
                theirs = self.read(entity.id)
            except ObjectNotFoundError:
                # Deleted meanwhile; what this writer holds was logged, so it stays.
                expected = ABSENT
                continue
            merged, said = merge_onto(theirs.entity, entity)
            renamed += said
            if merged == theirs.entity:
                return Stored(merged, theirs.version, renamed)
            entity, expected = merged, theirs.version
            pause(attempt)
        raise AssertionError("unreachable")

    def delete(self, entity_id: EntityId, *, expected: Version | None = None) -> None:
        """Delete the entity for good; ConflictError if it is at another version than `expected`."""
        self.announce([entity_id])
        self.on_write(entity_id, None)
        self.bucket.delete(entity_id.key, expected=expected)
        if expected is not None:
            gone = StoredObject(entity_id.key, ABSENT, b"")
            self.on_write(entity_id, Write(expected, gone))

    def announce(self, entity_ids: Iterable[EntityId]) -> None:
        """Say that these are about to change; every write does so, this spares one request each."""
        if self._changes is not None:
            announced = list(entity_ids)
            self._changes.announce(announced)
            self._open_runs.update(each for each in announced if each.kind is Kind.RUN)

    def close(self, run: EntityId | None = None) -> None:
        """Say that this process is done with a run, or with all of them."""
        runs = self._open_runs if run is None else self._open_runs & {run}
        if self._changes is not None and runs:
            self._changes.close(runs)
            self._open_runs -= runs

    def readable(self, entity_id: EntityId) -> Entity | None:
        """Return the entity; None where it is gone or cannot be read."""
        try:
            return self.read(entity_id).entity
        except (BrokenEntityError, ObjectNotFoundError):
            return None

    def every(self) -> Iterator[tuple[EntityId, Entry]]:
        """Yield all entities with their objects: one listing."""
        for entry in self.bucket.list(prefix_of(Kind.EXPERIMENT)):
            if (entity_id := parse_key(entry.key)) is not None:
                yield entity_id, entry

    def list(self, kind: Kind, experiment_id: str = "") -> Iterator[tuple[EntityId, Entry]]:
        """Yield the entities of a kind (of one experiment) with their objects."""
        prefix = prefix_of(kind, experiment_id)
        for entry in self.bucket.list(prefix, recursive=False):
            entity_id = parse_key(entry.key)
            if entity_id is not None and entity_id.kind is kind:
                yield entity_id, entry

    def find(self, kind: Kind, name: str) -> EntityId | None:
        """Return the entity of that id, whichever experiment it belongs to."""
        for entry in self.bucket.list(prefix_of(Kind.EXPERIMENT), glob=glob_of(kind, name)):
            entity_id = parse_key(entry.key)
            if entity_id is not None and entity_id.kind is kind:
                return entity_id
        return None

    def unpack(self, entity_id: EntityId, data: bytes) -> Entity:
        """Return the entity that an object of this bucket holds, its artifacts rebased.

        Raises BrokenEntityError if it is not a valid entity.
        """
        where = self.bucket.object_uri(entity_id.key)
        return rebase(unpack(data, entity_id, where), self.artifact_root)
