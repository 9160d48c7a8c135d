"""The `kaggleops` command: one click group, thin.

Exit codes: 0 done, 1 it failed, 2 it was called wrongly. Errors are one line on stderr; results go
to stdout, as a table or, with `--json`, as JSON.
"""

import json
import logging
import os
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import Progress
from rich.text import Text

from kaggleops import __version__
from kaggleops.bucket import open_bucket
from kaggleops.bucket.location import bucket_uri, tracking_uri
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.settings import default_bucket

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


class _Group(click.Group):
    """Turns the errors a user can understand into one line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except Exception as raised:
            error = _explained(raised)
            if error is None:
                raise
            _print_error(error)
            sys.exit(2 if isinstance(error, UsageError) else 1)


def _explained(raised: BaseException | None) -> KaggleOpsError | None:
    # MLflow's interface wraps our errors in its own.
    while raised is not None and not isinstance(raised, KaggleOpsError):
        raised = raised.__cause__ or raised.__context__
    return raised


_bucket = click.option(
    "--bucket",
    metavar="URI",
    help="gs://BUCKET[/PREFIX] or a folder. Default: MLFLOW_TRACKING_URI, then config/local.yaml.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """MLflow whose tracking server is a bucket."""
    handler = RichHandler(console=err, show_time=False, show_path=False, markup=False)
    logging.getLogger("kaggleops").addHandler(handler)


def _bucket_of(named: str | None) -> str:
    found = named or default_bucket(Path())
    if found is None:
        raise UsageError(
            "choosing a bucket",
            "none is named",
            "Add --bucket gs://BUCKET (or a folder), or write `bucket: …` into config/local.yaml.",
        )
    return bucket_uri(found)


@main.command("run")
@click.argument("overrides", nargs=-1)
@_bucket
@click.option("--version", metavar="COMMIT", help="A commit, branch or tag. Default: HEAD.")
@click.option("--experiment", metavar="NAME", help="Default: the task's name.")
@click.option(
    "--repository",
    type=click.Path(path_type=Path),
    default=Path(),
    help="A folder of the git repository. Default: this one.",
)
@click.option("--entry-point", default="main", show_default=True, help="Of the MLproject file.")
@_json
def run_command(
    overrides: Sequence[str],
    bucket: str | None,
    version: str | None,
    experiment: str | None,
    repository: Path,
    entry_point: str,
    as_json: bool,
) -> None:
    """Run a commit of this repository here, its run in the bucket.

    OVERRIDES are KEY=VALUE, as in `task=tweet_sentiment model=minilm data.dir=../data`: the entry
    point's parameters, and any key of the configuration.
    """
    from kaggleops.project.git import find_commit
    from kaggleops.project.launch import Launch, launch
    from kaggleops.project.overrides import Overrides

    place = _bucket_of(bucket)
    commit = find_commit(repository, version)
    err.print(f"[bold]Commit[/]  {commit.sha[:10]}  {commit.subject}", highlight=False)
    if commit.uncommitted:
        files = "file is" if commit.uncommitted == 1 else "files are"
        err.print(
            f"        {commit.uncommitted} changed {files} not in it: commit to run them too.",
            style="yellow",
            highlight=False,
        )
    err.print(f"[bold]Bucket[/]  {place}", highlight=False)
    what = Launch(
        tracking_uri=tracking_uri(place),
        overrides=Overrides(overrides, Path()),
        entry_point=entry_point,
        experiment=experiment,
    )
    with _stdout_for_the_result() if as_json else nullcontext():
        run = launch(commit, what)
    show = f"kaggleops ui --bucket {place}"
    if as_json:
        _print_json(
            run_id=run.info.run_id,
            experiment_id=run.info.experiment_id,
            status=run.info.status,
            commit=commit.sha,
            link=commit.link,
            metrics=run.data.metrics,
            artifacts=run.info.artifact_uri,
            show=show,
        )
        return
    _print_rows(
        ("Run", f"{run.info.run_id}  {run.info.run_name}"),
        ("Commit", commit.sha),
        ("", commit.link),
        *((name, f"{value:.4f}") for name, value in _headline(run.data.metrics)),
        ("Artifacts", run.info.artifact_uri),
        ("Show it", show),
    )


@contextmanager
def _stdout_for_the_result() -> Iterator[None]:
    """Let what is run here write to stderr, so that stdout is nothing but JSON."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _print_rows(*rows: tuple[str, str]) -> None:
    # No table of rich's: it would break an address that people want to copy.
    shown = [row for row in rows if row[1]]
    width = max(len(name) for name, _ in shown)
    out.print()
    for name, value in shown:
        out.print(Text(f"{name:<{width}}  ", style="bold"), Text(value), sep="")


def _headline(metrics: dict[str, float]) -> list[tuple[str, float]]:
    """The metrics of the result; those of every step belong into the UI."""
    final = {name: value for name, value in metrics.items() if "/" not in name}
    shown = [name for name in final if not name.startswith(("train_", "eval_", "system"))]
    return [(name, final[name]) for name in sorted(shown)]


@main.command("ui")
@_bucket
@click.option("--experiment", metavar="NAME", help="Which to show. Default: the last used.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, help="Default: 5000, or a free one where that is taken.")
@click.option("--open/--no-open", "open_browser", default=True, help="Open the browser.")
def ui_command(
    bucket: str | None, experiment: str | None, host: str, port: int | None, open_browser: bool
) -> None:
    """Open the MLflow UI over the bucket, until Ctrl-C."""
    from kaggleops.mlruns import EntityStore
    from kaggleops.server.mlflow_server import mlflow_server
    from kaggleops.server.opening import experiment_to_show

    place = _bucket_of(bucket)
    store = EntityStore(open_bucket(place))
    store.check()
    experiment_id = experiment_to_show(tracking_uri(place), experiment)
    with (
        suppress(KeyboardInterrupt),
        err.status("Starting the MLflow server") as status,
        mlflow_server(tracking_uri(place), store.artifact_root, host=host, port=port) as server,
    ):
        status.stop()
        link = server.experiment_link(experiment_id)
        out.print(f"MLflow over {place}\n\n    {link}\n\nCtrl-C ends it.", highlight=False)
        if open_browser:
            webbrowser.open(link)
        server.wait()


@main.command("push")
@_bucket
@_json
def push_command(bucket: str | None, as_json: bool) -> None:
    """Send what runs on this machine could not send before they ended."""
    from kaggleops.mlruns import EntityStore
    from kaggleops.tracking.outbox import send_left_behind

    place = _bucket_of(bucket)
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("Sending", total=None)
        sent = send_left_behind(
            EntityStore(open_bucket(place)),
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        _print_json(
            sent=[str(entity_id) for entity_id in sent.entities],
            in_use=[str(folder) for folder in sent.in_use],
            problems=sent.problems,
        )
    else:
        for entity_id in sent.entities:
            out.print(f"sent {entity_id}", highlight=False)
        if sent.in_use:
            err.print(f"{len(sent.in_use)} processes still run and send what is theirs.")
        if not sent.entities and not sent.problems:
            out.print(f"Nothing was left behind: {place} has everything.", highlight=False)
    for problem in sent.problems:
        _print_error(problem)
    if sent.problems:
        sys.exit(1)


def _print_json(**content: Any) -> None:
    click.echo(json.dumps(content, indent=2))


def _print_error(message: object) -> None:
    err.print("[bold red]error:[/]", Text(str(message)))
