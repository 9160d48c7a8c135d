"""Submitting to a backend, as `run -b`, `reproduce -b` and `resume` do; and `kaggleops submit`."""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.indexed import run_named
from kaggleops.cli.options import (
    NumberRange,
    bucket_of,
    bucket_option,
    complete_backend,
    json_option,
)
from kaggleops.cli.output import err, print_json, print_named, print_rows, stdout_for_json
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.printable import log_line
from kaggleops.session_end import TO_BE_CONTINUED
from kaggleops.tags import COMMIT, PRICE, RUN_NAME

if TYPE_CHECKING:
    from kaggleops.backends.base import Backend
    from kaggleops.backends.kaggle.submissions import Submission
    from kaggleops.backends.remote_run import RemoteRun
    from kaggleops.git.commits import Commit
    from kaggleops.launch.launcher import Launch

_ASK_EVERY = 10.0  # seconds at most between two questions to a platform
_INTERRUPTED = 130

backend_option = click.option(
    "-b",
    "--backend",
    metavar="NAME",
    shell_complete=complete_backend,
    help="kaggle, colab, runpod, skypilot, docker, local or manual.",
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
) -> "RemoteRun":
    """Submit a commit to a backend, and print where it is; `options` as `Backend.config_of`.

    Raises UsageError if there is no such backend or option, else what `Backend.submit` does.
    """
    from kaggleops.backends.lookup import backend_named

    backend = backend_named(backend_name)
    config = backend.config_of(commit.repository, config_file, options)
    announce(backend, config)
    with stdout_for_json(as_json):
        run = backend.submit(commit, what, config)
    show_submitted(run, as_json)
    return run


def wait_for_a_machine(run: "RemoteRun") -> None:
    """Return when a run's job has begun, or ended; say meanwhile what it waits for."""
    from kaggleops.backends.interface import is_ended
    from kaggleops.launch.legs import legs_of
    from kaggleops.reports.listing import duration

    found = run.run
    ended = [leg.ended for leg in legs_of(found.data.tags) if leg.ended]
    since = ended[-1] if ended else found.info.start_time / 1000
    told, asked_at, pause = False, 0.0, 1.0
    with err.status("") if err.is_terminal else nullcontext() as status:
        while True:
            if time.time() - asked_at >= pause:
                try:
                    state = None if is_ended(run.run.info.status) else run.state()
                except KaggleOpsError:
                    return  # its log will say so
                if state is None or state.status != "SCHEDULED":
                    return
                asked_at, pause = time.time(), min(2 * pause, _ASK_EVERY)
            line = f"{run.backend.waiting} ({duration(time.time() - since)})"
            if status:
                status.update(line)
            elif not told:
                err.print(line)
                told = True
            time.sleep(1)


def follow(run: "RemoteRun", as_json: bool) -> int:
    """Show a run's output until it has ended, and return the exit code for how that was.

    Ctrl-C leaves it running. With `as_json`, stdout is kept for what was submitted.
    """
    try:
        wait_for_a_machine(run)
        for line in run.logs(follow=True):
            click.echo(log_line(line), err=as_json)
        status = run.get_status()
    except KeyboardInterrupt:
        err.print(f"The job goes on. See it:  kaggleops logs -f {run.run_id}")
        err.print(f"Cancel it:                kaggleops cancel {run.run_id}")
        return _INTERRUPTED
    if why := run.failure:
        err.print(f"{run.run_id} failed: {why}", style="red")
    else:
        err.print(f"{run.run_id} {status}")
    if status == "SCHEDULED":  # its session is over, and it is not
        return TO_BE_CONTINUED
    return 0 if status == "FINISHED" else 1


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
    place = bucket_of(bucket)
    with stdout_for_json(as_json):
        submitter = Submitter(tracking_uri(place), run_named(place, run), competition)
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
