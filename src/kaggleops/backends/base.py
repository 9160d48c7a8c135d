"""What every backend is: MLflow's project backend, and what only its platform can tell.

A submit never waits for the training. It makes sure that another machine can fetch the commit,
creates the run in the bucket as SCHEDULED with tags that say where its job will be, and hands the
platform notebooks/run.ipynb with its parameter cell filled in. The notebook logs into that very
run. Everybody who can read the bucket finds the job by the run's tags alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic

import mlflow
from mlflow.entities import Param, Run, RunTag
from mlflow.exceptions import ExecutionException
from mlflow.projects.backend.abstract_backend import AbstractBackend
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_PROJECT_BACKEND

from kaggleops.backends.code import address_for_others
from kaggleops.backends.config import AnyConfig, Config, read_config
from kaggleops.backends.downloads import Downloaded
from kaggleops.backends.jobs import JobState, Machines, Price, Quota, Reaped, Units
from kaggleops.backends.ready_notebook import ready_notebook
from kaggleops.backends.remote_run import RemoteRun
from kaggleops.bucket.location import bucket_uri
from kaggleops.errors import KaggleOpsError
from kaggleops.git.commits import Commit
from kaggleops.git.project_files import write_project_files
from kaggleops.launch.launcher import (
    Launch,
    experiment_id_of,
    prepared,
    tags_of,
    temporary_folder,
)
from kaggleops.launch.presentation import present
from kaggleops.platforms.machine import user_name
from kaggleops.tags import BACKEND, JOB_ENDED, SUBMITTED_TO
from kaggleops.tracking.session import session
from kaggleops.tracking.store import BucketTrackingStore


class RefusedError(KaggleOpsError):
    """The platform said no: nothing runs there."""


class Backend(AbstractBackend, ABC, Generic[AnyConfig]):
    """One platform that runs commits."""

    name: ClassVar[str]
    config_type: type[AnyConfig]

    # -- what a platform has to say -----------------------------------------------------------

    @abstractmethod
    def check(self, tracking_uri: str, config: AnyConfig) -> None:
        """Make sure, before anything is made, that a submit has a chance.

        Raises:
            KaggleOpsError: it has none: no credentials, no quota, a bucket out of its reach.
        """

    @abstractmethod
    def place(self, run_id: str, config: AnyConfig) -> dict[str, str]:
        """Return the tags by which a run's job is found, before it is there."""

    @abstractmethod
    def send(
        self, tags: Mapping[str, str], notebook: str, config: AnyConfig
    ) -> Mapping[str, str] | None:
        """Hand a notebook to the platform, unless it has it.

        Args:
            tags: the run's.
            notebook: its JSON.
            config: how to run it.

        Returns:
            Tags for what is known of the job only now, if there are any.

        Raises:
            RefusedError: the platform does not take it.
            KaggleOpsError: the platform does not answer.
        """

    @abstractmethod
    def state(self, tags: Mapping[str, str]) -> JobState | None:
        """Return how far the job of a run with these tags is, None where nobody can be asked."""

    @abstractmethod
    def logs(self, tags: Mapping[str, str], follow: bool) -> Iterator[str]:
        """Yield the lines that the job printed, each once."""

    @abstractmethod
    def download(self, tags: Mapping[str, str], directory: Path) -> Downloaded:
        """Bring the files that the job left on the platform."""

    def remove(self, tags: Mapping[str, str]) -> bool:
        """Delete the job from the platform, and tell whether there was anything to delete."""
        return False

    @abstractmethod
    def page(self, tags: Mapping[str, str]) -> str:
        """Return where the job can be seen in a browser, or ""."""

    def steps(self, tags: Mapping[str, str]) -> list[str]:
        """Return what somebody has to do for the job to start, one line for each step."""
        return []

    def announce(self, config: AnyConfig) -> str:
        """Return what a submit would cost and whom, "" where it costs no money.

        Raises:
            KaggleOpsError: more than it may, or the platform does not answer.
        """
        return ""

    def quota(self) -> list[Quota]:
        """Return what may still be used, nothing where nothing is counted."""
        return []

    def units(self, config: AnyConfig) -> Units | None:
        """Return the compute units that there are, None where none are counted.

        Raises:
            KaggleOpsError: the platform does not tell.
        """
        return None

    def prices(self) -> list[Price]:
        """Return what accelerators cost, nothing where nobody pays."""
        return []

    def machines(self) -> Machines | None:
        """Return what is billed now, None where nobody pays or nothing is there."""
        return None

    def reap(self, tracking_uri: str, *, delete: bool) -> list[Reaped] | None:
        """Delete the machines that cost money although their run is over.

        Args:
            tracking_uri: whose runs.
            delete: whether to; else they are only looked for.

        Returns:
            What there was; None where nobody was asked, as nothing that it knows of costs money.

        Raises:
            UsageError: this machine cannot ask.
            KaggleOpsError: the platform does not answer.
        """
        return None

    # -- what is the same everywhere ----------------------------------------------------------

    def read_config(self, given: Mapping[str, Any], source: str) -> AnyConfig:
        """Return this backend's configuration from its fields.

        Raises:
            UsageError: a field does not exist, or has a value that it cannot have.
        """
        return read_config(self.config_type, given, source)

    def submit(self, commit: Commit, what: Launch, config: AnyConfig) -> RemoteRun:
        """Hand a commit to the platform and return at once.

        Args:
            commit: one that is in a repository on this machine.
            what: what to run of it.
            config: how the platform is to run it.

        Raises:
            UsageError: the commit has no such entry point, or it does not take such parameters.
            RefusedError: the platform does not take it; the run is FAILED.
            KaggleOpsError: the platform does not answer; `resume` goes on with the run.
        """
        bucket = bucket_uri(what.tracking_uri)
        with temporary_folder() as folder:
            files = write_project_files(commit, folder / "code")
            parameters, declared, project = prepared(files, commit, what, None)
        self.check(what.tracking_uri, config)
        address = address_for_others(commit, bucket, allow_secrets=what.allow_secrets)
        mlflow.set_tracking_uri(what.tracking_uri)
        name = what.experiment or parameters.get("task") or declared.get("task") or project
        tags = {**tags_of(commit, what.entry_point), MLFLOW_PROJECT_BACKEND: self.name}
        store = BucketTrackingStore(what.tracking_uri)
        run = store.schedule_run(
            experiment_id_of(str(name or "Default")),
            user_name(),
            # "backend" is what the machine turns out to be, once there is one.
            [RunTag(*tag) for tag in {**tags, BACKEND: self.name}.items()],
            [Param(key, str(value)) for key, value in {**declared, **parameters}.items()],
        )
        where = self.place(run.info.run_id, config)
        present(run, commit, session(bucket).working.store, self.page(where))
        return self.hand_over(run, address, what.tracking_uri, config)

    def hand_over(self, run: Run, address: str, tracking_uri: str, config: AnyConfig) -> RemoteRun:
        """Hand a run that is SCHEDULED to the platform; again, if it may have it already.

        Args:
            run: which, with its commit in its tags and its parameters.
            address: where the platform fetches the commit.
            tracking_uri: the bucket's.
            config: how the platform is to run it.

        Raises:
            RefusedError: the platform does not take it; the run is FAILED.
            KaggleOpsError: the platform does not answer.
        """
        run_id = run.info.run_id
        client = mlflow.MlflowClient(tracking_uri)
        store = BucketTrackingStore(tracking_uri)
        tags = {SUBMITTED_TO: self.name, **self.place(run_id, config)}
        client.log_batch(run_id, tags=[RunTag(*tag) for tag in tags.items()])
        store.flush()  # before the job exists: it must be found even if this process dies now
        notebook = ready_notebook(_parameters(run, address, tracking_uri, config))
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

    def run(  # noqa: D102 - MLflow's
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, str],
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> RemoteRun:
        from kaggleops.backends.from_mlflow import launch_of, project

        try:
            config = self.read_config(backend_config, "the backend's configuration")
            with project(project_uri, version) as commit:
                what = launch_of(tracking_uri, entry_point, params, experiment_id)
                return self.submit(commit, what, config)
        except KaggleOpsError as error:
            # What MLflow's command shows as one line.
            raise ExecutionException(str(error)) from error


def _parameters(run: Run, address: str, tracking_uri: str, config: Config) -> dict[str, str]:
    parameters = {
        "repository": address,
        "version": run.data.tags[MLFLOW_GIT_COMMIT],
        "bucket": bucket_uri(tracking_uri),
        # Its experiment, its entry point and its parameters come with it.
        "run_id": run.info.run_id,
    }
    return parameters | ({"install_from": config.install_from} if config.install_from else {})
