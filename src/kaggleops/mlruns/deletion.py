"""Runs deleted for good, with what belongs to them: logged models, traces, artifacts, jobs' logs.

What belongs to a run goes before the run itself. So a deletion that breaks off can be repeated: as
long as the run is there, it says what else there is.

The bucket's own safety nets (old versions, soft deletion), other copies of the bucket and what was
registered in the model registry are not touched: see docs/moving.md.
"""

import gzip
import secrets
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kaggleops.bucket import ABSENT, Bucket, ConflictError, Entry
from kaggleops.errors import UsageError
from kaggleops.layout import ARTIFACTS, INDEX_KEY, LEFT_BY_JOBS, EntityId, Kind, is_run_id
from kaggleops.mlruns.change_log import ATTEMPTS, pause
from kaggleops.mlruns.entity import META, Entity, parse_yaml
from kaggleops.mlruns.export import WORKERS, Progress
from kaggleops.mlruns.liveness import run_state
from kaggleops.mlruns.locations import artifact_location, artifact_path
from kaggleops.mlruns.store import EntityStore
from kaggleops.tags import SOURCE_RUN, USER


@dataclass(frozen=True)
class Belongings:
    """What is to be deleted."""

    runs: tuple[EntityId, ...]  # the runs
    others: tuple[EntityId, ...] = ()  # the logged models and traces that they made
    artifacts: tuple[Entry, ...] = ()  # the objects of all of these
    # the logs and executed notebooks that the runs' jobs put into the bucket
    left_by_jobs: tuple[Entry, ...] = ()
    elsewhere: tuple[str, ...] = ()  # where artifacts lie that are not in the bucket
    # names of registered models with versions that were made from these runs
    registered: tuple[str, ...] = ()


def runs_by_id(store: EntityStore, run_ids: Iterable[str]) -> list[Entity]:
    """Return runs by their ids; raise `UsageError` for one that the bucket does not have."""
    runs = []
    for run_id in run_ids:
        found = store.find(Kind.RUN, run_id) if is_run_id(run_id) else None
        if found is None:
            hint = "`kaggleops status` lists the last ones."
            problem = f"{store.bucket.uri} has no such run"
            raise UsageError(f"looking for run {run_id}", problem, hint)
        # Also one that cannot be read can be deleted.
        runs.append(store.readable(found) or Entity(found, {}))
    return runs


def runs_of(store: EntityStore, user: str, among: Iterable[EntityId] | None = None) -> list[Entity]:
    """Return all runs of a user, as MLflow calls them (the tag `mlflow.user`).

    `among` are those that may be theirs; by default all, each of which is read.
    """
    runs = _all(store, Kind.RUN) if among is None else _readable(store, among)
    return [run for run in runs if _text(run, f"tags/{USER}") == user]


def belongings(store: EntityStore, runs: Sequence[Entity], now_ms: int) -> Belongings:
    """Return what is to be deleted along with runs; `now_ms` is in ms since the epoch.

    Raises UsageError if one of them is running, and would be written again at its next heartbeat.
    """
    for run in runs:
        status = run_state(store, run.id, now_ms).status
        if status in ("RUNNING", "SCHEDULED"):
            hint = f"Stop it first: kaggleops cancel {run.id.name}"
            raise UsageError(f"deleting run {run.id.name}", f"it is {status}", hint)
    ids = {run.id.name for run in runs}
    homes = sorted({run.id.experiment_id for run in runs})
    models, traces = _all(store, Kind.LOGGED_MODEL, homes), _all(store, Kind.TRACE, homes)
    others = [each for each in models if each.meta.get("source_run_id") in ids]
    of_run = f"request_metadata/{SOURCE_RUN}"
    others += [each for each in traces if _text(each, of_run) in ids]
    owners = [*runs, *others]
    registered = _all(store, Kind.REGISTERED_MODEL, [""])
    own = {each.id: store.artifact_root + artifact_path(each.id) for each in owners}
    places = [(artifact_location(each), own[each.id]) for each in owners if each.files]
    return Belongings(
        runs=tuple(each.id for each in runs),
        others=tuple(each.id for each in others),
        artifacts=tuple(
            entry
            for each in owners
            for entry in store.bucket.list(f"{ARTIFACTS}{artifact_path(each.id)}/")
        ),
        left_by_jobs=tuple(
            entry
            for each in runs
            for place in LEFT_BY_JOBS
            for entry in store.bucket.list(place.format(each.id.name))
        ),
        elsewhere=tuple(place for place, usual in places if place and place != usual),
        registered=tuple(each.id.name for each in registered if _versions_stem_from(each, ids)),
    )


def forget(store: EntityStore, found: Belongings, progress: Progress = lambda *_: None) -> None:
    """Delete it all for good. What a `BucketError` leaves can be deleted by a repetition."""
    objects = [entry.key for entry in (*found.artifacts, *found.left_by_jobs)]
    total, done = len(objects) + len(found.others) + len(found.runs), 0
    store.announce([*found.others, *found.runs])
    steps: tuple[tuple[Callable[..., None], Iterable[str | EntityId]], ...] = (
        (store.bucket.delete, objects),
        (store.delete, found.others),
        (store.delete, found.runs),
    )
    _empty_snapshot(store.bucket)  # now, as a deletion that breaks off may never be repeated
    with ThreadPoolExecutor(WORKERS) as pool:
        for delete, those in steps:
            for _ in pool.map(delete, those):
                done += 1
                progress(done, total)
    _empty_snapshot(store.bucket)  # and once more, as others may have written it meanwhile
    store.close()


def _empty_snapshot(bucket: Bucket) -> None:
    """Leave no rows of what was deleted in the snapshot of the index (index/sharing.py).

    Not deleted: whoever is about to write one that was not there, of rows that it has read before,
    sees that it is another now. So it is each time: on S3 the same content is the same version.
    """
    empty = gzip.compress(b"", mtime=secrets.randbits(32))
    for attempt in range(ATTEMPTS):
        there = bucket.stat(INDEX_KEY)
        try:
            bucket.write(INDEX_KEY, empty, expected=there.version if there else ABSENT)
            return
        except ConflictError:
            if attempt == ATTEMPTS - 1:
                raise
            pause(attempt)


def _all(store: EntityStore, kind: Kind, homes: Iterable[str] | None = None) -> list[Entity]:
    """Return the readable entities of a kind, in these experiments or in all."""
    if homes is None:
        homes = [each.experiment_id for each, _ in store.list(Kind.EXPERIMENT)]
    return _readable(store, (each for home in homes for each, _ in store.list(kind, home)))


def _readable(store: EntityStore, ids: Iterable[EntityId]) -> list[Entity]:
    with ThreadPoolExecutor(WORKERS) as pool:
        return [entity for entity in pool.map(store.readable, ids) if entity is not None]


def _text(entity: Entity, path: str) -> str:
    return entity.files.get(path, b"").decode(errors="replace")


def _versions_stem_from(registered: Entity, run_ids: set[str]) -> bool:
    metas = [data for path, data in registered.files.items() if path.endswith(f"/{META}")]
    doing = f"reading {registered.id}"
    return any(parse_yaml(data, doing).get("run_id") in run_ids for data in metas)
