"""What the cells of notebooks/run.ipynb do; each may be run twice.

An error that a user can understand is one line that fails the notebook: Kaggle shows it as failed,
and by then everything that was logged has been sent.
"""

import functools
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

from kaggleops.bucket import open_bucket
from kaggleops.bucket.location import bucket_uri, tracking_uri
from kaggleops.errors import KaggleOpsError, UsageError, explained
from kaggleops.git.bundles import fetch_or_unbundle, mounted_bundle, mounted_bundles
from kaggleops.git.checkouts import fetch_bundle
from kaggleops.git.commits import Commit
from kaggleops.mlruns import EntityStore
from kaggleops.platforms import Platform, detect
from kaggleops.platforms.network import has_internet, how_to_switch_on
from kaggleops.platforms.sign_in import sign_in
from kaggleops.printable import printable
from kaggleops.project.child_output import child_output_shown
from kaggleops.project.launch import Launch, launch_in, temporary_folder
from kaggleops.project.overrides import Overrides
from kaggleops.reports.charts import Points, chart, history, losses
from kaggleops.reports.last_runs import headline, last_runs, table
from kaggleops.tracking.session import session

if TYPE_CHECKING:
    import pandas as pd

LEAST_DISK = 1.0
"""GB without which a training would end with a full disk rather than with a model."""

_PATIENCE = 30.0  # seconds that somebody waits for a bucket out of reach

_Method = TypeVar("_Method", bound=Callable[..., Any])


def echo(text: str) -> None:
    """Print a text as what it is."""
    click.echo(printable(text, lines=True))


def _one_line_errors(method: _Method) -> _Method:
    """Let an error that a user can understand fail the cell with its line and no stack trace."""

    @functools.wraps(method)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except Exception as raised:
            error = explained(raised)
            if error is None:
                raise
            raise SystemExit(f"error: {error}") from None

    return cast("_Method", checked)


class Notebook:
    """One notebook's work with one bucket: prints the machine, and signs in.

    Args:
        bucket: where its runs go, as people type it.

    Raises:
        SystemExit: the bucket cannot be used, or the machine has no space; with one line.
    """

    @_one_line_errors
    def __init__(self, bucket: str) -> None:
        self.platform = detect()
        echo(f"Machine  {self.platform.describe()}")
        _require_disk(self.platform)
        if not bucket:
            raise UsageError(
                "choosing the bucket", "none is named", "Fill in `bucket` in the cell above."
            )
        self.bucket = self._reachable(bucket_uri(bucket))
        used = sign_in(self.platform, self.bucket)
        _require_bucket(self.bucket)
        echo(f"Bucket   {self.bucket}")
        echo(f"Sign-in  {used}")

    def _reachable(self, bucket: str) -> str:
        """Return the bucket or, without a network but with the code at hand, one in a folder."""
        self.offline = not has_internet()
        if not bucket.startswith("gs://") or not self.offline:
            return bucket
        if not mounted_bundles(self.platform.inputs):
            hint = how_to_switch_on(self.platform)
            raise KaggleOpsError(f"reaching {bucket}", "this machine has no internet", hint)
        here = self.platform.folder / "bucket"
        echo("Offline  the runs stay in this notebook's output. Download it, and bring them home:")
        echo(f"         kaggleops import OUTPUT/{here.name} --bucket {bucket}")
        return bucket_uri(str(here))

    @_one_line_errors
    def train(
        self,
        repository: str,
        version: str = "",
        experiment: str = "",
        overrides: str = "",
        run_id: str = "",
    ) -> Run:
        """Fetch a commit, run it here with `mlflow.projects.run`, and return its finished run.

        Args:
            repository: a git repository with an MLproject file.
            version: a commit, branch or tag; the newest commit of its default branch if empty.
            experiment: the experiment's name; the task's if empty.
            overrides: `key=value`, quoted as for a shell.
            run_id: a run to go on with, from its own commit; a new one if empty.

        Raises:
            SystemExit: something is wrong with these, or the training failed; with one line.
        """
        what = Launch(
            tracking_uri=tracking_uri(self.bucket),
            overrides=Overrides(_split(overrides)),
            experiment=experiment or None,
            run_id=run_id or None,
        )
        with temporary_folder() as folder:
            if run_id:
                version = _commit_of(what.tracking_uri, run_id, version)
            commit = self._fetch(repository, version, folder)
            echo(f"Commit   {commit.sha}  {commit.subject}")
            echo(f"         {commit.link or commit.origin}")
            try:
                with child_output_shown():
                    return launch_in(commit.repository, commit, what)
            finally:
                self._flush()

    def _fetch(self, repository: str, version: str, folder: Path) -> Commit:
        # With a network an empty version is the repository's newest commit, whatever is mounted.
        if version or self.offline:
            mounted = mounted_bundle(self.platform.inputs, version)
            if mounted:
                return fetch_bundle(mounted, repository, folder / "code", version)
        bucket = open_bucket(self.bucket, patience=_PATIENCE)
        return fetch_or_unbundle(repository, version or "HEAD", folder, bucket)

    def _flush(self) -> None:
        # What cannot be sent now is kept, and a warning has said so: the run's own end counts.
        session(self.bucket).send()

    @_one_line_errors
    def result(self, run: Run) -> None:
        """Print what a run came to, and show its loss."""
        client = mlflow.MlflowClient(tracking_uri(self.bucket))
        echo(f"Run        {run.info.run_id}  {run.info.run_name}")
        for name, value in headline(run.data.metrics):
            echo(f"{name:<24}{value:.4f}")
        echo(f"Artifacts  {run.info.artifact_uri}")
        echo(f"Show it    kaggleops ui --bucket {self.bucket}")
        _show(losses(client, run), f"{run.info.run_name}", "loss")

    @_one_line_errors
    def last_runs(self, run: Run) -> None:
        """Print the last runs of a run's experiment, with their commits."""
        client = mlflow.MlflowClient(tracking_uri(self.bucket))
        name = client.get_experiment(run.info.experiment_id).name
        echo(f"The last runs of {name!r}:")
        echo(table(last_runs(client, run.info.experiment_id), mark=run.info.run_id))

    @_one_line_errors
    def runs(self, experiment: str = "") -> "pd.DataFrame":
        """Return the bucket's runs, the latest first, as `mlflow.search_runs` does.

        Args:
            experiment: only this experiment's; all experiments' if empty.

        Raises:
            SystemExit: there are none; with one line.
        """
        mlflow.set_tracking_uri(tracking_uri(self.bucket))
        names = [experiment] if experiment else None
        found = mlflow.search_runs(experiment_names=names, search_all_experiments=not names)
        if found.empty:
            problem = f"experiment {experiment!r} has no runs" if experiment else "it has no runs"
            raise UsageError(f"reading {self.bucket}", problem, "Check the bucket and the name.")
        return found

    @_one_line_errors
    def curves(self, runs: "pd.DataFrame", metric: str) -> None:
        """Show a metric's curves over its steps.

        Args:
            runs: rows of `runs`; each curve is called by its run's commit and name.
            metric: the metric's name.
        """
        client = mlflow.MlflowClient(tracking_uri(self.bucket))
        found = {}
        for _, row in runs.iterrows():
            commit = str(row.get(f"tags.{MLFLOW_GIT_COMMIT}") or "")[:7]
            name = f"{commit} {row['tags.mlflow.runName']}"
            found[name] = history(client, row["run_id"], metric)
        _show({name: points for name, points in found.items() if points}, metric, metric)


def _show(curves: Mapping[str, Points], title: str, ylabel: str) -> None:
    if not curves:
        echo(f"No {ylabel} was logged over its steps, so there is no chart.")
        return
    try:
        picture = chart(curves, title, ylabel)
    except ImportError:
        echo("Install matplotlib to see a chart.")
        return
    from IPython.display import Image, display

    display(Image(picture))


def _split(overrides: str) -> list[str]:
    try:
        return shlex.split(overrides)
    except ValueError as error:
        hint = "Quote each as for a shell: \"seed=7 'data.dir=my folder'\""
        raise UsageError("reading `overrides`", str(error), hint) from None


def _commit_of(tracking: str, run_id: str, version: str) -> str:
    """Return the commit that a run is pinned to."""
    doing = f"going on with run {run_id}"
    try:
        run = mlflow.MlflowClient(tracking).get_run(run_id)
    except MlflowException as error:
        raise UsageError(doing, error.message, "Copy its id from the UI or the table.") from None
    pinned: str = run.data.tags.get(MLFLOW_GIT_COMMIT, "")
    if version and pinned and not pinned.startswith(version):
        problem = f"it is pinned to commit {pinned}, not to {version}"
        raise UsageError(doing, problem, "Leave `version` empty.")
    return pinned or version


def _require_disk(platform: Platform) -> None:
    if platform.free_disk < LEAST_DISK:
        problem = f"{platform.free_disk:.1f} GB are free in {platform.folder}"
        hint = f"Delete what is not needed: a training wants {LEAST_DISK:.0f} GB at least."
        raise KaggleOpsError("looking for space", problem, hint)


def _require_bucket(bucket: str) -> None:
    opened = open_bucket(bucket, patience=_PATIENCE)
    opened.prepare()
    EntityStore(opened).check()
