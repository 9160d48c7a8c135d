"""`kaggleops run`."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.options import (
    bucket_of,
    bucket_option,
    json_option,
    repository_option,
    secrets_option,
    version_option,
)
from kaggleops.cli.output import err, print_json, print_named, print_rows, stdout_for_the_result
from kaggleops.cli.submitting import (
    backend_config_option,
    backend_option,
    money,
    money_options,
    submit,
)
from kaggleops.errors import UsageError

if TYPE_CHECKING:
    from kaggleops.git.commits import Commit


@click.command("run")
@click.argument("overrides", nargs=-1)
@bucket_option
@version_option
@click.option("--experiment", metavar="NAME", help="Default: the task's name.")
@repository_option
@click.option("--uncommitted", is_flag=True, help="Run what is not committed too.")
@secrets_option
@click.option(
    "-e", "--entry-point", default="main", show_default=True, help="Of the MLproject file."
)
@backend_option
@backend_config_option
@money_options
@json_option
def run_command(
    overrides: Sequence[str],
    bucket: str | None,
    version: str | None,
    experiment: str | None,
    repository: Path,
    uncommitted: bool,
    allow_secrets: bool,
    entry_point: str,
    backend: str | None,
    backend_config: Path | None,
    budget: float | None,
    keep: bool,
    as_json: bool,
) -> None:
    """Run a commit of this repository, its run in the bucket: here, or where a backend runs it.

    OVERRIDES are KEY=VALUE, as in `task=tweet_sentiment model=minilm data.dir=../data`: the entry
    point's parameters, and any key of the configuration.

    With --backend it is handed over, and the command ends: `kaggleops status` and `logs` follow it.
    """
    from kaggleops.git.commits import find_commit
    from kaggleops.project.overrides import Overrides

    place = bucket_of(bucket)
    commit = find_commit(repository, version)
    print_named("Commit", f"{commit.sha[:10]}  {commit.subject}")
    _check_uncommitted(commit, version, uncommitted)
    print_named("Bucket", place)
    # Not before: importing MLflow takes seconds, and people wait for what is wrong.
    from kaggleops.project.launch import Launch, launch
    from kaggleops.reports.last_runs import headline

    what = Launch(
        tracking_uri=tracking_uri(place),
        overrides=Overrides(overrides, None if backend else Path()),
        entry_point=entry_point,
        experiment=experiment,
        allow_secrets=allow_secrets,
    )
    if backend:
        if uncommitted:
            problem = "another machine only gets the commit"
            raise UsageError("submitting uncommitted changes", problem, "Commit them first.")
        submit(commit, what, backend, backend_config, as_json, money(budget, keep))
        return
    if money(budget, keep):
        raise UsageError("running here", "--budget and --keep are for machines that cost money")
    with stdout_for_the_result() if as_json else nullcontext():
        run = launch(commit, what, uncommitted=uncommitted and commit.uncommitted > 0)
    show = f"kaggleops ui --bucket {place}"
    if as_json:
        print_json(
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
    print_rows(
        ("Run", f"{run.info.run_id}  {run.info.run_name}"),
        ("Commit", commit.sha),
        ("", commit.link),
        *((name, f"{value:.4f}") for name, value in headline(run.data.metrics)),
        ("Artifacts", run.info.artifact_uri),
        ("Show it", show),
    )


def _check_uncommitted(commit: "Commit", version: str | None, allowed: bool) -> None:
    """Refuse to run with uncommitted changes unseen; say what becomes of them."""
    if not commit.uncommitted:
        if allowed and version:
            problem = f"they are not changes of {version}"
            raise UsageError("running uncommitted changes", problem, "Leave out --version.")
        return
    files = "1 file is" if commit.uncommitted == 1 else f"{commit.uncommitted} files are"
    if allowed:
        said = f"        {files} not in it: run too, as a patch that the run carries."
    elif version:
        said = f"        {files} not in it, and not run."
    else:
        raise UsageError(
            f"running {commit.sha[:10]}",
            f"{files} changed and not committed",
            "Commit, or add --uncommitted to run them too, or --version HEAD to run without them.",
        )
    err.print(said, style="yellow")
