"""The index of a bucket: only what changed is read, and each entity is there whole or not at all.

1. An entity's rows are written in one transaction with the version that they are of. A refresh
   that dies leaves a consistent index, and the next one goes on where it ended.
2. What cannot be indexed is named, with the reason, and passed over; its last good rows stay.
3. The order in which entities come does not matter: one that needs another waits for it.
4. The index holds nothing that the bucket does not.
5. Others may write to the index at the same time (write_through.py). What they were faster with is
   not overwritten with what may be older: the bucket is asked for it again.
6. The index keeps how far it has read the change log: the next process goes on there, without a
   listing. That is written only when all that it claims is in the index: an old mark, or none,
   costs requests and misses nothing.
7. An empty index is filled from the bucket's snapshot, where there is one, and goes on from where
   that had come to (sharing.py).
"""

import json
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Set
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from kaggleops.bucket import ABSENT, Version
from kaggleops.errors import first_line
from kaggleops.index.database import (
    ENTITIES,
    MARK,
    DatabaseError,
    open_database,
    versions_of,
    writing,
)
from kaggleops.index.preparation import Prepared, prepare, worker
from kaggleops.index.sharing import Sharing
from kaggleops.index.snapshot import Loaded
from kaggleops.index.transaction import (
    REFUSED,
    Outcome,
    import_alone,
    import_changes,
    mark_lost,
    record_problem,
)
from kaggleops.index.writes import take_statistics
from kaggleops.layout import LOG_KEY, parse_key
from kaggleops.mlruns import Change, Changes, EntityId, EntityStore, Kind, Mark, Poll
from kaggleops.mlruns.poll import unpacked

ONE_LISTING = 1000
"""Objects that one request lists. A process that begins lists so few whatever was kept: that finds
what was written and not announced."""

LISTING_EVERY = 24 * 3600.0
"""Seconds after which it lists any number of them, for the same reason."""


class _Marks:
    """How far an index has read the change log, as one process reads and moves it."""

    def __init__(self, engine: sa.Engine, few: int) -> None:
        self._engine = engine
        self._few = few
        self._kept: Mark | None = None
        self._listed = 0.0

    def begin(self, entities: int, now: float, loaded: Loaded | None) -> Mark | None:
        """Return from where to go on without listing the bucket; None where it is to be listed."""
        if loaded:
            mark, self._listed = loaded.mark, loaded.head.listed
        else:
            with self._engine.begin() as connection:
                row = connection.execute(sa.select(MARK)).first()
            if row is None:
                return None
            mark, self._listed = Mark(row.log_id, row.sequence, json.loads(row.open)), row.listed
            self._kept = mark
        # A clock that was set back is no reason to wait for longer.
        recently = 0 <= now - self._listed < LISTING_EVERY
        return mark if recently and entities > self._few else None

    def keep(self, connection: sa.Connection, mark: Mark | None, listed: float | None) -> None:
        """Keep a mark where it says something new; `listed` is when the bucket was, if just now."""
        if mark is None or (listed is None and mark.same_place(self._kept)):
            return
        self._kept = mark
        self._listed = self._listed if listed is None else listed
        kept = json.dumps({key: dict(writers) for key, writers in mark.open.items()})
        values = {"log_id": mark.log_id, "sequence": mark.sequence, "open": kept}
        connection.execute(MARK.delete())
        connection.execute(MARK.insert().values(listed=self._listed, **values))


Progress = Callable[[int, int], None]
Batch = Sequence[Change | Prepared]

_BATCH = 100  # entities in a transaction
_BATCH_BYTES = 1 << 20  # of their archives, which take some thirty times as much as rows in memory
_AHEAD = 2  # batches that are made ready while one is written
_GROWTH = 16  # times as large as its archive is an entity, as a rule
_LARGE_BYTES = 16 << 20  # of the archives of a batch that waits for none beside it
_WORTH_A_WORKER = 200  # entities; it takes a third of a second to start


@dataclass
class Refreshed:
    """What became of a refresh."""

    listed: bool = False  # whether the bucket had to be listed
    changed: int = 0  # how many entities were written
    removed: int = 0  # how many are gone from the bucket
    # what was passed over this time, and why
    problems: dict[EntityId, str] = field(default_factory=dict)
    lost: int = 0  # how many runs were found to have lost their machine


class Index:
    """A bucket's entities in MLflow's SQL schema. Not thread-safe.

    Args:
        url: the database, as SQLAlchemy has it: `sqlite:////folder/index.db`, `postgresql://…`.
        store: the bucket's entities.
        clock: the time in seconds since the epoch.
        few: entities, up to which a bucket is listed at first whatever an earlier process has kept.

    Raises:
        UsageError: the database is none of these, or holds another bucket.
        DatabaseError: it cannot be opened.
    """

    def __init__(
        self,
        url: str,
        store: EntityStore,
        clock: Callable[[], float] = time.time,
        *,
        few: int = ONE_LISTING,
    ) -> None:
        self._store = store
        self._clock = clock
        self._engine = open_database(url, store.bucket.uri)
        self._marks = _Marks(self._engine, few)
        self._sharing = Sharing(self._engine, store)
        self._poll: Poll | None = None
        self._known: dict[EntityId, Version] = {}  # what was last seen of the database
        self._overtaken: list[EntityId] = []

    def close(self) -> None:
        """Close all connections to the database."""
        self._engine.dispose()

    def refresh(self, progress: Progress = lambda *_: None, *, full: bool = False) -> Refreshed:
        """Bring the index up to date with the bucket.

        Costs what a poll costs, and one request of class B for each entity that changed. `progress`
        is called with how many entities were looked at, and how many there are to be; `full` lists
        the bucket. After an error, what was written until then is in the index. Raises
        DatabaseError if the database does not take it, BucketError if the bucket cannot be read.
        """
        try:
            goes_on = self._poll is not None
            result = self._refresh(progress, full)
            again = partial(self._refresh, result=result)
            self._sharing.give(again, self._clock(), lasting=goes_on)
            return result
        except BaseException as error:
            # It may have delivered what was not written: begin with what the database has.
            self._poll = None
            if isinstance(error, SQLAlchemyError):
                doing = f"writing the index {self._engine.url.render_as_string()}"
                raise DatabaseError(doing, first_line(error)) from error
            raise

    def problems(self) -> dict[EntityId, str]:
        """Return what is not in the index as it is in the bucket, and why."""
        query = sa.select(ENTITIES.c.key, ENTITIES.c.problem).where(ENTITIES.c.problem != "")
        with self._engine.begin() as connection:
            found = connection.execute(query).all()
        return {entity_id: text for key, text in found if (entity_id := parse_key(key))}

    def _refresh(
        self,
        progress: Progress = lambda *_: None,
        full: bool = False,
        result: Refreshed | None = None,
    ) -> Refreshed:
        result = result or Refreshed()
        touched: set[str] | None = set()
        looked = self._clock()
        if self._poll is None:
            with self._engine.begin() as connection:
                versions = versions_of(connection)
            loaded = None if versions else self._sharing.take(looked, progress)
            if loaded:
                result.changed += loaded.entities
                with self._engine.begin() as connection:
                    versions = versions_of(connection)
            self._known = dict(versions)
            mark = self._marks.begin(len(versions), looked, loaded)
            self._poll = Poll(self._store, versions, mark=mark, packed=True)
            if loaded and mark:
                self._poll.again(loaded.unsettled)
            touched = None  # an earlier process may have ended before what waited was seen to
        changes = self._poll.changed(full=full)
        result.listed |= changes.listed
        if touched is not None:
            self._poll.is_known(self._look_again(self._poll.due))
        done = 0
        progress(done, changes.due)
        with closing(self._ready(changes)) as batches:
            for batch in batches:
                self._import(batch, result)
                if touched is not None:
                    touched |= {change.id.key for change in batch}
                done += len(batch)
                progress(done, changes.due)
        if waiting := self._waiting(touched):
            self._poll.again(waiting)
            for batch in _batches(self._poll.changed()):
                self._import([self._unpacked(change) for change in batch], result)
        self._poll.again(self._overtaken)
        self._overtaken = []
        with writing(self._engine) as connection:
            result.lost += mark_lost(connection, self._now_ms())
            self._marks.keep(connection, self._poll.mark, looked if changes.listed else None)
            record_problem(connection, LOG_KEY, self._poll.problem)
        if result.changed:
            take_statistics(self._engine)
        progress(changes.due, changes.due)
        return result

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _look_again(self, due: Set[EntityId]) -> dict[EntityId, Version]:
        """Return at which versions these are by now: others write to the index, too."""
        if not due:
            return {}
        with self._engine.begin() as connection:
            versions = versions_of(connection, due if len(due) <= _BATCH else None)
        for entity_id in due:
            self._known.pop(entity_id, None)
            if entity_id in versions:
                self._known[entity_id] = versions[entity_id]
        return versions

    # -- unpacking ----------------------------------------------------------------------------

    def _ready(self, changes: Changes) -> Generator[Batch]:
        """Yield what changed in batches, unpacked; many new runs by another process, too."""
        with ExitStack() as stack:
            helper = None
            if changes.due >= _WORTH_A_WORKER:
                helper = stack.enter_context(worker(self._store))
            ahead: deque[Callable[[], Batch]] = deque()
            for batch in _batches(changes):
                if helper and all(
                    each.id.kind is Kind.RUN
                    and each.packed is not None
                    and each.id not in self._known
                    for each in batch
                ):
                    if helper.waiting < _AHEAD:
                        ahead.append(helper.prepare(batch).result)
                    else:  # it takes longer than what is left to do here
                        made: Batch = [prepare(self._unpacked(change)) for change in batch]
                        ahead.append(partial(list, made))
                else:
                    ahead.append(partial(list, map(self._unpacked, batch)))
                large = sum(map(_weight, batch)) > _LARGE_BYTES
                del batch
                while len(ahead) > (0 if large else _AHEAD):
                    yield ahead.popleft()()
            while ahead:
                yield ahead.popleft()()

    def _unpacked(self, change: Change) -> Change:
        where = self._store.bucket.object_uri(change.id.key)
        return unpacked(change, where, self._store.artifact_root)

    # -- one batch ----------------------------------------------------------------------------

    def _import(self, batch: Batch, result: Refreshed) -> None:
        try:
            with writing(self._engine) as connection:
                newest, root = self._not_overtaken(connection, batch), self._store.artifact_root
                known = self._known
                outcomes = import_changes(
                    connection, newest, lambda each: each not in known, self._now_ms(), root
                )
        except REFUSED:
            outcomes = [outcome for change in batch for outcome in self._import_alone(change)]
        for outcome in outcomes:
            done = outcome.change
            result.problems.pop(done.id, None)
            if outcome.problem:
                result.problems[done.id] = outcome.problem
            if done.version == ABSENT:
                self._known.pop(done.id, None)
                result.removed += 1
            else:
                self._known[done.id] = done.version
                result.changed += not outcome.problem

    def _import_alone(self, change: Change | Prepared) -> list[Outcome]:
        with writing(self._engine) as connection:
            if not self._not_overtaken(connection, [change]):
                return []
            return import_alone(connection, change, self._now_ms(), self._store.artifact_root)

    def _not_overtaken(self, connection: sa.Connection, batch: Batch) -> Batch:
        """Return what nobody else has written since this index last looked."""
        now = versions_of(connection, [change.id for change in batch])
        newest = []
        for change in batch:
            known, there = self._known.get(change.id), now.get(change.id)
            if known == there:
                newest.append(change)
                continue
            if there != change.version:
                self._overtaken.append(change.id)
            self._known.pop(change.id, None)
            if there is not None:
                self._known[change.id] = there
        return newest

    # -- what waits for others ----------------------------------------------------------------

    def _waiting(self, touched: set[str] | None) -> list[EntityId]:
        """Return what waits for one of these objects, or for any."""
        waits = ENTITIES.c.waits_for != sa.literal_column("''")  # as the index of them has it
        query = sa.select(ENTITIES.c.key, ENTITIES.c.waits_for).where(waits)
        with self._engine.begin() as connection:
            found = connection.execute(query).all()
        ids = [parse_key(key) for key, other in found if touched is None or other in touched]
        return [entity_id for entity_id in ids if entity_id is not None]


def _weight(change: Change) -> int:
    """Return the bytes of an archive, or those that it would have if it were packed as usual."""
    packed = change.packed or b""
    # What it unpacks to, as it says itself at its end; where that is not so, it is refused.
    return max(len(packed), int.from_bytes(packed[-4:], "little") // _GROWTH)


def _batches(changes: Iterable[Change]) -> Iterator[list[Change]]:
    batch: list[Change] = []
    size = 0
    for change in changes:
        if batch and batch[-1].id.kind is not change.id.kind:
            yield batch
            batch, size = [], 0
        batch.append(change)
        size += _weight(change)
        del change  # which may be large, while the next one is fetched
        if len(batch) >= _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
