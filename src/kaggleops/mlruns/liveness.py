"""Which runs are running: told from their status, and from when they were last heard.

A runner that vanishes (a notebook's time was up, a machine was taken away) leaves its run RUNNING.
But every write of a live run promises within how long the next will come. No two machines' clocks
are compared with each other: when a run was last heard is when its object was last written, which
the bucket knows.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kaggleops.bucket import Entry, ObjectNotFoundError
from kaggleops.layout import EntityId, Kind
from kaggleops.mlruns.entity import BrokenEntityError, Entity
from kaggleops.mlruns.store import EntityStore

LOST = "LOST"
"""Shown beside MLflow's own statuses: its runner has not been heard for too long."""

_RUNNING = 1  # mlflow.entities.RunStatus
_BEATS = 2  # so many have to be missing: one may be late
_UNPROMISED = 24 * 3600  # seconds; for runs by tools that promise nothing
_WORKERS = 16


@dataclass(frozen=True)
class RunState:
    """What is known of one run.

    Args:
        entity: the run.
        status: MLflow's status, or LOST.
        heard_ms: when it was last heard, in milliseconds since the epoch.
        problem: why its object cannot be read, or "".
    """

    entity: Entity
    status: str
    heard_ms: int
    problem: str = ""


def silence_allowed(entity: Entity) -> int | None:
    """Return after how many seconds without a write a run is lost; None if it does not run."""
    if entity.meta.get("status") != _RUNNING:
        return None
    return _BEATS * entity.notes.promise or _UNPROMISED


def status_of(entity: Entity, heard_ms: int, now_ms: int) -> str:
    """Return a run's status: one of MLflow's, or LOST.

    `heard_ms` is when its object was last written, `now_ms` the time by a clock that agrees with
    the bucket's, both in milliseconds since the epoch.
    """
    # Seconds, which a process that only asks how long a run may be silent need not wait for.
    from mlflow.entities import RunStatus

    status = entity.meta.get("status")
    if status not in RunStatus.all_status():
        return "UNKNOWN"
    allowed = silence_allowed(entity)
    if allowed is not None and (now_ms - heard_ms) / 1000 > allowed:
        return LOST
    return str(RunStatus.to_string(status))


def run_state(store: EntityStore, run: EntityId, now_ms: int) -> RunState:
    """Return what is known of one run, or raise `ObjectNotFoundError`."""
    entry = store.bucket.stat(run.key)
    if entry is None:
        raise ObjectNotFoundError(f"looking for {run}", "the bucket has none of that id")
    return _state(store, run, entry, now_ms)


def recent_runs(store: EntityStore, since_ms: int, now_ms: int) -> list[RunState]:
    """Return the runs written since then (ms), latest first: one listing, and a read each."""
    recent = [(run, entry) for run, entry in _runs(store) if entry.updated_ms >= since_ms]
    with ThreadPoolExecutor(_WORKERS) as pool:
        states = list(pool.map(lambda found: _state(store, found[0], found[1], now_ms), recent))
    return sorted(states, key=lambda state: -state.heard_ms)


def _runs(store: EntityStore) -> Iterator[tuple[EntityId, Entry]]:
    for experiment_id, _ in store.list(Kind.EXPERIMENT):
        yield from store.list(Kind.RUN, experiment_id.experiment_id)


def _state(store: EntityStore, run: EntityId, entry: Entry, now_ms: int) -> RunState:
    try:
        stored = store.read(run)
        assert stored is not None  # noqa: S101 - it was read unconditionally
        status = status_of(stored.entity, entry.updated_ms, now_ms)
        return RunState(stored.entity, status, entry.updated_ms)
    except (BrokenEntityError, ObjectNotFoundError) as error:
        return RunState(Entity(run, {}), "UNREADABLE", entry.updated_ms, str(error))
