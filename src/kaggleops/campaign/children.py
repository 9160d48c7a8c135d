"""The runs of a sweep: its parent, its trials and their jobs, made so that twice is once.

A job's id follows from its sweep's, so two watchers, or one that was killed half-way, make one run
of it; and a backend finds what it was handed before. The commit's own tags come from the parent:
whoever goes on with a sweep need not have its repository.
"""

import json
import shlex
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import mlflow
from mlflow.entities import LifecycleStage, Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PROJECT_BACKEND

from kaggleops.backends.base import Backend, RemoteRun
from kaggleops.backends.code import address_for_others
from kaggleops.backends.lookup import backend_named
from kaggleops.bucket import Bucket
from kaggleops.bucket.location import bucket_uri
from kaggleops.campaign import parents
from kaggleops.campaign.space import split_of
from kaggleops.campaign.state import OPEN, SweepState
from kaggleops.campaign.sweep import Job, Point, Sweep, fold_id, trial_id
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.git.commits import Commit
from kaggleops.git.project_files import write_project_files
from kaggleops.launch import legs
from kaggleops.launch.launcher import (
    Launch,
    experiment_id_of,
    project_in,
    tags_of,
    temporary_folder,
)
from kaggleops.launch.overrides import Overrides
from kaggleops.launch.presenting import present
from kaggleops.mlruns.folder import now_ms
from kaggleops.platforms.machine import user_name
from kaggleops.reports.trainings import point_told
from kaggleops.tags import (
    BACKEND,
    CANCELLED,
    COMMIT,
    FAILURE,
    FOLD,
    FOLDS,
    JOB_ENDED,
    LEGS,
    PARENT,
    PAUSED,
    POINT,
    PREVIOUS,
    RESUMED,
    RUN_NAME,
    SETTINGS,
    SHORT_COMMIT,
    SUBMITTED_TO,
    SWEEP,
    TO_BE_CONTINUED,
    TOLD,
    TRIAL,
)
from kaggleops.tracking.session import session
from kaggleops.tracking.store import BucketTrackingStore, cancel

_LONGEST_TAG = 8000  # characters that MLflow takes
# What the parent knows and a child is not to have: what it tries, what was said and became of it.
_OF_THE_PARENT = (
    *("sweep", "mlflow.note.", RUN_NAME, PARENT, "mlflow.log-model"),
    *(CANCELLED, PREVIOUS),
)


def begin(commit: Commit, what: Launch, sweep: Sweep, name: str, run_id: str | None = None) -> str:
    """Make the parent run of a sweep over a commit of a repository here, and return its id.

    Nothing runs before a watcher sees it. `what` says where it goes; `name` is its run's. With a
    `run_id`, one that is there already takes more trials, by this sweep's settings.

    Raises:
        UsageError: the commit has no such entry point, or the sweep is too large to be told.
        KaggleOpsError: the commit can be neither fetched by others nor bundled.
    """
    doing = f"beginning a sweep of {commit.sha[:7]}"
    with temporary_folder() as folder:
        files = write_project_files(commit, folder / "code")
        project, entry_point = project_in(files, sweep.entry_point, doing)
        with suppress(UsageError):
            sweep = replace(sweep, gather=bool(project_in(files, "gather", doing)))
        declared = {
            key: None if each.default is None else str(each.default)
            for key, each in entry_point.parameters.items()
        }
    given = Overrides(sweep.overrides, None).as_parameters(declared, doing)
    home = what.experiment or given.get("task") or declared.get("task") or project.name
    bucket = bucket_uri(what.tracking_uri)
    code = address_for_others(commit, bucket, allow_secrets=what.allow_secrets)
    _, folds = split_of(sweep)
    told = replace(sweep, declared=declared, code=code, folds=folds).to_tag()
    if len(told) > _LONGEST_TAG:
        problem = f"what it tries takes {len(told):,} characters, and {_LONGEST_TAG:,} are the most"
        raise UsageError(doing, problem, "Try less at once, or name the choices in a config group.")
    tags = {
        **tags_of(commit, sweep.entry_point),
        RUN_NAME: name,
        SWEEP: told,
        BACKEND: ",".join(sweep.backends),
    }
    store = BucketTrackingStore(what.tracking_uri)
    run = store.schedule_run(
        experiment_id_of(mlflow.MlflowClient(what.tracking_uri), str(home or "Default")),
        user_name(),
        [RunTag(*tag) for tag in tags.items()],
        [],
        run_id=run_id,
        status=RunStatus.RUNNING,
    )
    if run.info.status == "KILLED":
        hint = f"`kaggleops resume {run.info.run_id}`, or begin another one."
        raise UsageError(doing, "it was cancelled", hint)
    if run.data.tags[SWEEP] != told:
        set_tags(what.tracking_uri, run.info.run_id, {SWEEP: told})
    if run.info.status not in OPEN:
        store.update_run_info(run.info.run_id, RunStatus.RUNNING, None, None)
    present(run, session(bucket).working.store)
    session(bucket).flush()
    return str(run.info.run_id)


def make_trial(tracking_uri: str, state: SweepState, number: int, point: Point) -> list[Run]:
    """Make the runs of a trial, those that the bucket lacks; return its jobs'.

    Of a fold set that somebody deleted it returns the set's own run alone, and makes no job.

    Raises UsageError if the entry point does not take the point, else what the bucket does.
    """
    sweep, doing = state.sweep, f"making trial {number} of sweep {state.id}"
    inherited = {
        key: value for key, value in state.tags.items() if not key.startswith(_OF_THE_PARENT)
    }
    if COMMIT not in inherited:
        raise UsageError(doing, "its parent is pinned to no commit")

    def made(
        run_id: str, parent: str, name: str, point: Point, status: int, more: Mapping[str, str]
    ) -> Run:
        items = [*sweep.overrides, *(f"{key}={value}" for key, value in point.items())]
        given = Overrides(items, None).as_parameters(sweep.declared, doing)
        params = {**sweep.declared, **given}.items()
        tags = {
            **inherited,
            SHORT_COMMIT: inherited[COMMIT][:10],
            RUN_NAME: name,
            PARENT: parent,
            TRIAL: str(number),
            POINT: json.dumps(dict(point), sort_keys=True),
            SETTINGS: shlex.join(items),
            **more,
        }
        with _store(tracking_uri, doing) as store:
            return store.schedule_run(
                state.experiment_id,
                state.tags.get("mlflow.user") or user_name(),
                [RunTag(*tag) for tag in tags.items()],
                [Param(key, value) for key, value in params if value is not None],
                run_id=run_id,
                status=status,
            )

    name = f"{state.name}-{number}" if point else state.name
    own, waits = trial_id(state.id, number), RunStatus.SCHEDULED
    if not sweep.folds:
        return [made(own, state.id, name, point, waits, {})]
    if point:
        tags = {FOLDS: json.dumps(list(sweep.folds))}
        run = made(own, state.id, name, point, RunStatus.RUNNING, tags)
        if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
            return [run]
    parent, runs = own if point else state.id, []
    for fold in sweep.folds:
        of_fold = {**point, sweep.fold_axis: fold}
        named = (fold_id(parent, fold), parent, f"{name}-fold{fold}")
        runs.append(made(*named, of_fold, waits, {FOLD: fold}))
    return runs


def is_of(run: Run, number: int, parents_of_it: Container[str]) -> bool:
    """Tell whether a run that was made for a trial still is: nobody deleted it or moved it."""
    tags = run.data.tags
    there = run.info.lifecycle_stage == LifecycleStage.ACTIVE
    return there and tags.get(TRIAL) == str(number) and tags.get(PARENT) in parents_of_it


def job_of(number: int, run: Run) -> Job:
    """Return a run that was just made as a job of its trial."""
    tags = run.data.tags
    point = point_told(tags) or {}
    fold, status = tags.get(FOLD, ""), run.info.status
    return Job(run.info.run_id, number, point, fold, status, tags, begun_ms=run.info.start_time)


def submit(
    backend: Backend[Any],
    tracking_uri: str,
    state: SweepState,
    run_id: str,
    config: Any,
    tags: Mapping[str, str],
) -> RemoteRun | None:
    """Hand a job that waits to a backend, or find it there; raises what `hand_over` does.

    `tags` are written before the platform hears of it. Returns None if the run does not wait any
    more, since somebody cancelled it meanwhile, or not yet, since its last leg has not ended there.
    """
    with _store(tracking_uri, f"submitting run {run_id}") as store:
        run = store.get_run(run_id)
        continued = TO_BE_CONTINUED in run.data.tags
        if continued and _is_there(run, tracking_uri, backend):
            return None  # another job would be taken for this one
        if run.info.status != "SCHEDULED":
            with suppress(KaggleOpsError):  # a job that was deleted there has ended
                if _is_there(run, tracking_uri, backend):
                    return None  # its process is at its end, and would end the next leg, too
            verdict = legs.next_leg(run.data.tags, run.info.status, legs.last_step(run))
            if verdict.what != "continue":
                return None
            store.set_tag(run_id, RunTag(LEGS, legs.to_tag(legs.ended(run))))
            store.update_run_info(run_id, RunStatus.SCHEDULED, None, None)
            for tag in {JOB_ENDED, FAILURE} & run.data.tags.keys():
                store.delete_tag(run_id, tag)
        all_tags = {MLFLOW_PROJECT_BACKEND: backend.name, BACKEND: backend.name, **tags}
        store.log_batch(run_id, [], [], [RunTag(*tag) for tag in all_tags.items()])
        sent = backend.hand_over(run, state.sweep.code, tracking_uri, config)
        if continued:
            # Not before: who would not come so far would leave a run that waits for nothing.
            store.delete_tag(run_id, TO_BE_CONTINUED)
            store.flush()
        return sent


def _is_there(run: Run, tracking_uri: str, next_one: Backend[Any]) -> bool:
    """Tell whether the platform that had a run's last leg still has its job, or another one."""
    name = run.data.tags.get(SUBMITTED_TO)
    if not name:
        return False
    last_one = next_one if name == next_one.name else backend_named(name)
    state = RemoteRun(last_one, tracking_uri, run.info.run_id).state()
    return state is not None and not state.ended


def set_tags(tracking_uri: str, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run, and send them."""
    with _store(tracking_uri, f"writing to run {run_id}") as store:
        store.log_batch(run_id, [], [], [RunTag(*tag) for tag in tags.items()])
        store.flush()


def end(tracking_uri: str, run_id: str, status: str) -> None:
    """End a run, unless it has ended."""
    with _store(tracking_uri, f"ending run {run_id}") as store:
        if store.get_run(run_id).info.status in OPEN:
            store.update_run_info(run_id, RunStatus.from_string(status), now_ms(), None)
            store.flush()


def cancel_job(tracking_uri: str, run_id: str, tags: Mapping[str, str]) -> None:
    """Set a job to KILLED, unless it has ended, with tags that say why."""
    with _store(tracking_uri, f"cancelling run {run_id}") as store:
        if store.get_run(run_id).info.status not in OPEN:
            return
        if tags:
            set_tags(tracking_uri, run_id, tags)
        with suppress(UsageError):  # it ended meanwhile
            cancel(tracking_uri, run_id)


def summarize(tracking_uri: str, state: SweepState, bucket: Bucket) -> list[str]:
    """Bring up to date what the parents of a sweep say; return the ids of those that changed."""
    with _store(tracking_uri, f"summing up sweep {state.id}"):
        changed = parents.keep(state, mlflow.MlflowClient(tracking_uri), bucket)
        session(bucket_uri(tracking_uri)).flush()
        return changed


def resume_sweep(tracking_uri: str, sweep_id: str, below: Iterable[str] = ()) -> None:
    """Let a sweep that was paused or cancelled go on; what failed before does not count.

    Of the runs `below` it, by their ids, those go on that were cancelled with it.
    """
    with _store(tracking_uri, f"resuming sweep {sweep_id}") as store:
        run = store.get_run(sweep_id)
        if run.info.status == "FINISHED":
            raise UsageError(f"resuming sweep {sweep_id}", "it has finished", "Begin another one.")
        set_tags(tracking_uri, sweep_id, {PAUSED: "", TOLD: "", RESUMED: str(now_ms())})
        if since := run.data.tags.get(CANCELLED):
            for each in map(store.get_run, below):
                if each.info.status == "KILLED" and each.data.tags.get(CANCELLED, "") >= since:
                    _resume_with_sweep(store, each)
            store.delete_tag(sweep_id, CANCELLED)
        if run.info.status not in OPEN:
            store.update_run_info(sweep_id, RunStatus.SCHEDULED, None, None)
            store.flush()


def _resume_with_sweep(store: BucketTrackingStore, run: Run) -> None:
    run_id = run.info.run_id
    if FOLDS in run.data.tags:  # it has no process of its own
        store.update_run_info(run_id, RunStatus.RUNNING, None, None)
    else:  # as a leg that the platform has ended
        store.set_tag(run_id, RunTag(JOB_ENDED, "its sweep was cancelled"))
    store.delete_tag(run_id, CANCELLED)


def close_runs(tracking_uri: str) -> None:
    """Tell readers that this process is done with the runs that it wrote: one write for all."""
    session(bucket_uri(tracking_uri)).close_run()


@contextmanager
def _store(tracking_uri: str, doing: str) -> Iterator[BucketTrackingStore]:
    """Yield the store of a bucket, and turn what MLflow raises into one of our errors."""
    try:
        yield BucketTrackingStore(tracking_uri)
    except MlflowException as error:
        raise KaggleOpsError(doing, str(error.message)) from error
