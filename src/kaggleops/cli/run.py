"""`kaggleops run`."""

import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli import options
from kaggleops.cli.output import as_typed, err, print_error, print_json, print_named, print_rows
from kaggleops.cli.submission import follow as follow_to_its_end
from kaggleops.cli.submission import run_here, submit
from kaggleops.errors import UsageError, explained
from kaggleops.printable import counted
from kaggleops.session_end import TO_BE_CONTINUED

if TYPE_CHECKING:
    from mlflow.entities import Run

    from kaggleops.git.commits import Commit
    from kaggleops.launch.launcher import Launch
    from kaggleops.reports.selection import Requirement

_METRICS = 10  # shown at a run's end
_GOOD, _BAD, _UNKNOWN, _STOP = 0, 1, 125, 128
"""How `git bisect run` reads a command's exit code: from 128 on it stops."""


class _Judging(click.Command):
    """With --require, a usage error or an unreachable bucket does not make a commit bad."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **more: Any) -> Any:
        judging = any(each.startswith("--require") for each in args)
        try:
            return super().make_context(info_name, args, *rest, **more)
        except click.UsageError as error:
            if not judging:
                raise
            error.show()
            sys.exit(_STOP)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as raised:
            if not ctx.params["require"]:
                raise
            if error := explained(raised):
                print_error(error)
            elif isinstance(raised, Exception):
                traceback.print_exc()
            sys.exit(_STOP)


@click.command("run", cls=_Judging)
@click.argument("overrides", nargs=-1)
@options.bucket
@options.version
@click.option("--experiment", metavar="NAME", help="Default: the task's or the project's name.")
@options.repository
@click.option("--uncommitted", is_flag=True, help="Run uncommitted changes too.")
@options.secrets
@options.entry_point
@click.option(
    "--require",
    metavar="'METRIC>=NUMBER'",
    help="Exit with 1 if it is not met (>=, <=, >, <), with 125 if that cannot be decided. "
    "A finished run of the commit with the same settings is used, if there is one.",
)
@click.option(
    "--hours",
    metavar="H",
    type=options.NumberRange(min=0, min_open=True),
    help="Here, the session ends after so many hours: a training that knows of it is to be "
    "continued then (exit code 42).",
)
@options.backend
@options.backend_config
@click.option("--follow", is_flag=True, help="With -b: show its output, and exit as it ends.")
@options.budget
@options.keep
@options.json
def run_command(
    overrides: Sequence[str],
    bucket: str | None,
    version: str | None,
    experiment: str | None,
    repository: Path,
    uncommitted: bool,
    allow_secrets: bool,
    entry_point: str,
    require: str | None,
    hours: float | None,
    backend: str | None,
    backend_config: Path | None,
    follow: bool,
    **money: Any,
) -> None:
    """Run a commit here or, with --backend, on another machine.

    OVERRIDES are KEY=VALUE: parameters of the entry point, and any key of the configuration. With
    --backend the run is submitted and the command ends, unless it is to --follow; `kaggleops
    status` and `logs` show it later.

    \b
    Examples:
      kaggleops run task=tweet_sentiment model=minilm fold=0
      kaggleops run -b kaggle --version 3f2c1ab
      git bisect run kaggleops run --require 'jaccard>=0.71'
    """
    from kaggleops.git.commits import find_commit
    from kaggleops.launch.overrides import Overrides
    from kaggleops.reports.selection import read_requirement

    elsewhere = "it is for a run on another machine"
    there = {"backend-config": backend_config, "follow": follow, **money}
    only_there = [(f"--{name}", each, elsewhere) for name, each in there.items()]
    only_here = [
        ("--require", require, "a submitted run has no metrics yet"),
        ("--hours", hours, "it is for a run here; set `session_hours` or `hours` for one there"),
        ("--uncommitted", uncommitted, "another machine only gets the commit"),
    ]
    for name, value, why in only_here if backend else only_there:
        if value:
            hint = f"Leave out {name}, or {'leave out' if backend else 'add'} --backend."
            raise UsageError(f"reading {name}", why, hint)
    required = read_requirement(require) if require else None
    place = options.bucket_for_runs(bucket, repository)
    commit = find_commit(repository, version)
    print_named("Commit", f"{commit.sha[:10]}  {commit.subject}")
    # What is checked out changes from step to step of a bisection; what lies beside it does not.
    allowed = None if backend else uncommitted
    check_uncommitted(commit, version or (require and "HEAD"), allowed)
    print_named("Bucket", place)
    options.remember(place, commit.repository)
    # Only now: importing MLflow takes seconds, and people wait to see their mistakes.
    from kaggleops.launch.launcher import Launch, is_to_be_continued

    what = Launch(
        tracking_uri=tracking_uri(place),
        overrides=Overrides(overrides, None if backend else Path()),
        entry_point=entry_point,
        experiment=experiment,
        allow_secrets=allow_secrets,
        session_ends=time.time() + hours * 3600 if hours else None,
    )
    if backend:
        run = submit(commit, what, backend, backend_config, options.given(money))
        if follow:
            sys.exit(follow_to_its_end(run))
        return
    patched = uncommitted and bool(commit.uncommitted)
    if required:
        sys.exit(_judge(commit, what, required, place, patched))
    run = run_here(commit, what, uncommitted=patched)
    _show(run, commit, place)
    if is_to_be_continued(run):
        how = f"kaggleops resume {run.info.run_id} -b local{options.bucket_flag(place)}"
        print_named("Legs", f"to be continued: {'commit, and run that' if patched else how}")
        sys.exit(TO_BE_CONTINUED)


def _judge(
    commit: "Commit", what: "Launch", required: "Requirement", place: str, patched: bool
) -> int:
    """Return the exit code for whether a commit's run meets a requirement."""
    from kaggleops.git.project_files import write_project_files
    from kaggleops.launch.launcher import (
        RunFailedError,
        is_to_be_continued,
        prepared,
        temporary_folder,
    )

    try:
        with temporary_folder() as folder:
            files = write_project_files(commit, folder / "code")
            given, declared, _ = prepared(files, commit, what, None)
    except UsageError as error:  # this commit lacks the entry point, or it takes other parameters
        print_error(error)
        return _UNKNOWN
    params = {name: str(value) for name, value in {**declared, **given}.items()}
    run = None if patched else _finished(commit, what, params, required.metric, place)
    try:
        if run is None:
            run = run_here(commit, what, uncommitted=patched)
    except RunFailedError as error:
        if error.status == "KILLED":
            raise  # somebody cancelled it
        print_error(error)
        return _UNKNOWN
    continued = is_to_be_continued(run)
    value = None if continued else run.data.metrics.get(required.metric)
    met = None if value is None else required.is_met(value)
    _show(run, commit, place, {"required": str(required), "met": met})
    if met is None:
        lacks = (
            "is not done: it is to be continued"
            if continued
            else f"has no metric {required.metric!r}"
        )
        doing = f"judging {commit.sha[:10]} by {required}"
        print_error(UsageError(doing, f"run {run.info.run_id} {lacks}"))
        return _UNKNOWN
    print_named("Good" if met else "Bad", f"{required.metric} is {value:g}; required: {required}")
    return _GOOD if met else _BAD


def _finished(
    commit: "Commit", what: "Launch", params: dict[str, str], metric: str, place: str
) -> "Run | None":
    """Return a finished run with the same settings, if there is one."""
    from mlflow import MlflowClient

    from kaggleops.cli.indexed import history_of
    from kaggleops.reports.selection import finished_run

    with history_of(place, None, anew=True) as history:
        found = finished_run(history, commit.sha, what.entry_point, params, metric)
    if found is None:
        return None
    print_named("Used", f"run {found.id}, finished with the same settings: nothing is trained")
    return MlflowClient(what.tracking_uri).get_run(found.id)


def _show(run: "Run", commit: "Commit", place: str, more: dict[str, Any] | None = None) -> None:
    from kaggleops.reports.charts import headline
    from kaggleops.reports.score import score_of

    show = f"kaggleops ui{options.bucket_flag(place)}"
    told = headline(run.data.metrics)
    if hidden := max(0, len(told) - _METRICS):
        score = score_of(run.data.tags, run.data.metrics)
        told = sorted(told, key=lambda each: score is None or each[0] != score[0].name)
    print_json(
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        status=run.info.status,
        commit=commit.sha,
        link=commit.link,
        metrics=run.data.metrics,
        artifacts=run.info.artifact_uri,
        show=as_typed(show),
        **(more or {}),
    )
    print_rows(
        ("Run", f"{run.info.run_id}  {run.info.run_name}"),
        ("Commit", commit.sha),
        ("", commit.link),
        *((name, f"{value:.4f}") for name, value in told[:_METRICS]),
        ("", f"and {counted(hidden, 'more metric')}" if hidden else ""),
        ("Artifacts", run.info.artifact_uri),
        ("Show it", show),
    )


def check_uncommitted(commit: "Commit", version: str | None, allowed: bool | None = None) -> None:
    """Refuse to ignore uncommitted changes silently; say what happens to them.

    `allowed` is None for a command that cannot run them.
    """
    if not commit.uncommitted:
        if allowed and version:
            problem = f"they do not belong to {version}"
            raise UsageError("running uncommitted changes", problem, "Leave out --version.")
        return
    if allowed:
        kept = "as a patch that is kept with the run"
        said = f"        {commit.changes} new or changed here; that runs too, {kept}."
    elif version:
        said = f"        {commit.changes} new or changed here; that does not run."
    else:
        too = "" if allowed is None else "--uncommitted to run them too, or "
        raise UsageError(
            f"running {commit.sha[:10]}",
            f"{commit.changes} new or changed, and not committed",
            f"Commit what `git status` shows or name it in .gitignore, or add {too}--version HEAD "
            "to run without them.",
        )
    err.print(said, style="yellow")
