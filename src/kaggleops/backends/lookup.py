"""Which backends there are, which of them has a run, and how a run that ended goes on."""

import functools
import logging
import re
import time
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_GIT_BRANCH, MLFLOW_GIT_COMMIT, MLFLOW_GIT_REPO_URL

from kaggleops.backends.base import Backend, RemoteRun
from kaggleops.backends.code import address_of_known
from kaggleops.backends.config import AnyConfig
from kaggleops.backends.downloads import Downloaded, download_artifacts
from kaggleops.backends.interface import is_ended
from kaggleops.bucket.location import bucket_uri
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.git.commits import Commit, has_commit
from kaggleops.git.project_files import write_project_files
from kaggleops.launch import legs
from kaggleops.launch.checkout import refuse_data_from_here
from kaggleops.launch.launcher import refuse_to_go_on, temporary_folder
from kaggleops.mlruns import run as entity_of
from kaggleops.mlruns.liveness import LOST, run_state
from kaggleops.platforms.http import NotThereError
from kaggleops.tags import (
    CANCELLED,
    FAILURE,
    JOB_ENDED,
    LEGS,
    PRUNED,
    SUBMITTED_TO,
    TO_BE_CONTINUED,
)
from kaggleops.tracking.session import session
from kaggleops.tracking.store import BucketTrackingStore

_log = logging.getLogger("kaggleops")


@functools.cache
def _plugins() -> EntryPoints:
    return entry_points(group="mlflow.project_backend")  # where MLflow looks for them, too


def names() -> list[str]:
    """Return the names of all backends."""
    return sorted(_plugins().names)


def backend_named(name: str) -> Backend[Any]:
    """Return a backend; UsageError if there is none of that name."""
    found = _plugins().select(name=name)
    backend = next(iter(found)).load()() if found else None
    if not isinstance(backend, Backend):
        hint = f"There are: {', '.join(names())}."
        raise UsageError(f"choosing the backend {name!r}", "there is none of that name", hint)
    return backend


def submitted_run(tracking_uri: str, run_id: str, hint: str = "") -> RemoteRun:
    """Return a run that somebody submitted, on any machine; UsageError, with a hint, if not."""
    doing = f"looking for run {run_id}"
    tags = _run(tracking_uri, run_id, doing).data.tags
    if SUBMITTED_TO not in tags:
        problem = "it was not submitted to a backend"
        printed = f"What it printed is its artifact output.txt: kaggleops download {run_id}"
        raise UsageError(doing, problem, hint or printed)
    return RemoteRun(backend_named(tags[SUBMITTED_TO]), tracking_uri, run_id)


def download(tracking_uri: str, run_id: str, folder: Path | None = None) -> tuple[Path, Downloaded]:
    """Bring what a run has left, wherever it ran, and return the folder that has it.

    By default that is `results/NAME-ID`, NAME being the run's and ID the first digits of its id.
    Raises UsageError if there is no such run. Where its platform's files cannot be had, a problem
    says so.
    """
    run = _run(tracking_uri, run_id, f"downloading run {run_id}")
    name = re.sub(r"[^\w.-]+", "-", run.info.run_name or "run").strip(".-")
    folder = folder or Path("results", f"{name}-{run_id[:8]}")
    done = download_artifacts(mlflow.MlflowClient(tracking_uri), run_id, folder)
    if backend := run.data.tags.get(SUBMITTED_TO):
        try:
            job = RemoteRun(backend_named(backend), tracking_uri, run_id)
            left = job.download(folder / "output")
        except NotThereError as error:  # somebody cleaned up, or it is another user's
            _log.warning("Of its job nothing is downloaded: %s.", error.problem)
            left = Downloaded()
        except KaggleOpsError as error:  # its artifacts are here all the same
            left = Downloaded(problems=[str(error)])
        done = Downloaded([*done.files, *left.files], [*done.problems, *left.problems])
    return folder, done


def resume(
    backend: Backend[AnyConfig],
    tracking_uri: str,
    run_id: str,
    config: AnyConfig,
    repository: Path = Path(),
) -> RemoteRun:
    """Hand a run to a backend once more: one that failed, was cancelled, or lost its machine.

    Its commit, which `repository` alone may have, and its parameters stay. One that is SCHEDULED
    with the same backend may have been handed over already, by somebody who did not get the answer:
    then it is found there, and nothing is sent twice. Raises UsageError if there is no such run, it
    has finished, or it is running; else what `Backend.submit` does.
    """
    doing = f"resuming run {run_id}"
    run = _run(tracking_uri, run_id, doing)
    tags = run.data.tags
    if MLFLOW_GIT_COMMIT not in tags:
        raise UsageError(doing, "it is pinned to no commit")
    refuse_to_go_on(run, doing)
    _refuse_unless_it_stands_still(backend, tracking_uri, run, doing)
    commit = Commit(
        repository=repository.absolute(),
        sha=tags[MLFLOW_GIT_COMMIT],
        subject="",
        branch=tags.get(MLFLOW_GIT_BRANCH, ""),
        origin=tags.get(MLFLOW_GIT_REPO_URL, ""),
    )
    if not backend.runs_here and has_commit(commit.repository, commit.sha):
        with temporary_folder() as folder:
            refuse_data_from_here(commit, write_project_files(commit, folder / "code"), doing)
    address = address_of_known(commit, bucket_uri(tracking_uri))
    backend.check(tracking_uri, config)
    store = BucketTrackingStore(tracking_uri)
    if run.info.status != "SCHEDULED":
        run = mlflow.MlflowClient(tracking_uri).get_run(run_id)  # its end may be known only now
        store.set_tag(run_id, RunTag(LEGS, legs.to_tag(legs.ended(run))))
        store.update_run_info(run_id, RunStatus.SCHEDULED, None, None)
        for tag in {JOB_ENDED, CANCELLED, FAILURE, PRUNED} & tags.keys():
            store.delete_tag(run_id, tag)
    resumed = backend.hand_over(run, address, tracking_uri, config)
    if TO_BE_CONTINUED in tags:
        # Not before: who would not come so far would leave a run that waits for nothing.
        store.delete_tag(run_id, TO_BE_CONTINUED)
        store.flush()
    return resumed


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
    leg_ended = status == "SCHEDULED" and TO_BE_CONTINUED in run.data.tags
    if status == "RUNNING" and submitted_to:
        # Its job may have ended without a word.
        status = RemoteRun(backend_named(submitted_to), tracking_uri, run_id).get_status()
    if status == "FINISHED":
        raise UsageError(doing, "it has finished", "Run its commit anew: `kaggleops run`.")
    if submitted_to == backend.name and (leg_ended or is_ended(status)):
        state = None
        try:
            state = RemoteRun(backend, tracking_uri, run_id).state()
        except KaggleOpsError:
            if leg_ended:
                raise  # else it was deleted there, and has ended
        # Another job would be taken for this one.
        if state and (state.status == "RUNNING" or (leg_ended and not state.ended)):
            raise UsageError(doing, "its job has not ended yet", "Try again.")
    elif status == "SCHEDULED" and not leg_ended and submitted_to not in (None, backend.name):
        hint = f"First `kaggleops cancel {run_id}`, or resume it there."
        raise UsageError(doing, f"it waits for a machine of {submitted_to}", hint)
    if status == "RUNNING":
        store = session(bucket_uri(tracking_uri)).working.store
        now_ms = time.time_ns() // 1_000_000
        if run_state(store, entity_of(run.info.experiment_id, run_id), now_ms).status != LOST:
            raise UsageError(doing, "it is running", f"First `kaggleops cancel {run_id}`.")
