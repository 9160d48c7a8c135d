"""Which backends there are, which of them has a run, and how a run that ended goes on."""

import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_GIT_BRANCH, MLFLOW_GIT_COMMIT, MLFLOW_GIT_REPO_URL

from kaggleops.backends.base import Backend
from kaggleops.backends.code import address_of_known
from kaggleops.backends.config import AnyConfig
from kaggleops.backends.remote_run import RemoteRun
from kaggleops.bucket.location import bucket_uri
from kaggleops.errors import UsageError
from kaggleops.git.commits import Commit
from kaggleops.mlruns import run as entity_of
from kaggleops.mlruns.liveness import LOST, run_state
from kaggleops.tags import JOB_ENDED, SUBMITTED_TO
from kaggleops.tracking.session import session
from kaggleops.tracking.store import BucketTrackingStore

_GROUP = "mlflow.project_backend"  # where MLflow looks for them, too


def names() -> list[str]:
    """Return the names of all backends."""
    return sorted(each.name for each in entry_points(group=_GROUP))


def backend_named(name: str) -> Backend[Any]:
    """Return a backend.

    Raises:
        UsageError: there is none of that name.
    """
    found = entry_points(group=_GROUP, name=name)
    backend = next(iter(found)).load()() if found else None
    if not isinstance(backend, Backend):
        hint = f"There are: {', '.join(names())}."
        raise UsageError(f"choosing the backend {name!r}", "there is none of that name", hint)
    return backend


def submitted_run(tracking_uri: str, run_id: str) -> RemoteRun:
    """Return a run that somebody submitted, here or on another machine.

    Raises:
        UsageError: there is no such run, or it was not submitted to a backend.
    """
    doing = f"looking for run {run_id}"
    tags = _run(tracking_uri, run_id, doing).data.tags
    if SUBMITTED_TO not in tags:
        problem = "it was not submitted to a backend, so no platform has a log or files of it"
        raise UsageError(doing, problem, "Its artifacts are in the bucket: `kaggleops ui`.")
    return RemoteRun(backend_named(tags[SUBMITTED_TO]), tracking_uri, run_id)


def resume(
    backend: Backend[AnyConfig], tracking_uri: str, run_id: str, config: AnyConfig
) -> RemoteRun:
    """Hand a run to a backend once more: one that failed, was cancelled, or lost its machine.

    One that is SCHEDULED with the same backend may have been handed over already, by somebody who
    did not get the answer: then it is found there, and nothing is sent twice.

    Args:
        backend: where it goes on.
        tracking_uri: the bucket's.
        run_id: which run; its commit and its parameters stay.
        config: how the platform is to run it.

    Raises:
        UsageError: there is no such run, it has finished, or it is running.
        RefusedError: the platform does not take it.
        KaggleOpsError: the platform does not answer.
    """
    doing = f"resuming run {run_id}"
    run = _run(tracking_uri, run_id, doing)
    tags = run.data.tags
    if MLFLOW_GIT_COMMIT not in tags:
        raise UsageError(doing, "it is pinned to no commit")
    _refuse_unless_it_stands_still(backend, tracking_uri, run, doing)
    commit = Commit(
        repository=Path(),
        sha=tags[MLFLOW_GIT_COMMIT],
        subject="",
        branch=tags.get(MLFLOW_GIT_BRANCH, ""),
        origin=tags.get(MLFLOW_GIT_REPO_URL, ""),
        uncommitted=0,
    )
    address = address_of_known(commit, bucket_uri(tracking_uri))
    backend.check(tracking_uri, config)
    if run.info.status != "SCHEDULED":
        store = BucketTrackingStore(tracking_uri)
        store.update_run_info(run_id, RunStatus.SCHEDULED, None, None)
        if JOB_ENDED in tags:
            store.delete_tag(run_id, JOB_ENDED)
    return backend.hand_over(run, address, tracking_uri, config)


def _run(tracking_uri: str, run_id: str, doing: str) -> Run:
    try:
        return mlflow.MlflowClient(tracking_uri).get_run(run_id)
    except MlflowException as error:
        raise UsageError(doing, error.message, "`kaggleops status` lists the last runs.") from error


def _refuse_unless_it_stands_still(
    backend: Backend[Any], tracking_uri: str, run: Run, doing: str
) -> None:
    run_id, status = run.info.run_id, run.info.status
    submitted_to = run.data.tags.get(SUBMITTED_TO)
    if status == "RUNNING" and submitted_to:
        # Its job may have ended without a word.
        status = RemoteRun(backend_named(submitted_to), tracking_uri, run_id).get_status()
    if status == "FINISHED":
        raise UsageError(doing, "it has finished", "Run its commit anew: `kaggleops run`.")
    if status == "SCHEDULED" and submitted_to not in (None, backend.name):
        hint = f"First `kaggleops cancel {run_id}`, or resume it there."
        raise UsageError(doing, f"it waits for a machine of {submitted_to}", hint)
    if status == "RUNNING":
        store = session(bucket_uri(tracking_uri)).working.store
        now_ms = time.time_ns() // 1_000_000
        if run_state(store, entity_of(run.info.experiment_id, run_id), now_ms).status != LOST:
            raise UsageError(doing, "it is running", f"First `kaggleops cancel {run_id}`.")
