"""Metric points, read from the runs' own objects in the bucket when somebody asks for them.

The index keeps none: they would be nine tenths of it, and no search asks for them. A run's points
are parsed once, into arrays, and stay in memory as long as there is room.

1. The index is believed about a run's version: points of that very version cost no request. All
   others cost one conditional request, and what comes then may be newer than the index.
2. A bucket that cannot be reached is left alone for some seconds. Until it is back, what was read
   before is served.
3. A broken object takes away its own run alone, and is an error where no other run can be read. If
   the run was read before, its last good points stay, as its rows in the index do.
4. However many runs are asked for, and however long they are, few of them are in memory at once.

This needs no MLflow.
"""

import logging
import math
import threading
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from operator import le, lt

import sqlalchemy as sa

from kaggleops.bucket import AT_MOST, BucketError, ObjectNotFoundError, ObjectTooLargeError, Version
from kaggleops.index.database import versions_of
from kaggleops.index.rows import check_room, point_fields, storable
from kaggleops.layout import EntityId, run
from kaggleops.mlruns import BrokenEntityError, EntityStore
from kaggleops.mlruns.archive import unpack

_WORKERS = 16
_AHEAD = 2 * _WORKERS  # runs that are read before they are asked for
_AT_ONCE = 1 << 20
"""Bytes: an object that is larger is read while no other large one is, when its turn has come."""

_ROOM = 32 << 20  # bytes of points that are kept
_OF_RUN, _OF_CURVE = 500, 500  # bytes that they take besides their points
_LEFT_ALONE = 5.0  # seconds for which a bucket that was out of reach is not asked again
_CHUNK = 500  # ids in a query

_RUNS = sa.table("runs", sa.column("run_uuid"), sa.column("experiment_id"))
_log = logging.getLogger("kaggleops")


@dataclass(frozen=True)
class Curve:
    """The points of a run's metric, in the order of time, step and value; none is there twice."""

    # in milliseconds since the epoch
    times: "array[int]" = field(default_factory=lambda: array("q"))
    steps: "array[int]" = field(default_factory=lambda: array("q"))  # their steps
    # as MLflow's tables have them (the largest number for an infinity), but for NaN
    values: "array[float]" = field(default_factory=lambda: array("d"))

    @property
    def size(self) -> int:
        """The bytes that it takes."""
        return _OF_CURVE + 3 * 8 * len(self.times)

    def by_step(self, first: int | None = None, last: int | None = None) -> Sequence[int]:
        """Return the places of the points from one step to another, in the order of the steps.

        Those of a step are in the order of time and value.
        """
        places: Sequence[int] = range(len(self.steps))
        if not all(map(le, self.steps, islice(self.steps, 1, None))):
            places = sorted(places, key=self.steps.__getitem__)  # which leaves equal ones in order
        begin, end = 0, len(places)
        if first is not None:
            begin = bisect_left(places, first, key=self.steps.__getitem__)
        if last is not None:
            end = bisect_right(places, last, key=self.steps.__getitem__)
        return places[begin:end]


def sampled(places: Sequence[int], most: int) -> list[int]:
    """Return at most so many places, evenly spread, the last among them.

    They are those that MLflow's SQL takes: the first of each of `most` parts (NTILE), and the last
    place of all instead of the last part's first.
    """
    share, more = divmod(len(places), most)
    if not share:
        return list(places)
    chosen = [places[part * share + min(part, more)] for part in range(most)]
    return [*chosen[:-1], places[-1]]


_ABSENT = Curve()


@dataclass(frozen=True)
class _Points:
    """A run's points at a version; or why there are none."""

    version: Version
    curves: Mapping[str, Curve] = field(default_factory=dict)
    problem: BrokenEntityError | None = None

    @property
    def size(self) -> int:
        names = sum(map(len, self.curves))
        return _OF_RUN + names + sum(curve.size for curve in self.curves.values())


class PointReader:
    """Reads the points of an index's runs, and keeps `room` bytes of them. Thread-safe."""

    def __init__(
        self,
        engine: sa.Engine,
        store: EntityStore,
        *,
        room: int = _ROOM,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._store = store
        self._room = room
        self._clock = clock
        self._kept: OrderedDict[EntityId, _Points] = OrderedDict()  # the least recently used first
        self._taken = 0
        self._reading: dict[tuple[EntityId, Version | None], Future[_Points]] = {}
        self._lock = threading.Lock()
        self._unpacking = threading.Lock()  # so that few are unpacked in memory
        self._large = threading.Lock()
        self._pool = ThreadPoolExecutor(_WORKERS)
        self._away: BucketError | None = None
        self._away_until = 0.0

    def of(self, run_id: str, metric: str) -> Curve:
        """Return the points of a run's metric, as `read`: none of one that the index lacks."""
        return next((curve for _, curve in self.read([run_id], metric)), _ABSENT)

    def read(self, run_ids: Sequence[str], metric: str) -> Iterator[tuple[str, Curve]]:
        """Yield runs in this order, each with the points of the metric; without those unknown.

        Sixteen are read at a time. One that cannot be read is left out; where none can, that is a
        BrokenEntityError. A BucketError: the bucket cannot be reached, and one was not read before.
        """
        places = self._places(run_ids)
        upcoming = iter([run_id for run_id in run_ids if run_id in places])
        begun: deque[tuple[str, Future[_Points]]] = deque()
        problem, readable = None, False
        while True:
            for run_id in islice(upcoming, _AHEAD - len(begun)):
                begun.append((run_id, self._begin(*places[run_id])))
            if not begun:
                break
            run_id, future = begun.popleft()
            found = future.result()
            del future
            if found.problem is not None:
                problem = problem or found.problem
                continue
            readable = True
            curve = found.curves.get(metric, _ABSENT)
            del found  # which may be large, while the next one is read
            yield run_id, curve
        if problem is not None and not readable:
            raise problem.with_traceback(None)

    def _places(self, run_ids: Sequence[str]) -> dict[str, tuple[EntityId, Version | None]]:
        """Return which entity each run is, and at which version the index has it."""
        found: dict[str, tuple[EntityId, Version | None]] = {}
        with self._engine.connect() as connection:
            for start in range(0, len(run_ids), _CHUNK):
                asked = run_ids[start : start + _CHUNK]
                homes = sa.select(_RUNS.c.run_uuid, _RUNS.c.experiment_id)
                rows = connection.execute(homes.where(_RUNS.c.run_uuid.in_(asked)))
                ids = {run_id: run(str(home), run_id) for run_id, home in rows}
                versions = versions_of(connection, ids.values())
                found |= {name: (each, versions.get(each)) for name, each in ids.items()}
        return found

    def _begin(self, entity_id: EntityId, version: Version | None) -> Future[_Points]:
        """Return what is kept of a run at this version, or what is about to be read of it."""
        with self._lock:
            kept = self._kept.get(entity_id)
            if kept is not None and kept.version == version:
                self._kept.move_to_end(entity_id)
                there: Future[_Points] = Future()
                there.set_result(kept)
                return there
            # A page with eight charts asks eight times at once.
            asked = (entity_id, version)
            if asked not in self._reading:
                self._reading[asked] = self._pool.submit(self._look, *asked)
            return self._reading[asked]

    def _look(self, entity_id: EntityId, version: Version | None) -> _Points:
        try:
            try:
                return self._asked(entity_id, _AT_ONCE)
            except ObjectTooLargeError:
                with self._large:
                    return self._asked(entity_id, AT_MOST)
        finally:
            with self._lock:
                del self._reading[entity_id, version]

    def _asked(self, entity_id: EntityId, at_most: int) -> _Points:
        with self._lock:
            kept = self._kept.get(entity_id)
            away = self._away if self._clock() < self._away_until else None
        unless = kept.version if kept else None
        try:
            if away is not None:
                raise away.with_traceback(None)
            found = self._store.bucket.read(entity_id.key, unless=unless, at_most=at_most)
        except ObjectNotFoundError:
            self._keep(entity_id, None)
            return _Points("")
        except ObjectTooLargeError as error:
            if at_most < AT_MOST:
                raise
            problem = BrokenEntityError(error.doing, error.problem)
            points = _Points(error.version, problem=problem)
        except BucketError as error:
            if away is None:
                with self._lock:
                    self._away, self._away_until = error, self._clock() + _LEFT_ALONE
            if kept is None:
                raise
            return kept
        else:
            if found is None:
                assert kept is not None  # noqa: S101 - else it was read unconditionally
                return kept
            points = self._parsed(entity_id, found.version, found.data)
        if points.problem is not None:
            _log.warning("The points of a run cannot be read: %s", points.problem)
            if kept is not None and kept.problem is None:
                points = replace(kept, version=points.version)
        self._keep(entity_id, points)
        return points

    def _parsed(self, entity_id: EntityId, version: Version, data: bytes) -> _Points:
        where = self._store.bucket.object_uri(entity_id.key)
        with self._unpacking:
            try:
                entity = unpack(data, entity_id, where)
                check_room(entity)
                metrics = {
                    path.removeprefix("metrics/"): content
                    for path, content in entity.files.items()
                    if path.startswith("metrics/")
                }
                return _Points(version, {name: _curve(metrics[name]) for name in metrics})
            except BrokenEntityError as error:
                return _Points(version, problem=error)
            except ValueError as error:
                return _Points(version, problem=BrokenEntityError(f"reading {where}", str(error)))

    def _keep(self, entity_id: EntityId, points: _Points | None) -> None:
        with self._lock:
            if (before := self._kept.pop(entity_id, None)) is not None:
                self._taken -= before.size
            if points is not None and points.size <= self._room:
                self._kept[entity_id] = points
                self._taken += points.size
            while self._taken > self._room:
                self._taken -= self._kept.popitem(last=False)[1].size


def _curve(data: bytes) -> Curve:
    times, steps, values = array("q"), array("q"), array("d")
    for fields in point_fields(data):
        times.extend(_numbers(list(map(int, fields[::3]))))
        steps.extend(_numbers(list(map(int, fields[2::3]))))
        values.extend(map(float, fields[1::3]))
    # As a rule each point has a time or a step of its own, and they come in this order.
    after = zip(islice(times, 1, None), islice(steps, 1, None), strict=True)
    if not all(map(lt, zip(times, steps, strict=True), after)):
        points = zip(times, steps, map(storable, values), map(math.isnan, values), strict=True)
        times, steps, values = array("q"), array("q"), array("d")
        # Each that is there twice once, and not by way of a set: that takes twice the memory.
        for (time_ms, step, value, no_number), _ in groupby(sorted(points)):
            times.append(time_ms)
            steps.append(step)
            values.append(math.nan if no_number else value)
    for place, value in enumerate(values):
        if math.isinf(value):
            values[place] = storable(value)
    return Curve(times, steps, values)


def _numbers(several: Sequence[int]) -> "array[int]":
    """Return what a column of 64 bits keeps of numbers."""
    try:
        return array("q", several)
    except OverflowError:
        return array("q", (max(-(2**63), min(2**63 - 1, number)) for number in several))
