"""What `kaggleops run -b` and `kaggleops resume` share: reading a configuration, showing a run.

`kaggleops submit`.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kaggleops.cli.options import NumberRange
from kaggleops.cli.output import err, print_json, print_named, print_rows, stdout_for_the_result
from kaggleops.errors import UsageError
from kaggleops.tags import COMMIT, PRICE

if TYPE_CHECKING:
    from kaggleops.backends.base import Backend
    from kaggleops.backends.remote_run import RemoteRun
    from kaggleops.git.commits import Commit
    from kaggleops.launch.launcher import Launch
from typing import TYPE_CHECKING

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.options import bucket_of, bucket_option, json_option

if TYPE_CHECKING:
    from kaggleops.backends.kaggle.submissions import Submission


backend_option = click.option("-b", "--backend", metavar="NAME", help="kaggle, manual, …")
backend_config_option = click.option(
    "--backend-config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="YAML or JSON. Default: config/backend/NAME.yaml of the repository, if it is there.",
)


def money_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of backends that cost money."""
    budget = click.option(
        "--budget",
        metavar="DOLLARS",
        type=NumberRange(min=0, min_open=True),
        help="What the machine may cost at most; else it is not taken. (runpod)",
    )
    keep = click.option(
        "--keep",
        is_flag=True,
        help="Keep the machine until its hours are over, to look in by SSH. (runpod)",
    )
    return budget(keep(command))


def money(budget: float | None, keep: bool) -> dict[str, Any]:
    """Return the fields of a backend's configuration that the options of `money_options` set."""
    return ({} if budget is None else {"budget": budget}) | ({"keep": True} if keep else {})


def read_backend_config(
    backend: "Backend[Any]", named: Path | None, repository: Path, options: Mapping[str, Any]
) -> Any:
    """Return a backend's configuration, from the file that is named or from the repository's.

    Args:
        backend: whose.
        named: the file.
        repository: where the default one is.
        options: fields that count more than the file's.

    Raises:
        UsageError: it cannot be read, or is not one of this backend's.
    """
    from kaggleops.backends.config import read_file

    known = {field.name for field in fields(backend.config_type)}
    for option in options:
        if option not in known:
            raise UsageError(f"submitting to {backend.name}", f"it takes no --{option}")
    file = named or repository / "config/backend" / f"{backend.name}.yaml"
    if named is None and not file.is_file():
        return backend.read_config(options, "no configuration")
    return backend.read_config({**read_file(file), **options}, str(file))


def announce(backend: "Backend[Any]", config: Any) -> None:
    """Say what a submit costs, before it does.

    Raises:
        KaggleOpsError: more than it may.
    """
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
    """Hand a commit to a backend, and show where it is.

    Args:
        commit: which.
        what: what to run of it.
        backend_name: the backend's.
        config_file: its configuration's; see `read_backend_config`.
        as_json: whether stdout is for JSON.
        options: fields that count more than the file's.

    Raises:
        KaggleOpsError: it cannot be run there.
    """
    from kaggleops.backends.lookup import backend_named

    backend = backend_named(backend_name)
    config = read_backend_config(backend, config_file, commit.repository, options or {})
    announce(backend, config)
    with stdout_for_the_result() if as_json else nullcontext():
        run = backend.submit(commit, what, config)
    show_submitted(run, as_json)


def price_of(tags: Mapping[str, str]) -> float | None:
    """Return what a run's machine costs in US dollars an hour, None where nobody pays."""
    return float(tags[PRICE]) if tags.get(PRICE) else None


def show_submitted(run: "RemoteRun", as_json: bool) -> None:
    """Print what a submit came to."""
    backend, tags = run.backend, run.tags
    if as_json:
        print_json(
            run_id=run.run_id,
            status=run.get_status(),
            backend=backend.name,
            commit=tags.get(COMMIT),
            page=run.page,
            price_per_hour=price_of(tags),
            steps=backend.steps(tags),
        )
        return
    print_rows(
        ("Run", f"{run.run_id}  {tags.get('mlflow.runName', '')}"),
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
@click.option("--competition", metavar="NAME", default="", help="Default: the manifest's.")
@click.option("--notebook", is_flag=True, help="Submit the run's notebook: a code competition.")
@click.option("--scores", is_flag=True, help="Submit nothing; record what Kaggle shows by now.")
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
    with stdout_for_the_result() if as_json else nullcontext():
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
