"""Submitting to a backend, as `run -b`, `reproduce -b` and `resume` do; and `kaggleops submit`."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.options import NumberRange, bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, print_json, print_named, print_rows, stdout_for_json
from kaggleops.errors import UsageError
from kaggleops.tags import COMMIT, PRICE, RUN_NAME

if TYPE_CHECKING:
    from kaggleops.backends.base import Backend
    from kaggleops.backends.kaggle.submissions import Submission
    from kaggleops.backends.remote_run import RemoteRun
    from kaggleops.git.commits import Commit
    from kaggleops.launch.launcher import Launch

backend_option = click.option(
    "-b", "--backend", metavar="NAME", help="kaggle, colab, runpod, docker or manual."
)
backend_config_option = click.option(
    "--backend-config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="YAML or JSON. Default: the repository's config/backend/NAME.yaml, if there is one.",
)


def money_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of backends that cost money (a decorator)."""
    budget = click.option(
        "--budget",
        metavar="DOLLARS",
        type=NumberRange(min=0, min_open=True),
        help="The most that the machine may cost. (runpod)",
    )
    keep = click.option(
        "--keep",
        is_flag=True,
        help="Keep the machine until its hours are over, to connect by SSH. (runpod)",
    )
    return budget(keep(command))


def money(budget: float | None, keep: bool) -> dict[str, Any]:
    """Return the options of `money_options` as fields of a backend's configuration."""
    return ({} if budget is None else {"budget": budget}) | ({"keep": True} if keep else {})


def read_backend_config(
    backend: "Backend[Any]", named: Path | None, repository: Path, options: Mapping[str, Any]
) -> Any:
    """Return a backend's configuration.

    Args:
        backend: the backend.
        named: its file; by default the repository's, if there is one.
        repository: the repository's folder.
        options: fields that override the file's.

    Raises:
        UsageError: it cannot be read, or does not fit this backend.
    """
    from kaggleops.backends.config import read_file

    known = {field.name for field in fields(backend.config_type)}
    for option in options:
        if option not in known:
            raise UsageError(f"submitting to {backend.name}", f"it has no option --{option}")
    file = named or repository / "config/backend" / f"{backend.name}.yaml"
    if named is None and not file.is_file():
        return backend.read_config(options, "no configuration")
    return backend.read_config({**read_file(file), **options}, str(file))


def announce(backend: "Backend[Any]", config: Any) -> None:
    """Print what a job will cost; KaggleOpsError if that is over its budget."""
    if said := backend.announce(config):
        print_named(backend.name.capitalize(), said)
    if there := backend.machines():
        err.print(f"{'':{len(backend.name)}}  {there}")


def submit(
    commit: "Commit",
    what: "Launch",
    backend_name: str,
    config_file: Path | None,
    as_json: bool,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Submit a commit to a backend, and print where it is.

    Args:
        commit: the commit.
        what: what to run of it.
        backend_name: the backend's name.
        config_file: the file of its configuration.
        as_json: whether to print JSON.
        options: fields that override the file's.

    Raises:
        KaggleOpsError: it cannot be run there.
    """
    from kaggleops.backends.lookup import backend_named

    backend = backend_named(backend_name)
    config = read_backend_config(backend, config_file, commit.repository, options or {})
    announce(backend, config)
    with stdout_for_json(as_json):
        run = backend.submit(commit, what, config)
    show_submitted(run, as_json)


def show_submitted(run: "RemoteRun", as_json: bool) -> None:
    """Print a run that was submitted."""
    backend, tags = run.backend, run.tags
    if as_json:
        print_json(
            run_id=run.run_id,
            status=run.get_status(),
            backend=backend.name,
            commit=tags.get(COMMIT),
            page=run.page,
            price_per_hour=float(tags[PRICE]) if tags.get(PRICE) else None,
            steps=backend.steps(tags),
        )
        return
    print_rows(
        ("Run", f"{run.run_id}  {tags.get(RUN_NAME, '')}"),
        (backend.name.capitalize(), run.page or run.get_status()),
        *(("", step) for step in backend.steps(tags)),
        ("Follow it", "" if backend.steps(tags) else f"kaggleops logs -f {run.run_id}"),
        ("Cancel it", f"kaggleops cancel {run.run_id}"),
    )


@click.command("submit")
@click.argument("run")
@bucket_option
@click.option("--file", metavar="FILE", help="Default: the run's artifact submission.csv.")
@click.option("--message", default="", help="Default: the run's name and its commit.")
@click.option("--competition", metavar="NAME", default="", help="Default: the declared data's.")
@click.option("--notebook", is_flag=True, help="Submit the run's notebook, for a code competition.")
@click.option("--scores", is_flag=True, help="Submit nothing; record the current score.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the score.")
@json_option
def submit_command(
    run: str,
    bucket: str | None,
    file: str | None,
    message: str,
    competition: str,
    notebook: bool,
    scores: bool,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Submit a run's predictions to its Kaggle competition.

    The file is checked against sample_submission.csv first. The score is recorded on the run and
    on the runs whose models it used, so `kaggleops leaderboard` shows it beside their own.

    \b
    Example:
      kaggleops submit RUN --competition tweet-sentiment-extraction
    """
    from kaggleops.backends.kaggle.submissions import Submitter

    if notebook and scores:
        raise UsageError("submitting", "--notebook and --scores exclude each other")
    with stdout_for_json(as_json):
        submitter = Submitter(tracking_uri(bucket_of(bucket)), run, competition)
        if scores:
            done = submitter.submitted()
        elif notebook:
            done = submitter.submit_notebook(file or "", message)
        else:
            done, checked = submitter.submit(Path(file) if file else None, message)
            if not checked:
                err.print("The competition has no sample_submission.csv to compare with.")
        if not (no_wait or scores):
            with err.status(f"Waiting for the score of submission {done.ref}"):
                done = submitter.wait(done)
    _show(done, as_json)


def _show(done: "Submission", as_json: bool) -> None:
    if as_json:
        print_json(
            ref=done.ref,
            competition=done.competition,
            status=done.status,
            public_score=done.public_score,
            private_score=done.private_score,
            submitted=done.submitted.isoformat() if done.submitted else None,
            page=done.page,
        )
        return
    print_rows(
        ("Submission", f"{done.ref} to {done.competition}, {done.status.lower()}"),
        ("Public score", "" if done.public_score is None else f"{done.public_score:g}"),
        ("Private score", "" if done.private_score is None else f"{done.private_score:g}"),
        ("Page", done.page),
    )
