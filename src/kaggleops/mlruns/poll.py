"""What has changed in a bucket since the last look, for what the change log costs.

A poll asks for the log (change_log.py) and for the entities that are open, each a conditional
request that brings nothing where nothing is new. The bucket is listed only at first, when the log
has dropped announcements that were not seen, when it was begun anew, and on demand. A reader that
kept its mark lets the next process go on from there, without a listing.

Whatever has to be looked at stays due until it has been delivered: a look that fails half-way, or
a caller that does, is made good by the next one.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from kaggleops.bucket import (
    ABSENT,
    AT_MOST,
    ObjectNotFoundError,
    ObjectTooLargeError,
    StoredObject,
    Version,
)
from kaggleops.layout import EntityId, Kind, parse_key
from kaggleops.mlruns.change_log import (
    LOG_KEY,
    MAX_BYTES,
    MAX_KEY,
    MOST,
    BrokenLogError,
    Log,
    a_number,
    a_text,
    some_seconds,
)
from kaggleops.mlruns.entity import BrokenEntityError, Entity
from kaggleops.mlruns.store import EntityStore

_WORKERS = 16
_AT_ONCE = 4 << 20
"""Bytes: what is larger is read one after the other, so that a few do not fill the memory."""

_ORDER = (
    Kind.EXPERIMENT, Kind.DATASET, Kind.RUN, Kind.LOGGED_MODEL, Kind.TRACE, Kind.REGISTERED_MODEL,
)  # fmt: skip


def in_order(entity_ids: Iterable[EntityId]) -> list[EntityId]:
    """Return entities so that what others belong to, or name, comes before them."""
    return sorted(entity_ids, key=lambda each: (_ORDER.index(each.kind), each))


@dataclass(frozen=True)
class Change:
    """An entity that is not as it was."""

    id: EntityId  # which
    version: Version  # at which it is now; `ABSENT` where it is gone
    entity: Entity | None = None  # its content; None where it is gone or broken
    problem: BrokenEntityError | None = None  # why it cannot be read, where it is broken


@dataclass(frozen=True)
class Changes:
    """What one look found: iterate over it once.

    Contents are fetched as they are asked for, so that a bucket may be larger than the memory. A
    change counts as delivered when the next one is asked for; what was not delivered comes again.
    """

    listed: bool  # whether the bucket had to be listed
    due: int  # how many entities are looked at; not all of them need have changed
    _changes: Iterator[Change]

    def __iter__(self) -> Iterator[Change]:
        return self._changes


@dataclass(frozen=True)
class Mark:
    """How far a reader of the change log has come, for the next process to go on from."""

    log_id: str  # the log
    sequence: int  # the newest announcement that it has seen
    # for how many seconds from then each writer of an object may change it, by key
    open: Mapping[str, Mapping[str, float]]

    def same_place(self, other: "Mark | None") -> bool:
        """Whether another one says the same, however much time has gone by."""
        if other is None or (self.log_id, self.sequence) != (other.log_id, other.sequence):
            return False
        mine, theirs = ({key: {*w} for key, w in mark.open.items()} for mark in (self, other))
        return mine == theirs

    @classmethod
    def checked(cls, log_id: object, sequence: object, opened: Any) -> "Mark":
        """Return the mark that somebody else has kept; raise ValueError or so where it is none."""
        if len(opened) > MOST:
            raise ValueError(f"more than {MOST} objects are open")
        return cls(
            a_text(log_id),
            a_number(sequence),
            {
                a_text(key, MAX_KEY): {a_text(each): some_seconds(w[each]) for each in w}
                for key, w in opened.items()
            },
        )


class Poll:
    """One reader's knowledge of a bucket. Not thread-safe.

    Args:
        store: the bucket's entities.
        versions: what the caller has already; only what is not at that version is delivered.
        mark: how far whoever has these versions had come.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        store: EntityStore,
        versions: Mapping[EntityId, Version] | None = None,
        *,
        mark: Mark | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._versions = dict(versions or {})
        self._clock = clock
        self._log_id = mark.log_id if mark else ""
        self._log_version: Version | None = None
        self._sequence = mark.sequence if mark else 0
        self._must_list = mark is None
        # Counted from now: no clock tells how much time has gone by since another process.
        self._open: dict[EntityId, dict[str, float]] = {
            entity_id: {writer: clock() + seconds for writer, seconds in writers.items()}
            for key, writers in (mark.open if mark else {}).items()
            if (entity_id := parse_key(key)) is not None
        }
        """Until when each writer of an entity may change it."""
        self._due: set[EntityId] = set()
        self._again: set[EntityId] = set()
        self.problem = ""
        """Why the change log cannot be read, or ""; then the bucket is listed instead."""

    def changed(self, *, full: bool = False) -> Changes:
        """Return what changed since it was last delivered.

        Costs one request of class B, and one for each entity that is open or was closed since.
        `full` lists the bucket: that finds also what writers changed that announce nothing (older
        versions of this program, a person with gsutil).
        """
        # The log before the bucket: what is written after this look was announced before it, or
        # will be new to the next one.
        self._read_log()
        listed = full or self._must_list
        if listed:
            self._due |= self._differing()
            self._must_list = False
        else:
            self._due |= self._open.keys()
        now, opened = self._clock(), self._open.items()
        left = {each: {w: until for w, until in ws.items() if until > now} for each, ws in opened}
        self._open = {each: writers for each, writers in left.items() if writers}
        return Changes(listed, len(self._due), self._deliver())

    @property
    def mark(self) -> Mark | None:
        """How far this reader has come; None while something that it knows of is not delivered."""
        if self._must_list or self._due or not self._log_id:
            return None
        now = self._clock()
        left = {
            entity_id.key: {writer: until - now for writer, until in writers.items()}
            for entity_id, writers in self._open.items()
        }
        return Mark(self._log_id, self._sequence, left)

    @property
    def due(self) -> Set[EntityId]:
        """What this reader is about to look at."""
        return self._due

    def is_known(self, versions: Mapping[EntityId, Version]) -> None:
        """Take note that the caller has what is due at these versions, and the others not at all.

        Somebody else may have brought it there; what is at that version is not delivered.
        """
        for entity_id in self._due:
            self._versions.pop(entity_id, None)
            if entity_id in versions:
                self._versions[entity_id] = versions[entity_id]

    def again(self, entity_ids: Iterable[EntityId]) -> None:
        """Deliver these with the next look, whether they have changed or not."""
        self._again.update(entity_ids)
        self._due |= self._again

    def _read_log(self) -> None:
        log: Log | None = None
        try:
            found = self._store.bucket.read(LOG_KEY, unless=self._log_version, at_most=MAX_BYTES)
        except ObjectNotFoundError:
            # Without a log nothing was announced, so nothing was written, since it was missing.
            version, self.problem = ABSENT, ""
        except ObjectTooLargeError as error:
            version, self.problem = error.version, f"{error} It is skipped."
        else:
            if found is None:
                return
            version, self.problem = found.version, ""
            try:
                log = Log.from_bytes(found.data)
            except BrokenLogError as error:
                self.problem = str(error)
        # One that knows less than before was restored from a copy, with whatever else was.
        goes_on = log if log and log.id == self._log_id and log.sequence >= self._sequence else None
        if goes_on is None or goes_on.dropped > self._sequence:
            self._must_list = True
        if log is not None:
            seen, now = self._sequence if goes_on else 0, self._clock()
            for each in log.entries:
                if each.sequence > seen and (entity_id := parse_key(each.key)) is not None:
                    # One that is closed is let go of after this look, like one whose time is up.
                    self._open.setdefault(entity_id, {})[each.writer] = now + each.open_for
            self._log_id, self._sequence = log.id, log.sequence
        self._log_version = version

    def _differing(self) -> set[EntityId]:
        listed = {entity_id: entry.version for entity_id, entry in self._store.every()}
        every = self._versions.keys() | listed.keys()
        return {each for each in every if self._versions.get(each) != listed.get(each)}

    def _deliver(self) -> Iterator[Change]:
        due = in_order(self._due)
        if not due:
            return
        with ThreadPoolExecutor(min(_WORKERS, len(due))) as pool:
            upcoming = iter(due)
            begun: deque[tuple[EntityId, Future[StoredObject | None]]] = deque()
            while True:
                # Few enough at once that what waits to be asked for takes little memory.
                for entity_id in itertools.islice(upcoming, 2 * _WORKERS - len(begun)):
                    begun.append((entity_id, pool.submit(self._look, entity_id)))
                if not begun:
                    return
                entity_id, future = begun.popleft()
                change = self._change(entity_id, future)
                del future
                if change is not None:
                    yield change
                    self._versions.pop(change.id, None)
                    if change.version != ABSENT:
                        self._versions[change.id] = change.version
                del change
                self._due.discard(entity_id)
                self._again.discard(entity_id)

    def _look(self, entity_id: EntityId, at_most: int = _AT_ONCE) -> StoredObject | None:
        known = self._versions.get(entity_id, ABSENT) if entity_id not in self._again else None
        try:
            return self._store.bucket.read(entity_id.key, unless=known, at_most=at_most)
        except ObjectNotFoundError:
            return StoredObject(entity_id.key, ABSENT, b"")

    def _change(self, entity_id: EntityId, future: "Future[StoredObject | None]") -> Change | None:
        version = ABSENT
        try:
            is_large = isinstance(future.exception(), ObjectTooLargeError)
            found = self._look(entity_id, AT_MOST) if is_large else future.result()
            if found is None:
                return None
            if found.version == ABSENT:
                return Change(entity_id, ABSENT)
            version = found.version
            return Change(entity_id, version, self._store.unpack(entity_id, found.data))
        except ObjectTooLargeError as error:
            problem = BrokenEntityError(error.doing, error.problem)
            return Change(entity_id, error.version, problem=problem)
        except BrokenEntityError as error:
            return Change(entity_id, version, problem=error)
