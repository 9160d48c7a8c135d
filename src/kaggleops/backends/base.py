"""What every backend does alike: hands runs over, as MLflow's project backend does, and finds them.

A submit never waits for the training. It makes sure that another machine can fetch the commit,
creates the run in the bucket as SCHEDULED with tags that say where its job will be, and hands the
platform notebooks/run.ipynb with its parameter cell filled in, which logs into that very run.
Everybody who can read the bucket finds the job by the run's tags alone. The bucket is the truth:
the platform is asked only for what it cannot know, whether the job still waits for a machine,
whether it ended without a word, what it printed, which files it left.
"""

import shlex
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Param, Run, RunTag
from mlflow.exceptions import ExecutionException
from mlflow.projects.backend.abstract_backend import AbstractBackend
from mlflow.projects.submitted_run import SubmittedRun
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_PROJECT_BACKEND

from kaggleops.backends.code import address_for_others
from kaggleops.backends.config import AnyConfig, read_config, read_file
from kaggleops.backends.downloads import Downloaded
from kaggleops.backends.interface import BUCKET, Host, JobState, RefusedError, is_ended, unsent
from kaggleops.backends.ready_notebook import ready_notebook
from kaggleops.bucket.location import bucket_uri, is_bucket
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.git.checkouts import fetch
from kaggleops.git.commits import Commit, find_commit
from kaggleops.git.project_files import write_project_files
from kaggleops.launch.checkout import refuse_data_from_here
from kaggleops.launch.failure import cause
from kaggleops.launch.launcher import (
    Launch,
    experiment_id_of,
    prepared,
    tags_of,
    temporary_folder,
)
from kaggleops.launch.overrides import OVERRIDES, Overrides
from kaggleops.launch.presenting import present
from kaggleops.platforms.http import NotThereError
from kaggleops.platforms.machine import user_name
from kaggleops.tags import BACKEND, FAILURE, JOB_ENDED, SUBMITTED_TO, TO_BE_CONTINUED
from kaggleops.tracking.session import session
from kaggleops.tracking.store import BucketTrackingStore, cancel

_LAST_LINES = 1000  # of a log, in which an error is looked for
_PAUSE = 10.0  # seconds between two looks at a run that is waited for


class RemoteRun(SubmittedRun):
    """MLflow's handle of a submitted run, with its log and its files.

    Whatever asks the platform or the bucket raises KaggleOpsError where that does not answer.
    """

    def __init__(self, backend: Host[Any], tracking_uri: str, run_id: str) -> None:
        super().__init__()
        self.backend = backend
        self.tracking_uri = tracking_uri
        self._run_id = run_id
        self._client = mlflow.MlflowClient(tracking_uri)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._run_id

    @property
    def run(self) -> Run:
        """The run, as the bucket has it now."""
        return self._client.get_run(self.run_id)

    @property
    def tags(self) -> Mapping[str, str]:
        """The run's tags."""
        tags: Mapping[str, str] = self.run.data.tags
        return tags

    @property
    def page(self) -> str:
        """Where the platform shows the job, or ""."""
        with self._told_by() as tags:
            return self.backend.page(tags)

    def state(self) -> JobState | None:
        """Return how far its job is, None where there is nobody to ask.

        Raises KaggleOpsError if the platform does not answer, or a tag that names the job is gone.
        """
        run = self.run
        with self._told_by(run.data.tags) as tags:
            state = self.backend.state(tags)
        if state and state.unless_begun and _has_not_begun(run):
            return replace(state, reason=state.unless_begun)
        return state

    def get_status(self) -> str:
        """Return the run's status, and settle it if its job ended without a word.

        Raises what `state` does.
        """
        status: str = self.run.info.status
        return status if is_ended(status) else self.settle(self.state())

    def settle(self, state: JobState | None) -> str:
        """Return the run's status; if its job has ended and it has not, it ends as that did.

        What a job writes is in the bucket before it ends, or where its backend brings it from. So a
        run that is still open afterwards stays open for ever unless somebody says so.
        """
        run = self.run
        if state is None or not state.ended or _has_said(run):
            return str(run.info.status)
        self.backend.bring_home(self.tracking_uri)
        run = self.run
        if _has_said(run):
            return str(run.info.status)
        ended = "KILLED" if state.status == "KILLED" else "FAILED"
        tags = {JOB_ENDED: str(state)}
        if ended == "FAILED":
            with suppress(KaggleOpsError):  # as far as the platform has a log of it that says so
                why = cause(deque(self.logs(), _LAST_LINES))
                tags |= {FAILURE: why} if why else {}
        self._client.log_batch(self.run_id, tags=[RunTag(*tag) for tag in tags.items()])
        self._client.set_terminated(self.run_id, ended)
        return ended

    @property
    def failure(self) -> str:
        """Why it failed; "" if it did not, or nobody knows."""
        return failure_of(self.run)

    def wait(self) -> bool:
        """Wait until the run has ended, and tell whether it succeeded. Raises what `state` does."""
        while not is_ended(status := self.get_status()):
            time.sleep(_PAUSE)
        return status == "FINISHED"

    def cancel(self) -> None:
        """Set the run to KILLED in the bucket, unless it has ended: it stops at its next look.

        Raises UsageError if there is no such run, or it has ended.
        """
        cancel(self.tracking_uri, self.run_id)

    def logs(self, follow: bool = False) -> Iterator[str]:
        """Yield the lines that its job printed; with `follow`, until it has ended.

        Raises what `state` does.
        """
        with self._told_by() as tags:
            yield from self.backend.logs(tags, follow)

    def download(self, directory: Path) -> Downloaded:
        """Bring the files that the job left on its platform. Raises what `state` does."""
        with self._told_by() as tags:
            return self.backend.download(tags, directory)

    def clean_up(self) -> bool:
        """Delete its job from the platform, and tell whether there was any; the run stays.

        Raises UsageError if the run has not ended, else what `state` does.
        """
        if not is_ended(self.get_status()):
            hint = f"First `kaggleops cancel {self.run_id}`."
            raise UsageError(f"cleaning up after run {self.run_id}", "it has not ended", hint)
        with self._told_by() as tags:
            return self.backend.remove(tags)

    @contextmanager
    def _told_by(self, tags: Mapping[str, str] | None = None) -> Iterator[Mapping[str, str]]:
        """Yield its tags. One that names its job may be deleted by anybody, and name none yet."""
        try:
            told = self.tags if tags is None else tags
            yield {**told, BUCKET: bucket_uri(self.tracking_uri)}
        except KeyError as error:
            doing = f"looking for the job of run {self.run_id}"
            raise KaggleOpsError(doing, f"it has no tag {error} any more") from error
        except NotThereError as error:
            if not _has_not_begun(self.run):
                raise
            problem = f"{error.problem}: {unsent(self.run_id)}"
            raise NotThereError(error.doing, problem, error.hint) from error


def failure_of(run: Run) -> str:
    """Return why a run failed; "" if it did not, or nobody knows."""
    tags = run.data.tags if run.info.status == "FAILED" else {}
    ended = tags.get(JOB_ENDED, "").removeprefix("failed: ")  # a job of Colab's is said to have
    return "; ".join(filter(None, (tags.get(FAILURE), ended)))


def _has_said(run: Run) -> bool:
    """Tell whether a run says itself how its job ended."""
    status = run.info.status
    leg_ended = status == "SCHEDULED" and TO_BE_CONTINUED in run.data.tags
    return leg_ended or is_ended(status)


def _has_not_begun(run: Run) -> bool:
    return run.info.status == "SCHEDULED" and not _has_said(run)


class Backend(Host[AnyConfig], AbstractBackend):
    """A platform that runs commits: what it shares with all others."""

    def read_config(self, given: Mapping[str, Any], source: str) -> AnyConfig:
        """Return this backend's configuration from its fields; see `config.read_config`.

        Raises UsageError, which names the `source`, for a field that it does not take.
        """
        return read_config(self.config_type, given, source)

    def config_of(
        self, repository: Path, named: Path | None = None, options: Mapping[str, Any] | None = None
    ) -> AnyConfig:
        """Return the configuration of a named file, else of the repository's, if it has one.

        `options` are fields that override the file's. Raises UsageError if it cannot be read, or
        does not fit this backend.
        """
        options = options or {}
        known = {field.name for field in fields(self.config_type)}
        for option in options:
            if option not in known:
                raise UsageError(f"submitting to {self.name}", f"it has no option --{option}")
        file = named or repository / "config/backend" / f"{self.name}.yaml"
        if named is None and not file.is_file():
            return self.read_config(options, "no configuration")
        return self.read_config({**read_file(file), **options}, str(file))

    def submit(self, commit: Commit, what: Launch, config: AnyConfig) -> RemoteRun:
        """Hand a commit of a repository on this machine to the platform, and return at once.

        Raises:
            UsageError: the commit has no such entry point, or it does not take such parameters.
            RefusedError: the platform does not take it; the run is FAILED.
            KaggleOpsError: the platform does not answer; `resume` goes on with the run.
        """
        bucket = bucket_uri(what.tracking_uri)
        with temporary_folder() as folder:
            files = write_project_files(commit, folder / "code")
            parameters, declared, project = prepared(files, commit, what, None)
            if not self.runs_here:
                refuse_data_from_here(commit, files, f"submitting {commit.sha[:7]} to {self.name}")
        self.check(what.tracking_uri, config)
        address = address_for_others(commit, bucket, allow_secrets=what.allow_secrets)
        name = what.experiment or parameters.get("task") or declared.get("task") or project
        # "backend" is what the machine turns out to be, once there is one.
        ours = {MLFLOW_PROJECT_BACKEND: self.name, BACKEND: self.name}
        tags = {**tags_of(commit, what.entry_point, what.overrides), **ours}
        run = BucketTrackingStore(what.tracking_uri).schedule_run(
            experiment_id_of(mlflow.MlflowClient(what.tracking_uri), str(name or "Default")),
            user_name(),
            [RunTag(*tag) for tag in tags.items()],
            [Param(key, str(value)) for key, value in {**declared, **parameters}.items()],
        )
        where = self.place(run.info.run_id, config)
        present(run, session(bucket).working.store, self.page(where))
        return self.hand_over(run, address, what.tracking_uri, config)

    def hand_over(self, run: Run, address: str, tracking_uri: str, config: AnyConfig) -> RemoteRun:
        """Hand a run that is SCHEDULED to the platform; again, if it may have it already.

        `address` is where the platform fetches the commit that the run's tags name. Raises what
        `submit` does.
        """
        run_id = run.info.run_id
        client = mlflow.MlflowClient(tracking_uri)
        store = BucketTrackingStore(tracking_uri)
        tags = {SUBMITTED_TO: self.name, **self.place(run_id, config)}
        client.log_batch(run_id, tags=[RunTag(*tag) for tag in tags.items()])
        store.flush()  # before the job exists: it must be found even if this process dies now
        parameters = {
            "repository": address,
            "version": run.data.tags[MLFLOW_GIT_COMMIT],
            "bucket": bucket_uri(tracking_uri),
            # Its experiment, its entry point and its parameters come with it.
            "run_id": run_id,
        } | ({"install_from": config.install_from} if config.install_from else {})
        if hours := self.session_hours(config):
            parameters["session_hours"] = f"{hours:.10g}"
        notebook = ready_notebook(parameters)
        try:
            known = self.send({**run.data.tags, **tags}, notebook, config)
        except KaggleOpsError as error:
            if isinstance(error, RefusedError):
                client.set_tag(run_id, JOB_ENDED, f"refused: {error.problem}")
                client.set_terminated(run_id, "FAILED")
                store.flush()
            hint = f"{error.hint} Then go on with the run: kaggleops resume {run_id}".lstrip()
            raise type(error)(error.doing, error.problem, hint) from error
        if known:
            client.log_batch(run_id, tags=[RunTag(*tag) for tag in known.items()])
            store.flush()
        return RemoteRun(self, tracking_uri, run_id)

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, str],
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> RemoteRun:
        """Run what `mlflow run -b` names; MLflow documents it.

        Raises ExecutionException, in one line, if it is not submitted.
        """
        try:
            config = self.read_config(backend_config, "the backend's configuration")
            with _project(project_uri, version) as commit:
                what = _launch(tracking_uri, entry_point, params, experiment_id)
                return self.submit(commit, what, config)
        except KaggleOpsError as error:
            # What MLflow's command shows as one line.
            raise ExecutionException(str(error)) from error


@contextmanager
def _project(uri: str, version: str | None) -> Iterator[Commit]:
    """Yield the commit of a project, in a repository that is on this machine meanwhile."""
    if "#" in uri:
        raise UsageError(f"running {uri}", "a project has to be its repository's top folder")
    if Path(uri).is_dir():
        yield find_commit(Path(uri), version)
        return
    with temporary_folder() as folder:
        yield fetch(uri, version or "HEAD", folder / "project")


def _launch(
    tracking_uri: str, entry_point: str, params: Mapping[str, str], experiment_id: str
) -> Launch:
    if not is_bucket(tracking_uri):
        hint = "Set MLFLOW_TRACKING_URI to gs://BUCKET/mlruns."
        raise UsageError("choosing the bucket", f"{tracking_uri} is none", hint)
    items = [f"{key}={value}" for key, value in params.items() if key != OVERRIDES]
    try:
        items += shlex.split(params.get(OVERRIDES, ""))
    except ValueError as error:
        raise UsageError(f"reading the parameter {OVERRIDES}", str(error)) from None
    name = mlflow.MlflowClient(tracking_uri).get_experiment(experiment_id).name
    return Launch(tracking_uri, Overrides(items, None), entry_point, experiment=name)
