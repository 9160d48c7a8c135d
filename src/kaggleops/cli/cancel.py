"""`kaggleops cancel`: stop runs, wherever they run."""

import sys

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.options import bucket_of, bucket_option, json_option
from kaggleops.cli.output import out, print_error, print_json
from kaggleops.errors import KaggleOpsError


@click.command("cancel")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@bucket_option
@json_option
def cancel_command(runs: tuple[str, ...], bucket: str | None, as_json: bool) -> None:
    """Cancel runs: set them to KILLED in the bucket.

    Their machines see it within the flush interval (10 s at first, a minute in a long run), send
    what they have, and stop.

    \b
    Example:
      kaggleops cancel RUN
    """
    from kaggleops.tracking.cancelling import cancel

    uri = tracking_uri(bucket_of(bucket))
    cancelled: list[str] = []
    problems: list[str] = []
    for run_id in runs:
        try:
            cancel(uri, run_id)
            cancelled.append(run_id)
        except KaggleOpsError as error:
            problems.append(str(error))
    if as_json:
        print_json(cancelled=cancelled, problems=problems)
    else:
        for run_id in cancelled:
            out.print(f"cancelled {run_id}: it stops when its machine next looks")
    for problem in problems:
        print_error(problem)
    if problems:
        sys.exit(1)
