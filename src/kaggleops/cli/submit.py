"""`kaggleops submit`."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.options import bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, print_json, print_rows, stdout_for_the_result
from kaggleops.errors import UsageError

if TYPE_CHECKING:
    from kaggleops.backends.kaggle.submissions import Submission


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
    from kaggleops.backends.kaggle.submitting import Submitter

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
