"""Run a commit with MLflow: `mlflow.projects.run` on a fresh clone, its run in a bucket."""

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import mlflow
import mlflow.projects
from mlflow.entities import Param, Run, RunTag
from mlflow.exceptions import ExecutionException, MlflowException
from mlflow.projects.utils import load_project
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_BRANCH,
    MLFLOW_GIT_COMMIT,
    MLFLOW_GIT_REPO_URL,
    MLFLOW_PROJECT_BACKEND,
    MLFLOW_PROJECT_ENTRY_POINT,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)

from kaggleops.bucket.location import bucket_uri
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.git.checkouts import clone
from kaggleops.git.command import not_inherited
from kaggleops.git.commits import Commit
from kaggleops.git.patches import apply_patch, write_patch
from kaggleops.launch.overrides import Overrides, check_config_keys
from kaggleops.launch.presentation import present
from kaggleops.mlruns import run as entity_of
from kaggleops.platforms import detect
from kaggleops.platforms.machine import user_name
from kaggleops.resources.places import DATA_ROOT, data_root
from kaggleops.secret_scan import in_file
from kaggleops.tags import SUBMITTED_TO, UNCOMMITTED, of_commit, of_machine
from kaggleops.tracking.session import session

PATCH = "uncommitted.patch"
"""The artifact that holds what a run's code has besides its commit."""


class RunFailedError(KaggleOpsError):
    """The code that was run failed (its own output says why), or was stopped.

    Args:
        status: how the run ended: FAILED or KILLED.
    """

    def __init__(self, status: str, doing: str, problem: str, hint: str) -> None:
        super().__init__(doing, problem, hint)
        self.status = status


@dataclass(frozen=True)
class Launch:
    """What to run, and where its run goes.

    Args:
        tracking_uri: the bucket's tracking URI.
        overrides: what the user set.
        entry_point: which entry point of the MLproject file.
        experiment: the experiment's name; the task's by default, or else the project's.
        run_id: a run to continue, its parameters included, rather than a new one.
        like: the parameters of another run, to begin with.
        allow_secrets: whether a patch or a bundle may leave with secrets in it.
    """

    tracking_uri: str
    overrides: Overrides = field(default_factory=Overrides)
    entry_point: str = "main"
    experiment: str | None = None
    run_id: str | None = None
    like: Mapping[str, str] = field(default_factory=dict)
    allow_secrets: bool = False


def launch(commit: Commit, what: Launch, *, uncommitted: bool = False) -> Run:
    """Clone a commit of a repository on this machine, run it here, and return its finished run.

    The output of the training goes where this process's own goes.

    Args:
        commit: which.
        what: what to run of it, and where its run goes.
        uncommitted: whether to run what is not committed too; the run then carries the patch.

    Raises:
        UsageError: the commit has no such entry point, or it does not take such parameters.
        RunFailedError: the run ended with an error, or was interrupted.
    """
    # The clone is gone with the run; its data is not.
    data: dict[str, str | None] = {DATA_ROOT: str(data_root(commit.repository))}
    with temporary_folder() as folder, _environment(data):
        cloned = clone(commit, folder / "code" / commit.repository.name)
        patch = None
        if uncommitted:
            patch = folder / PATCH
            write_patch(commit, patch, allow_secrets=what.allow_secrets)
            apply_patch(patch, cloned)
        return launch_in(cloned, commit, what, patch)


def launch_in(folder: Path, commit: Commit, what: Launch, patch: Path | None = None) -> Run:
    """Run a commit that is checked out in a folder of its own, and return its finished run.

    `patch` is what was changed there since, for the run to carry. Raises what `launch` does.
    """
    # `python` in an entry point's command is this interpreter, and its output is not buffered.
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    changed = {
        "PATH": here,
        "PYTHONUNBUFFERED": "1",
        "LOGNAME": user_name(),  # MLflow and others ask for it, and not every user id has a name
        **dict.fromkeys(not_inherited()),  # git in there means the repository that it is in
    }
    with _environment(changed), _quiet_mlflow():
        mlflow.set_tracking_uri(what.tracking_uri)
        # Spares a search for Spark at every call: 98 µs of a `log_metric` become 14 µs.
        mlflow.set_registry_uri(what.tracking_uri)
        before = _to_go_on_with(what.run_id) if what.run_id else None
        if before:
            begun = before.data.tags.get(MLFLOW_PROJECT_ENTRY_POINT, what.entry_point)
            what = replace(what, entry_point=begun)
        parameters, declared, project_name = prepared(folder, commit, what, before)
        if before:
            run = before
        else:
            name = what.experiment or parameters.get("task") or declared.get("task") or project_name
            home = experiment_id_of(str(name or "Default"))
            # Before anything runs, so that its tags are there even if this process is killed.
            run = mlflow.MlflowClient().create_run(home, tags=tags_of(commit, what.entry_point))
        _log_start(run, {**declared, **parameters})
        if patch:
            mlflow.MlflowClient().log_artifact(run.info.run_id, str(patch))
            mlflow.MlflowClient().set_tag(run.info.run_id, UNCOMMITTED, f"see {PATCH}")
        runner = session(bucket_uri(what.tracking_uri))
        present(run, commit, runner.working.store)
        # Before the code logs what it takes for its own: what it was started with comes first.
        runner.send()
        # The project's own process is its runner: that one sends heartbeats, and stops when killed.
        runner.hand_over(entity_of(run.info.experiment_id, run.info.run_id))
        return _finish(commit, what, folder, run, parameters)


def _to_go_on_with(run_id: str) -> Run:
    run = mlflow.MlflowClient().get_run(run_id)
    # Somebody cancelled it while it waited for a machine; this is that machine, too late.
    if SUBMITTED_TO in run.data.tags and run.info.status == "KILLED":
        hint = f"To run it all the same: kaggleops resume {run_id}."
        raise UsageError(f"starting run {run_id}", "it was cancelled", hint)
    return run


def _finish(
    commit: Commit, what: Launch, folder: Path, run: Run, parameters: Mapping[str, str]
) -> Run:
    client = mlflow.MlflowClient()
    doing = f"running {commit.sha[:7]}"
    run_id = run.info.run_id
    hint = f"What it logged is in run {run_id}."
    try:
        with _sigterm_interrupts():
            mlflow.projects.run(
                str(folder),
                entry_point=what.entry_point,
                parameters=dict(parameters),
                experiment_id=run.info.experiment_id,
                run_id=run_id,
                env_manager="local",
            )
    except KeyboardInterrupt:
        cancelled = client.get_run(run_id).info.status == "KILLED"
        client.set_terminated(run_id, "KILLED")
        problem = "it was cancelled" if cancelled else "it was interrupted"
        raise RunFailedError("KILLED", doing, problem, hint) from None
    except ExecutionException as error:
        ended = _ensure_ended(client, run_id)
        problem = "it was cancelled" if ended == "KILLED" else "it ended with an error, see above"
        raise RunFailedError(ended, doing, problem, hint) from error
    except BaseException:
        _ensure_ended(client, run_id)
        raise
    return client.get_run(run_id)


def _ensure_ended(client: mlflow.MlflowClient, run_id: str) -> str:
    status: str = client.get_run(run_id).info.status
    if status in ("RUNNING", "SCHEDULED"):
        status = "FAILED"
        client.set_terminated(run_id, status)
    return status


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: MLflow then ends the project's process, and waits for it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def prepared(
    folder: Path, commit: Commit, what: Launch, before: Run | None
) -> tuple[dict[str, str], dict[str, object], str | None]:
    """Return the parameters to run with, those the entry point declares, the project's name.

    Args:
        folder: the commit's files; `write_project_files` writes all that are needed.
        commit: which.
        what: what to run of it.
        before: the run that is continued, if any.

    Raises:
        UsageError: as for `launch`.
    """
    doing = f"running {what.entry_point} of {commit.sha[:7]}"
    if not (folder / "MLproject").is_file():
        hint = "Add one (https://mlflow.org/docs/latest/ml/projects/), commit it, and try again."
        raise UsageError(doing, "the commit has no MLproject file", hint)
    try:
        project = load_project(str(folder))
        entry_point = project.get_entry_point(what.entry_point)
    except (ExecutionException, MlflowException) as error:
        raise UsageError(doing, str(error)) from error
    if not what.allow_secrets:
        _refuse_secrets(what.overrides, doing)
    declared = {name: parameter.default for name, parameter in entry_point.parameters.items()}
    earlier = before.data.params if before else what.like
    parameters = {name: earlier[name] for name in declared if name in earlier}
    parameters |= what.overrides.as_parameters(declared, doing)
    missing = [name for name in declared if declared[name] is None and name not in parameters]
    if missing:
        raise UsageError(doing, f"{', '.join(missing)} must be given", f"Add {missing[0]}=VALUE.")
    if what.overrides.items:
        check_config_keys(folder, entry_point.command, {**declared, **parameters}, doing)
    return parameters, declared, project.name


def _refuse_secrets(overrides: Overrides, doing: str) -> None:
    for item in overrides.items:
        if found := in_file("", item.encode(errors="replace")):
            problem = (
                f"{item.partition('=')[0]} holds a secret ({found[0].kind}), and what is set is "
                "recorded in the run and stands on command lines"
            )
            hint = "Let the training read it from its environment; --allow-secrets sends it so."
            raise UsageError(doing, problem, hint)


def experiment_id_of(name: str) -> str:
    """Return the id of an experiment, created if need be; UsageError if it was deleted."""
    experiment = mlflow.MlflowClient().get_experiment_by_name(name)
    if experiment is None:
        created: str = mlflow.MlflowClient().create_experiment(name)
        return created
    if experiment.lifecycle_stage == "deleted":
        raise UsageError(
            f"logging to the experiment {name!r}",
            "it was deleted",
            "Restore it in the UI, or choose another name with --experiment.",
        )
    return str(experiment.experiment_id)


def tags_of(commit: Commit, entry_point: str) -> dict[str, str]:
    """Return a run's tags as mlflow.projects makes them, with what it cannot know of a clone."""
    tags = {
        MLFLOW_USER: user_name(),
        MLFLOW_SOURCE_NAME: commit.origin or commit.repository.name,
        MLFLOW_SOURCE_TYPE: "PROJECT",
        MLFLOW_PROJECT_ENTRY_POINT: entry_point,
        MLFLOW_PROJECT_BACKEND: "local",
        MLFLOW_GIT_COMMIT: commit.sha,
        **of_commit(commit),
    }
    if commit.branch:
        tags[MLFLOW_GIT_BRANCH] = commit.branch
    if commit.origin:
        tags[MLFLOW_GIT_REPO_URL] = commit.origin
    return tags


def _log_start(run: Run, parameters: Mapping[str, object]) -> None:
    """Log what a run is started with and where; one that goes on keeps the parameters it has."""
    tags = of_machine(detect())
    # As MLflow logs a project's parameters: those it was given, and the other defaults.
    new = {key: str(value) for key, value in parameters.items() if key not in run.data.params}
    mlflow.MlflowClient().log_batch(
        run.info.run_id,
        params=[Param(key, value) for key, value in new.items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="kaggleops-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextmanager
def _environment(changed: Mapping[str, str | None]) -> Iterator[None]:
    """Change this process's environment, which its children inherit, meanwhile; None removes."""
    before = {name: os.environ.get(name) for name in changed}
    _set_environment(changed)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(changed: Mapping[str, str | None]) -> None:
    for name, value in changed.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _quiet_mlflow() -> Iterator[None]:
    logger = logging.getLogger("mlflow")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
