"""What the cells of notebooks/run.ipynb do; each may be run twice.

An error that a user can understand is one line that fails the notebook: Kaggle shows it as failed,
and by then everything that was logged has been sent.

What child processes write to the file descriptors of this process is shown in some kernels and
lost in others. So what a training prints is written on, to a notebook's cell or to Kaggle's log, as
lines with the time that has passed. Of a progress bar, which redraws its line, a state is shown now
and then, and the last one: a log keeps every state as a line of its own.
"""

import functools
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.projects.utils import load_project
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT
from packaging.utils import canonicalize_name

from kaggleops import tags
from kaggleops.bucket import open_bucket
from kaggleops.bucket.location import bucket_uri, is_remote, service_url, tracking_uri
from kaggleops.errors import KaggleOpsError, UsageError, explained
from kaggleops.git.checkouts import fetch_bundle, fetch_or_unbundle, mounted_bundle, mounted_bundles
from kaggleops.git.commits import Commit
from kaggleops.launch.launcher import (
    Launch,
    is_to_be_continued,
    launch_in,
    temporary_folder,
    tracked_in,
)
from kaggleops.launch.overrides import Overrides
from kaggleops.mlruns import EntityStore
from kaggleops.platforms import detect
from kaggleops.platforms.machine import process_began, reaches
from kaggleops.printable import printable
from kaggleops.reports.charts import Points, chart, headline, history, last_runs, losses, table
from kaggleops.reports.outcome import tell_outcome
from kaggleops.session_end import SESSION_ENDS, TO_BE_CONTINUED
from kaggleops.tracking.session import session

if TYPE_CHECKING:
    import pandas as pd

    from kaggleops.reports.score import Score


def _timed() -> Callable[[str], None]:
    """Return what prints a line with the time that has passed since now."""
    # A kernel's own stream: where a thread prints, it leads to the cell that runs.
    started, target = time.monotonic(), sys.stdout

    def show(line: str) -> None:
        passed = int(time.monotonic() - started)
        print(f"{passed // 60:3d}:{passed % 60:02d}  {line}", file=target, flush=True)

    return show


LEAST_DISK = 1.0
"""GB without which a training would end with a full disk rather than with a model."""

_HYDRA = r"\bhydra-core\b(?:(?:[<>!=~]=|[<>])[\w.,*<>=!~]+)?"

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


def exit_code(run: Run) -> int:
    """Return what a program ends with that has run a commit: 0, or "to be continued"."""
    return TO_BE_CONTINUED if is_to_be_continued(run) else 0


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
        if self.platform.free_disk < LEAST_DISK:
            problem = f"{self.platform.free_disk:.1f} GB are free in {self.platform.folder}"
            hint = f"Delete what is not needed: a training needs at least {LEAST_DISK:.0f} GB."
            raise KaggleOpsError("checking the disk", problem, hint)
        if not bucket:
            hint = "Fill in `bucket` in the cell above."
            raise UsageError("choosing the bucket", "none is named", hint)
        self.bucket = self._reachable(bucket_uri(bucket))
        self.uri = tracking_uri(self.bucket)
        used = self.platform.sign_in(self.bucket)
        self.store = EntityStore(open_bucket(self.bucket, patience=_PATIENCE))
        self.store.bucket.prepare()
        self.store.check()
        echo(f"Bucket   {self.bucket}")
        echo(f"Sign-in  {used}")

    def _reachable(self, bucket: str) -> str:
        """Return the bucket or, without a network but with the code at hand, one in a folder."""
        self.offline = not reaches(service_url(bucket))
        if not is_remote(bucket) or not self.offline:
            return bucket
        if not mounted_bundles(self.platform.inputs):
            hint = self.platform.network_hint
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
        session_hours: str = "",
    ) -> Run:
        """Fetch a commit, run it here with MLflow, and return its run: finished or to be continued.

        Args:
            repository: a git repository with an MLproject file.
            version: a commit, branch or tag; the newest commit of its default branch if empty.
            experiment: the experiment's name; the task's if empty.
            overrides: `key=value`, quoted as for a shell.
            run_id: a run to continue, from its own commit; a new one if empty.
            session_hours: after how many hours this session ends; the platform's own limit if
                empty.

        Raises:
            SystemExit: something is wrong with these, or the training failed; with one line.
        """
        what = Launch(
            tracking_uri=self.uri,
            overrides=Overrides(_split(overrides)),
            experiment=experiment or None,
            run_id=run_id or None,
            session_ends=self._session_ends(session_hours),
        )
        with temporary_folder() as folder:
            if run_id:
                version = _commit_of(what.tracking_uri, run_id, version)
            commit = self._fetch(repository, version, folder)
            echo(f"Commit   {commit.sha}  {commit.subject}")
            echo(f"         {commit.link or commit.origin}")
            install_hydra(commit.repository, self.platform.inputs)
            try:
                run = launch_in(commit.repository, commit, what, show=_timed())
                tell_outcome(what.tracking_uri, run)
            finally:
                # What cannot be sent now is kept, and a warning has said so: the run's end counts.
                session(self.bucket).send()
        if is_to_be_continued(run):
            echo(f"To be continued {run.data.tags[tags.TO_BE_CONTINUED]}")
            echo(f"         kaggleops resume {run.info.run_id}")
        return run

    def _session_ends(self, hours: str) -> float | None:
        """Return when this session ends, if whoever started the machine does not say so."""
        if os.environ.get(SESSION_ENDS):
            return None
        try:
            longest = float(hours) if hours else self.platform.session_hours
        except ValueError:
            hint = "Write 12, or leave it empty."
            raise UsageError("reading `session_hours`", f"{hours!r} is no number", hint) from None
        # The kernel begins with the session, and what is installed before this takes its time.
        return process_began() + longest * 3600 if longest else None

    def _fetch(self, repository: str, version: str, folder: Path) -> Commit:
        # With a network an empty version is the repository's newest commit, whatever is mounted.
        mounted = version or self.offline
        if mounted and (file := mounted_bundle(self.platform.inputs, version)):
            return fetch_bundle(file, repository, folder / "code", version)
        return fetch_or_unbundle(repository, version or "HEAD", folder, self.store.bucket)

    @_one_line_errors
    def result(self, run: Run) -> None:
        """Print what a run came to, and show its loss."""
        echo(f"Run        {run.info.run_id}  {run.info.run_name}")
        for name, value in headline(run.data.metrics):
            echo(f"{name:<24}{value:.4f}")
        echo(f"Artifacts  {run.info.artifact_uri}")
        echo(f"Show it    kaggleops ui --bucket {self.bucket}")
        _show_chart(losses(mlflow.MlflowClient(self.uri), run), f"{run.info.run_name}", "loss")

    @_one_line_errors
    def last_runs(self, run: Run) -> None:
        """Print the last runs of a run's experiment, with their commits."""
        client = mlflow.MlflowClient(self.uri)
        name = client.get_experiment(run.info.experiment_id).name
        echo(f"The last runs of {name!r}:")
        runs = last_runs(client, self.store, run.info.experiment_id)
        echo(table(runs, mark=run.info.run_id))

    @_one_line_errors
    def runs(self, experiment: str = "") -> "pd.DataFrame":
        """Return the bucket's runs, of one experiment or of all, as `mlflow.search_runs` does.

        Raises:
            SystemExit: there are none; with one line.
        """
        names = [experiment] if experiment else None
        with tracked_in(self._indexed()):
            found = mlflow.search_runs(experiment_names=names, search_all_experiments=not names)
        if found.empty:
            problem = f"experiment {experiment!r} has no runs" if experiment else "it has no runs"
            raise UsageError(f"reading {self.bucket}", problem, "Check the bucket and the name.")
        return found

    @staticmethod
    def of_commits(runs: "pd.DataFrame") -> "pd.DataFrame":
        """Return those rows of `runs` that stand for their commit, as on the leaderboard.

        No run of uncommitted changes is one, nor what is nested below it.
        """
        above, changed = (runs.get(f"tags.{name}") for name in (tags.PARENT, tags.UNCOMMITTED))
        if changed is None:
            return runs
        left_out, before = changed.notna(), 0
        while above is not None and before < left_out.sum():
            before = left_out.sum()
            left_out |= above.isin(runs["run_id"][left_out])
        return runs[~left_out]

    @_one_line_errors
    def score(self, runs: "pd.DataFrame", metric: str = "") -> "Score":
        """Return the metric by which runs are compared: the one that is named, else their score.

        Raises:
            SystemExit: none has it, or nothing looks like a score; with one line.
        """
        from kaggleops.reports.score import declared, named, require_score
        from kaggleops.tags import SCORE

        counts = runs.filter(regex=r"^metrics\.").count()
        counted = {str(name).removeprefix("metrics."): int(count) for name, count in counts.items()}
        if not metric:
            told = runs[f"tags.{SCORE}"].dropna().tolist() if f"tags.{SCORE}" in runs else []
            return require_score(counted, declared({SCORE: told[0]} if told else {}), "comparing")
        if metric not in counted:
            listed = ", ".join(sorted(counted)[:8])
            hint = "Name one of them, or leave `metric` empty for the score."
            problem = f"no run has it; there are: {listed}"
            raise UsageError(f"comparing by {metric!r}", problem, hint)
        return named(metric)

    def _indexed(self) -> str:
        """Return where many runs are read: an index of the bucket, which is brought up to date."""
        try:
            import kaggleops.index.stores  # noqa: F401
            from kaggleops.index.refresh import Index
        except ImportError:  # mlflow-skinny brings no SQLAlchemy
            return self.uri
        from kaggleops.server.settings import default_index

        url = default_index(self.bucket)
        with closing(Index(url, self.store)) as index:
            index.refresh()
        return f"kaggleops+{url}"

    @_one_line_errors
    def curves(self, runs: "pd.DataFrame", metric: str) -> None:
        """Show a metric's curves over its steps, for rows of `runs`, by their commits and names."""
        client, found = mlflow.MlflowClient(self.uri), {}
        for _, row in runs.iterrows():
            commit = str(row.get(f"tags.{MLFLOW_GIT_COMMIT}") or "")[:7]
            if points := history(client, row["run_id"], metric):
                found[f"{commit} {row['tags.mlflow.runName']}"] = points
        _show_chart(found, metric, metric)


def install_hydra(project: Path, inputs: Path | None) -> None:
    """Install Hydra where a project's environment names it and this machine lacks it.

    The core does without it; what this machine has stays as it is. `project` is the folder of the
    commit's files, `inputs` where datasets are attached, one with Hydra's wheel perhaps. Raises
    KaggleOpsError if it cannot be installed.
    """
    try:
        environment = load_project(str(project)).env_config_path
    except Exception:  # noqa: BLE001 - what is wrong with the MLproject is told where it is run
        return
    named = re.search(_HYDRA, Path(environment).read_text()) if environment else None
    if named is None or find_spec("hydra"):
        return
    wheels = [*inputs.glob("*/hydra_core-*"), *inputs.glob("*/*/*/hydra_core-*")] if inputs else []
    offline = ["--no-index", "--find-links", str(wheels[0].parent)] if wheels else []
    # As the notebook's first cell does: nothing else changes.
    there = {
        canonicalize_name(each.metadata["Name"]): each.version
        for each in reversed(list(distributions()))  # of two of a name the first is imported
        if "Name" in each.metadata and "Version" in each.metadata
    }
    tools = [[sys.executable, "-m", "pip", "install", "--no-compile", "--no-warn-conflicts"]]
    if uv := shutil.which("uv") or shutil.which("uv", path=str(Path.home() / ".local/bin")):
        tools.insert(0, [uv, "pip", "install", "--python", sys.executable])
    with temporary_folder() as folder:
        kept = folder / "kept.txt"
        kept.write_text("\n".join(f"{name}=={version}" for name, version in there.items()))
        for tool in tools:
            command = [*tool, "--quiet", "--constraint", str(kept), *offline, named[0]]
            done = subprocess.run(command, capture_output=True, text=True)
            if not done.returncode:
                break
        else:
            reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            hint = "Is the internet switched on?"
            raise KaggleOpsError(f"installing {named[0]}", reason, hint)
    importlib.invalidate_caches()
    echo(f"Install  {named[0]}, which the project's {Path(environment).name} names")


def _show_chart(curves: Mapping[str, Points], title: str, ylabel: str) -> None:
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
    doing = f"continuing run {run_id}"
    try:
        run = mlflow.MlflowClient(tracking).get_run(run_id)
    except MlflowException as error:
        raise UsageError(doing, error.message, "Copy its id from the UI or the table.") from None
    pinned: str = run.data.tags.get(MLFLOW_GIT_COMMIT, "")
    if version and pinned and not pinned.startswith(version):
        problem = f"it is pinned to commit {pinned}, not to {version}"
        raise UsageError(doing, problem, "Leave `version` empty.")
    return pinned or version
