"""Which runs are running: told from their status, and from when they were last heard.

A runner that vanishes (a notebook's time was up, a machine was taken away) leaves its run RUNNING.
But every write of a live run promises within how long the next will come. No two machines' clocks
are compared with each other: when a run was last heard is when its object was last written, which
the bucket knows.
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from kaggleops.bucket import ABSENT, Entry, ObjectNotFoundError, Version
from kaggleops.layout import EntityId, Kind
from kaggleops.mlruns.entity import BrokenEntityError, Entity
from kaggleops.mlruns.store import EntityStore
from kaggleops.tags import FOLDS, SWEEP

RUN_STATUSES = (None, "RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")
"""The names of MLflow's statuses, each in the place of its number (mlflow.entities.RunStatus)."""

LOST = "LOST"
"""Shown beside MLflow's own statuses: its runner has not been heard for too long."""

UNREADABLE = "UNREADABLE"
"""Shown in place of a status: its object cannot be read."""

OPEN = ("SCHEDULED", "RUNNING")
"""The statuses of runs that have not ended."""

_BEATS = 2  # so many have to be missing: one may be late
_UNPROMISED = 24 * 3600  # seconds; for runs by tools that promise nothing
_WORKERS = 16


@dataclass(frozen=True)
class RunState:
    """What is known of one run."""

    id: EntityId  # the run's
    status: str  # MLflow's status, LOST or UNREADABLE
    heard_ms: int  # when it was last heard, in milliseconds since the epoch
    name: str = ""  # the run's
    tags: Mapping[str, str] = field(default_factory=dict)  # those that are known
    # the seconds without a write after which it is lost; None if it does not run
    may_be_silent: int | None = None
    version: Version = ABSENT  # the object's that all this was told from
    problem: str = ""  # why its object cannot be read, or ""
    began_ms: int = 0  # in milliseconds since the epoch; 0 if not known
    ended_ms: int | None = None  # likewise; None while it has not
    params: Mapping[str, str] = field(default_factory=dict)  # those that are known
    # the last value of each metric that is known, none of the machine's load
    metrics: Mapping[str, float] = field(default_factory=dict)
    step: int | None = None  # the last one that it logged of these

    @property
    def promise(self) -> int:
        """Within how many seconds it is to be heard again; 0 where nobody has promised that."""
        allowed = self.may_be_silent or 0
        return 0 if allowed == _UNPROMISED else allowed // _BEATS


def silence_allowed(entity: Entity) -> int | None:
    """Return after how many seconds without a write a run is lost; None if it does not run.

    Nor does the parent of a sweep, or of a trial's folds: nothing runs but its children.
    """
    if f"tags/{SWEEP}" in entity.files or f"tags/{FOLDS}" in entity.files:
        return None
    if entity.meta.get("status") != RUN_STATUSES.index("RUNNING"):
        return None
    return _BEATS * entity.notes.promise or _UNPROMISED


def state_of(entity: Entity, version: Version, heard_ms: int, now_ms: int) -> RunState:
    """Return what a run's object at a version says of it.

    `heard_ms` is when that was last written, `now_ms` the time by a clock that agrees with the
    bucket's; both in milliseconds since the epoch.
    """
    number: Any = entity.meta.get("status")
    known: Mapping[Any, str | None] = dict(enumerate(RUN_STATUSES[1:], 1))
    status, name = str(known.get(number, "UNKNOWN")), str(entity.meta.get("run_name") or "")
    last = dict(_last_points(entity))
    told = RunState(
        entity.id,
        status,
        heard_ms,
        name,
        _texts(entity, "tags/"),
        silence_allowed(entity),
        version,
        began_ms=entity.meta.get("start_time") or 0,
        ended_ms=entity.meta.get("end_time"),
        params=_texts(entity, "params/"),
        metrics={metric: value for metric, (_, value) in last.items()},
        step=max((step for step, _ in last.values()), default=None),
    )
    return _heard(told, heard_ms, now_ms)


def _texts(entity: Entity, folder: str) -> dict[str, str]:
    return {
        path.removeprefix(folder): value.decode(errors="replace")
        for path, value in entity.files.items()
        if path.startswith(folder)
    }


def _last_points(entity: Entity) -> Iterator[tuple[str, tuple[int, float]]]:
    """Yield each metric's last step and value, but for those of the machine's load."""
    for path, points in entity.files.items():
        metric = path.removeprefix("metrics/")
        if metric != path and not metric.startswith("system/"):
            with suppress(ValueError, IndexError):
                fields = points.rstrip().rsplit(b"\n", 1)[-1].split()
                yield metric, (int(fields[2]) if len(fields) > 2 else 0, float(fields[1]))


def run_state(store: EntityStore, run: EntityId, now_ms: int) -> RunState:
    """Return what is known of one run, or raise `ObjectNotFoundError`."""
    if (state := _looked_at(store, RunState(run, "", 0), now_ms)) is None:
        raise ObjectNotFoundError(f"looking for {run}", "the bucket has none of that id")
    return state


def look_at(store: EntityStore, known: Iterable[RunState], now_ms: int) -> list[RunState]:
    """Return runs as the bucket has them now, without those that are gone.

    Costs two requests of class B for each, and one where the object is at the version that is
    known.
    """
    with ThreadPoolExecutor(_WORKERS) as pool:
        looked = pool.map(lambda state: _looked_at(store, state, now_ms), known)
        return [state for state in looked if state is not None]


def recent_runs(store: EntityStore, since_ms: int, now_ms: int) -> list[RunState]:
    """Return the runs written since then (ms): one listing, and a read each."""
    recent = [
        (run, entry)
        for home, _ in store.list(Kind.EXPERIMENT)
        for run, entry in store.list(Kind.RUN, home.experiment_id)
        if entry.updated_ms >= since_ms
    ]
    with ThreadPoolExecutor(_WORKERS) as pool:
        return list(pool.map(lambda found: _read(store, found[0], found[1], now_ms), recent))


def last_written(store: EntityStore, experiment_id: str) -> list[EntityId]:
    """Return an experiment's runs, the one that was written last first: one listing."""
    listed = sorted(store.list(Kind.RUN, experiment_id), key=lambda each: -each[1].updated_ms)
    return [run for run, _ in listed]


def _looked_at(store: EntityStore, known: RunState, now_ms: int) -> RunState | None:
    entry = store.bucket.stat(known.id.key)
    if entry is None:
        return None
    if entry.version == known.version:
        return _heard(known, entry.updated_ms, now_ms)
    return _read(store, known.id, entry, now_ms)


def _read(store: EntityStore, run: EntityId, entry: Entry, now_ms: int) -> RunState:
    try:
        stored = store.read(run)
        return state_of(stored.entity, stored.version, entry.updated_ms, now_ms)
    except (BrokenEntityError, ObjectNotFoundError) as error:
        return RunState(run, UNREADABLE, entry.updated_ms, problem=str(error))


def _heard(told: RunState, heard_ms: int, now_ms: int) -> RunState:
    """Return a run's state with when its object was written, and so whether it is lost."""
    allowed = told.may_be_silent
    lost = allowed is not None and (now_ms - heard_ms) / 1000 > allowed
    return replace(told, heard_ms=heard_ms, status=LOST if lost else told.status)
