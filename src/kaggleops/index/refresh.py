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
from collections.abc import Callable, Iterable, Iterator, Set
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
    take_statistics,
    versions_of,
    writing,
)
from kaggleops.index.sharing import Sharing
from kaggleops.index.snapshot import Loaded, Progress
from kaggleops.index.transaction import (
    REFUSED,
    Prepared,
    import_alone,
    import_changes,
    mark_lost,
    prepare,
    record_problem,
)
from kaggleops.layout import LOG_KEY, parse_key
from kaggleops.mlruns import Change, EntityId, EntityStore, Mark, Poll

ONE_LISTING = 1000
"""Objects that one request lists. A process that begins lists so few whatever was kept: that finds
what was written and not announced."""

LISTING_EVERY = 24 * 3600.0
"""Seconds after which it lists any number of them, for the same reason."""

_BATCH = 100  # entities in a transaction
_BATCH_BYTES = 16 << 20  # of their files


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
        self._few = few
        self._engine = open_database(url, store.bucket.uri)
        self._sharing = Sharing(self._engine, store)
        self._poll: Poll | None = None
        self._known: dict[EntityId, Version] = {}  # what was last seen of the database
        self._overtaken: list[EntityId] = []
        self._mark: Mark | None = None  # as the database has it
        self._listed = 0.0

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
        looked, began = self._clock(), self._poll is None
        poll = self._poll = self._poll or self._begin(looked, progress, result)
        changes = poll.changed(full=full)
        result.listed |= changes.listed
        if not began and poll.due:
            self._look_again(poll)
        progress(0, changes.due)
        touched: set[str] = set()
        for batch in _batches(changes):
            self._import(batch, result)
            touched |= {change.id.key for change in batch}
            progress(len(touched), changes.due)
        # An earlier process may have ended before what waited was seen to.
        if waiting := self._waiting(None if began else touched):
            poll.again(waiting)
            for batch in _batches(poll.changed()):
                self._import(batch, result)
        poll.again(self._overtaken)
        self._overtaken = []
        with writing(self._engine) as connection:
            result.lost += mark_lost(connection, self._now_ms())
            self._keep_mark(connection, poll.mark, looked if changes.listed else None)
            record_problem(connection, LOG_KEY, poll.problem)
        if result.changed:
            take_statistics(self._engine)
        progress(changes.due, changes.due)
        return result

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    # -- where to go on -----------------------------------------------------------------------

    def _begin(self, now: float, progress: Progress, result: Refreshed) -> Poll:
        loaded: Loaded | None = None
        self._known = self._in_the_index()
        if not self._known and (loaded := self._sharing.take(now, progress)):
            result.changed += loaded.entities
            self._known = self._in_the_index()
        mark = self._kept_mark(now, loaded)
        poll = Poll(self._store, self._known, mark=mark)
        if loaded and mark:
            poll.again(loaded.unsettled)
        return poll

    def _in_the_index(self, which: Set[EntityId] | None = None) -> dict[EntityId, Version]:
        with self._engine.begin() as connection:
            return versions_of(connection, which)

    def _look_again(self, poll: Poll) -> None:
        """Tell a poll at which versions what is due is by now: others write to the index, too."""
        due = poll.due
        versions = self._in_the_index(due if len(due) <= _BATCH else None)
        for entity_id in due:
            self._known.pop(entity_id, None)
        self._known |= {each: versions[each] for each in due & versions.keys()}
        poll.is_known(versions)

    def _kept_mark(self, now: float, loaded: Loaded | None) -> Mark | None:
        """Return from where to go on without listing the bucket; None where it is to be listed."""
        if loaded:
            mark, self._listed = loaded.mark, loaded.head.listed
        else:
            with self._engine.begin() as connection:
                row = connection.execute(sa.select(MARK)).first()
            if row is None:
                return None
            mark, self._listed = Mark(row.log_id, row.sequence, json.loads(row.open)), row.listed
            self._mark = mark
        # A clock that was set back is no reason to wait for longer.
        recently = 0 <= now - self._listed < LISTING_EVERY
        return mark if recently and len(self._known) > self._few else None

    def _keep_mark(
        self, connection: sa.Connection, mark: Mark | None, listed: float | None
    ) -> None:
        """Keep a mark where it says something new; `listed` is when the bucket was, if just now."""
        if mark is None or (listed is None and mark.same_place(self._mark)):
            return
        self._mark = mark
        self._listed = self._listed if listed is None else listed
        kept = json.dumps({key: dict(writers) for key, writers in mark.open.items()})
        values = {"log_id": mark.log_id, "sequence": mark.sequence, "open": kept}
        connection.execute(MARK.delete())
        connection.execute(MARK.insert().values(listed=self._listed, **values))

    # -- one batch ----------------------------------------------------------------------------

    def _import(self, batch: list[Prepared], result: Refreshed) -> None:
        now_ms, root = self._now_ms(), self._store.artifact_root
        try:
            with writing(self._engine) as connection:
                newest = self._not_overtaken(connection, batch)
                new = {each.id for each in newest if each.id not in self._known}
                outcomes = import_changes(connection, newest, now_ms, root, new=new)
        except REFUSED:
            outcomes = []
            for change in batch:
                with writing(self._engine) as connection:
                    for each in self._not_overtaken(connection, [change]):
                        outcomes += import_alone(connection, each, now_ms, root)
        for done in outcomes:
            result.problems.pop(done.id, None)
            if done.problem:
                result.problems[done.id] = done.problem
            if done.version == ABSENT:
                self._known.pop(done.id, None)
                result.removed += 1
            else:
                self._known[done.id] = done.version
                result.changed += not done.problem

    def _not_overtaken(self, connection: sa.Connection, batch: list[Prepared]) -> list[Prepared]:
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

    def _waiting(self, touched: set[str] | None) -> list[EntityId]:
        """Return what waits for one of these objects, or for any."""
        waits = ENTITIES.c.waits_for != sa.literal_column("''")  # as the index of them has it
        query = sa.select(ENTITIES.c.key, ENTITIES.c.waits_for).where(waits)
        with self._engine.begin() as connection:
            found = connection.execute(query).all()
        ids = [parse_key(key) for key, other in found if touched is None or other in touched]
        return [entity_id for entity_id in ids if entity_id is not None]


def _batches(changes: Iterable[Change]) -> Iterator[list[Prepared]]:
    batch: list[Prepared] = []
    size = 0
    for change in changes:
        if batch and batch[-1].id.kind is not change.id.kind:
            yield batch
            batch, size = [], 0
        batch.append(prepare(change))
        size += sum(map(len, change.entity.files.values())) if change.entity else 0
        del change  # which may be large, while the next one is fetched
        if len(batch) >= _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
