"""Run a commit with MLflow's local project backend on a fresh clone, its run in a bucket.

What `mlflow.projects.run` does, but for what it keeps to itself: the exit code. One of them says
"to be continued" (legs.py).
"""

import logging
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import yaml
from mlflow.entities import LifecycleStage, Param, Run, RunTag
from mlflow.exceptions import ExecutionException, MlflowException
from mlflow.projects.backend.local import LocalBackend
from mlflow.projects.utils import (
    MLFLOW_LOCAL_BACKEND_RUN_ID_CONFIG,
    PROJECT_BUILD_IMAGE,
    PROJECT_DOCKER_ARGS,
    PROJECT_DOCKER_AUTH,
    PROJECT_ENV_MANAGER,
    PROJECT_STORAGE_DIR,
    PROJECT_SYNCHRONOUS,
    load_project,
)
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

from kaggleops import session_end
from kaggleops.bucket.location import bucket_uri
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.git.checkouts import clone
from kaggleops.git.command import not_inherited
from kaggleops.git.commits import Commit
from kaggleops.git.patches import apply_patch, write_patch
from kaggleops.git.project_files import declared_score
from kaggleops.launch import legs
from kaggleops.launch.checkout import Left, place_data
from kaggleops.launch.failure import cause, of_torchrun
from kaggleops.launch.output import Output
from kaggleops.launch.overrides import Overrides, check_config_keys, did_you_mean
from kaggleops.launch.presenting import present
from kaggleops.mlruns import run as entity_of
from kaggleops.mlruns import ui
from kaggleops.mlruns.ui import END
from kaggleops.platforms import detect
from kaggleops.platforms.machine import user_name
from kaggleops.resources.local import tell
from kaggleops.resources.lock import refuse_unlocked
from kaggleops.resources.places import DATA_ROOT, data_root
from kaggleops.secret_scan import in_file
from kaggleops.tags import (
    ACCELERATOR,
    BACKEND,
    BEGAN,
    CANCELLED,
    FAILURE,
    JOB_ENDED,
    LEGS,
    NOTE,
    SCORE,
    SETTINGS,
    SUBMITTED_TO,
    TITLE,
    TO_BE_CONTINUED,
    UNCOMMITTED,
    of_commit,
    of_machine,
)
from kaggleops.tracking.session import session
from kaggleops.tracking.signals import LAUNCHER
from kaggleops.tracking.working_copy import HANDED_OVER

PATCH = "uncommitted.patch"
"""The artifact that holds what a run's code has besides its commit."""


class RunFailedError(KaggleOpsError):
    """The code that was run FAILED (its own output says why), or was stopped (KILLED)."""

    def __init__(self, status: str, doing: str, problem: str, hint: str) -> None:
        super().__init__(doing, problem, hint)
        self.status = status


@dataclass(frozen=True)
class Launch:
    """What to run, and where its run goes."""

    tracking_uri: str  # the bucket's tracking URI
    overrides: Overrides = field(default_factory=Overrides)  # what the user set
    entry_point: str = "main"  # which entry point of the MLproject file
    # the experiment's name; the task's by default, or else the project's
    experiment: str | None = None
    run_id: str | None = None  # a run to continue, its parameters included, rather than a new one
    # the parameters of another run, to begin with
    like: Mapping[str, str] = field(default_factory=dict)
    allow_secrets: bool = False  # whether a patch or a bundle may leave with secrets in it
    # when this session ends, in seconds since the epoch; None where nothing is known to end it
    session_ends: float | None = None


def launch(commit: Commit, what: Launch, *, uncommitted: bool = False) -> Run:
    """Clone a commit of a repository on this machine, run it here, and return its run.

    That has finished, or it is to be continued. With `uncommitted`, what is not committed runs too,
    and the run carries the patch.

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


def launch_in(
    folder: Path,
    commit: Commit,
    what: Launch,
    patch: Path | None = None,
    show: Callable[[str], object] | None = None,
) -> Run:
    """Run a commit that is checked out in a folder of its own, and return its run as `launch` does.

    `patch` is what was changed there since, for the run to carry; `show` takes each line that the
    training prints, rather than this process's own output. Raises what `launch` does.
    """
    # `python` in an entry point's command is this interpreter, and its output is not buffered.
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    changed = {
        "PATH": here,
        "PYTHONUNBUFFERED": "1",
        "LOGNAME": user_name(),  # MLflow and others ask for it, and not every user id has a name
        **dict.fromkeys(not_inherited()),  # git in there means the repository that it is in
    }
    if what.session_ends is not None:
        changed[session_end.SESSION_ENDS] = f"{what.session_ends:.3f}"
    began = time.time()
    logging.getLogger("mlflow.projects").setLevel(logging.WARNING)  # it tells the command
    with _environment(changed), tracked_in(what.tracking_uri):
        before = _to_go_on_with(what.run_id) if what.run_id else None
        if before:
            begun = before.data.tags.get(MLFLOW_PROJECT_ENTRY_POINT, what.entry_point)
            what = replace(what, entry_point=begun)
        parameters, declared, project_name = prepared(folder, commit, what, before)
        doing = f"running {commit.sha[:7]}"
        reads = place_data(folder, doing)
        left = Left(folder, doing, allow_secrets=what.allow_secrets)
        client = mlflow.MlflowClient()
        if before:
            run = before
        else:
            name = what.experiment or parameters.get("task") or declared.get("task") or project_name
            home = experiment_id_of(client, str(name or "Default"))
            # Before anything runs, so that its tags are there even if this process is killed.
            run = client.create_run(home, tags=tags_of(commit, what.entry_point, what.overrides))
        # As MLflow logs a project's parameters: those it was given, and the other defaults. A run
        # that goes on keeps the parameters it has.
        given = {**declared, **parameters}
        new = [Param(key, str(given[key])) for key in given if key not in run.data.params]
        changed_tags = of_machine(detect())
        going_on = _goes_on(before, changed_tags) if before else {}
        changed_tags |= going_on
        if before and not going_on:  # it was made when it was submitted
            changed_tags[BEGAN] = datetime.now(UTC).isoformat(timespec="seconds")
        if patch:
            changed_tags[UNCOMMITTED] = f"see {PATCH}"
            # MLflow's UI shows means of the runs that this groups: it is none of the commit's.
            changed_tags[TITLE] = f"{of_commit(commit)[TITLE]} + uncommitted changes"
        tags = [RunTag(*tag) for tag in changed_tags.items()]
        client.log_batch(run.info.run_id, params=new, tags=tags)
        if TO_BE_CONTINUED in run.data.tags:
            client.delete_tag(run.info.run_id, TO_BE_CONTINUED)
        tell(run.info.run_id, reads)
        if patch:
            client.log_artifact(run.info.run_id, str(patch))
        runner = session(bucket_uri(what.tracking_uri))
        present(run, runner.working.store, now=changed_tags)
        # Before the code logs what it takes for its own: what it was started with comes first.
        runner.send()
        # The project's own process is its runner: that one sends heartbeats, and stops when killed.
        entity_id = entity_of(run.info.experiment_id, run.info.run_id)
        runner.hand_over(entity_id)
        to_training: dict[str, str | None] = {
            HANDED_OVER: str(runner.working.leave(entity_id)),
            LAUNCHER: str(os.getpid()),
        }
        with _environment(to_training):
            output = Output(run, len(legs.legs_of(going_on)) or 1, show)
            try:
                return _finish(commit, what, folder, run, parameters, began, output)
            finally:
                output.end()
                left.keep(run, again=bool(going_on))


def refuse_to_go_on(run: Run, doing: str) -> None:
    """Raise UsageError for a run that is deleted, or whose code is more than its commit."""
    if run.info.lifecycle_stage == LifecycleStage.DELETED:
        raise UsageError(doing, "it was deleted", "Restore it in the UI first.")
    if UNCOMMITTED in run.data.tags:
        hint = f"Apply its artifact {PATCH}, commit, and run that."
        raise UsageError(doing, "it ran uncommitted changes, which no commit has", hint)


def _to_go_on_with(run_id: str) -> Run:
    run = mlflow.MlflowClient().get_run(run_id)
    doing = f"resuming run {run_id}"
    refuse_to_go_on(run, doing)
    if run.info.status == "FINISHED":  # what it has left would be replaced
        raise UsageError(doing, "it has finished", "Run its commit anew, without its id.")
    # Somebody cancelled it while it waited for a machine; this is that machine, too late.
    if SUBMITTED_TO in run.data.tags and run.info.status == "KILLED":
        hint = f"To run it all the same: kaggleops resume {run_id}."
        raise UsageError(f"starting run {run_id}", "it was cancelled", hint)
    return run


def _finish(
    commit: Commit,
    what: Launch,
    folder: Path,
    run: Run,
    parameters: Mapping[str, str],
    began: float,
    output: Output,
) -> Run:
    client = mlflow.MlflowClient()
    doing = f"running {commit.sha[:7]}"
    run_id = run.info.run_id
    hint = f"What it logged is in run {run_id}."
    process = None
    try:
        with _handling(signal.default_int_handler, *_STOPPING):
            with output.captured():
                process = LocalBackend().run(
                    str(folder),
                    what.entry_point,
                    dict(parameters),
                    None,
                    {**_HERE, MLFLOW_LOCAL_BACKEND_RUN_ID_CONFIG: run_id},
                    what.tracking_uri,
                    run.info.experiment_id,
                )
            process.wait()
    except KeyboardInterrupt:
        if process:
            _end(process)
        with _handling(signal.SIG_IGN, *_ENDING):  # it says so, or it is LOST
            client.set_terminated(run_id, "KILLED")
            problem = _stopped(client, run_id)
        raise RunFailedError("KILLED", doing, problem, hint) from None
    except ExecutionException as error:  # it was not started
        ended = _ensure_ended(client, run_id, "FAILED")
        raise RunFailedError(ended, doing, str(error), hint) from error
    except BaseException:
        _ensure_ended(client, run_id, "FAILED")
        raise
    code = process.command_proc.returncode
    told = client.get_run(run_id)
    if told.info.lifecycle_stage == LifecycleStage.DELETED:  # how it ended cannot be told any more
        hint = f"Restored in the UI, run {run_id} has what it logged until then."
        raise RunFailedError("KILLED", doing, "it was deleted while it ran", hint)
    if code == session_end.TO_BE_CONTINUED and CANCELLED not in told.data.tags:
        step, before = legs.last_step(told), legs.last_step(run)
        if step is not None and (before is None or step > before):
            client.set_tag(run_id, TO_BE_CONTINUED, legs.to_be_continued(step))
            _log_legs(client, told, legs.ended(told, began, "continued"))
            client.update_run(run_id, status="SCHEDULED")
            return client.get_run(run_id)
        reached = "no step" if step is None else f"no step after {step}, where it began"
        problem = f"it exited with {code}, to be continued, and it has logged {reached}"
        client.set_terminated(run_id, "FAILED")
        _close_leg(client, run_id)
        raise RunFailedError("FAILED", doing, problem, hint)
    ended = _ensure_ended(client, run_id, "FAILED" if code else "FINISHED")
    # Where one rank fails, torchrun tells the one that logs to end.
    if ended == "KILLED" and CANCELLED not in told.data.tags and of_torchrun(output.last_lines()):
        client.set_terminated(run_id, ended := "FAILED")
    why = cause(output.last_lines(), code) if code else ""
    if ended == "FAILED":
        client.set_tag(run_id, FAILURE, why)
    _close_leg(client, run_id)
    if code:
        killed = ended == "KILLED"
        problem = _stopped(client, run_id) if killed else f"it ended with an error: {why}"
        raise RunFailedError(ended, doing, problem, hint)
    return client.get_run(run_id)


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOPPING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)  # besides Ctrl-C

# What `mlflow.projects.run` tells its local backend.
_HERE = {
    **{PROJECT_ENV_MANAGER: "local", PROJECT_SYNCHRONOUS: True, PROJECT_BUILD_IMAGE: False},
    **dict.fromkeys((PROJECT_DOCKER_ARGS, PROJECT_STORAGE_DIR, PROJECT_DOCKER_AUTH)),
}


def _stopped(client: mlflow.MlflowClient, run_id: str) -> str:
    """Return who has ended a run that is KILLED, and tell it where that was no person."""
    tags = client.get_run(run_id).data.tags
    if CANCELLED in tags:
        return "it was cancelled"
    if SUBMITTED_TO in tags:  # there is nobody there to press Ctrl-C
        said = "its time was up" if session_end.time_left() == 0 else "its machine was stopped"
        client.set_tag(run_id, JOB_ENDED, said)
        return said
    return "it was interrupted"


def _ensure_ended(client: mlflow.MlflowClient, run_id: str, as_what: str) -> str:
    status: str = client.get_run(run_id).info.status
    # MLflow says FINISHED at a process's exit, whatever its exit code.
    if status in ("RUNNING", "SCHEDULED") or (status, as_what) == ("FINISHED", "FAILED"):
        status = as_what
        client.set_terminated(run_id, status)
    return status


def is_to_be_continued(run: Run) -> bool:
    """Tell whether a run waits for its next leg."""
    return run.info.status == "SCHEDULED" and TO_BE_CONTINUED in run.data.tags


def _goes_on(before: Run, machine: Mapping[str, str]) -> dict[str, str]:
    """Return the tag LEGS of a run that goes on here; nothing for one that has not begun yet."""
    known = legs.legs_of(before.data.tags)
    if before.info.status != "SCHEDULED" and not is_to_be_continued(before):
        known = legs.ended(before)  # nobody has resumed it who would have noted it
    if not known:
        return {}
    step = legs.last_step(before)
    known = legs.begun(known, machine[BACKEND], machine[ACCELERATOR], step)
    note = before.data.tags.get(NOTE, "")
    described = {NOTE: ui.with_section(note, "legs", legs.table(known))} if END in note else {}
    return {LEGS: legs.to_tag(known), **described}


def _close_leg(client: mlflow.MlflowClient, run_id: str) -> None:
    """Note how the leg of a run that took more than one has ended."""
    run = client.get_run(run_id)
    if LEGS in run.data.tags:
        _log_legs(client, run, legs.ended(run))


def _log_legs(client: mlflow.MlflowClient, run: Run, known: Sequence[legs.Leg]) -> None:
    note = ui.with_section(run.data.tags.get(NOTE, ""), "legs", legs.table(known))
    tags = {LEGS: legs.to_tag(known), NOTE: note}
    client.log_batch(run.info.run_id, tags=[RunTag(*tag) for tag in tags.items()])


def _end(process: Any) -> None:
    """End the project's process, and wait for it; whoever asks again has it killed."""
    try:
        # Where a terminal closes, its shell says the same again.
        with (
            _handling(signal.default_int_handler, signal.SIGTERM, signal.SIGQUIT),
            _handling(signal.SIG_IGN, signal.SIGHUP),
        ):
            process.cancel()
    except KeyboardInterrupt:
        process.command_proc.kill()
        process.command_proc.wait()


@contextmanager
def _handling(handler: Any, *signals: signal.Signals) -> Iterator[None]:
    """Handle signals so; SIGTERM as Ctrl-C, say: then the project's process is ended, too.

    But for those that are ignored, as SIGHUP is below `nohup`, or not Python's to handle.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = (signal.SIG_IGN, None)
    handled = [each for each in signals if signal.getsignal(each) not in kept]
    before = {each: signal.signal(each, handler) for each in handled}
    try:
        yield
    finally:
        for each in handled:
            signal.signal(each, before[each])


def prepared(
    folder: Path, commit: Commit, what: Launch, before: Run | None
) -> tuple[dict[str, str], dict[str, object], str | None]:
    """Return the parameters to run with, those the entry point declares, the project's name.

    `folder` has the commit's files (`write_project_files` writes all that are needed); `before` is
    the run that is continued, if any. Raises UsageError as `launch` does.
    """
    doing = f"running {what.entry_point} of {commit.sha[:7]}"
    project, entry_point = project_in(folder, what.entry_point, doing)
    refuse_secrets(what.overrides.items, doing, allowed=what.allow_secrets)
    declared = {name: parameter.default for name, parameter in entry_point.parameters.items()}
    earlier = before.data.params if before else what.like
    parameters = {name: earlier[name] for name in declared if name in earlier}
    parameters |= what.overrides.as_parameters(declared, doing)
    missing = [name for name in declared if declared[name] is None and name not in parameters]
    if missing:
        raise UsageError(doing, f"{', '.join(missing)} must be given", f"Add {missing[0]}=VALUE.")
    if before is None:
        refuse_unlocked(folder, [each.partition("=")[2] for each in what.overrides.items], doing)
    for name, value in parameters.items():
        refuse_no_number(entry_point, name, value, doing)
    try:
        entry_point.command.format(**dict.fromkeys(declared, ""))  # as MLflow fills it
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        hint = "Declare it under `parameters` in MLproject; write a brace of the shell's twice."
        raise UsageError(
            doing, f"its command has a {{…}} that is no parameter ({error})", hint
        ) from None
    if what.overrides.items:
        check_config_keys(folder, entry_point.command, {**declared, **parameters}, doing)
    return parameters, declared, project.name


def refuse_no_number(entry_point: Any, name: str, value: str, doing: str) -> None:
    """Raise UsageError where a parameter of an entry point takes a number, and this is none."""
    parameter = entry_point.parameters.get(name)
    if parameter and parameter.type == "float":
        try:
            float(value)
        except ValueError:
            hint = f"`kaggleops sweep {name}={value}` runs each." if "," in value else ""
            raise UsageError(doing, f"{name} takes a number, not {value!r}", hint) from None


def project_in(folder: Path, entry_point: str, doing: str) -> tuple[Any, Any]:
    """Return a folder's MLflow project and its entry point; UsageError where there is none."""
    if not (folder / "MLproject").is_file():
        hint = "`kaggleops init` writes one beside your code. Commit it, and try again."
        raise UsageError(doing, "the commit has no MLproject file", hint)
    try:
        project = load_project(str(folder))
    except Exception as error:  # noqa: BLE001 - whatever MLflow meets there
        said = " ".join(str(error).replace(f"{folder}/", "").split())
        hint = "`kaggleops init` writes one; https://mlflow.org/docs/latest/ml/projects/ tells how."
        raise UsageError(doing, f"its MLproject cannot be read ({said})", hint) from None
    try:
        point = project.get_entry_point(entry_point)
    except (ExecutionException, MlflowException) as error:
        points = list(yaml.safe_load((folder / "MLproject").read_text()).get("entry_points") or ())
        hint = did_you_mean(entry_point, points) or f"There are: {', '.join(points) or 'none'}."
        raise UsageError(doing, f"there is no entry point {entry_point!r}", hint) from error
    if not isinstance(point.command, str):
        raise UsageError(doing, "it has no command", 'Write command: "python train.py".')
    return project, point


def refuse_secrets(items: Iterable[str], doing: str, *, allowed: bool) -> None:
    """Raise UsageError if one of `key=value` holds a secret, unless that is `allowed`."""
    for item in () if allowed else items:
        if found := in_file("", item.encode(errors="replace")):
            key = item.partition("=")[0]
            problem = f"{key} holds a secret ({found[0].kind}), and the run records what is set"
            hint = "Let the training read it from its environment; --allow-secrets sends it so."
            raise UsageError(doing, problem, hint)


def experiment_id_of(client: mlflow.MlflowClient, name: str) -> str:
    """Return the id of an experiment, created if need be; UsageError if it was deleted."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        created: str = client.create_experiment(name)
        return created
    if experiment.lifecycle_stage == "deleted":
        hint = "Restore it in the UI, or choose another name with --experiment."
        raise UsageError(f"logging to the experiment {name!r}", "it was deleted", hint)
    return str(experiment.experiment_id)


def tags_of(commit: Commit, entry_point: str, overrides: Overrides | None = None) -> dict[str, str]:
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
    if overrides and overrides.items:
        tags[SETTINGS] = shlex.join(overrides.items)
    if score := declared_score(commit.repository, commit.sha):
        tags[SCORE] = score
    return tags


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="kaggleops-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextmanager
def tracked_in(uri: str) -> Iterator[None]:
    """Let MLflow track there meanwhile, in this process and in those that it starts.

    Afterwards it tracks where it did before: this may be a notebook with runs of its own.
    """
    # What MLflow is told, it leaves in these variables, too, and they count where it is told none.
    with _environment({"MLFLOW_TRACKING_URI": uri, "MLFLOW_REGISTRY_URI": uri}):
        mlflow.set_tracking_uri(uri)
        # Spares a search for Spark at every call: 98 µs of a `log_metric` become 14 µs.
        mlflow.set_registry_uri(uri)
        try:
            yield
        finally:
            nowhere: Any = None
            mlflow.set_tracking_uri(nowhere)
            mlflow.set_registry_uri(nowhere)


@contextmanager
def _environment(changed: Mapping[str, str | None]) -> Iterator[None]:
    """Change this process's environment, which its children inherit, meanwhile; None removes."""
    before = {name: os.environ.get(name) for name in changed}
    _set(changed)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
