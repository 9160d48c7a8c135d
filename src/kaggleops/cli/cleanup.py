"""`kaggleops cleanup`."""

import sys

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.options import bucket_of, bucket_option, json_option
from kaggleops.cli.output import out, print_error, print_json
from kaggleops.errors import KaggleOpsError


@click.command("cleanup")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@bucket_option
@json_option
def cleanup_command(runs: tuple[str, ...], bucket: str | None, as_json: bool) -> None:
    """Delete what ended runs left on their platform.

    That is the notebook, its log and its files. The runs and their artifacts in the bucket stay.

    \b
    Example:
      kaggleops cleanup RUN
    """
    from kaggleops.backends.finding import submitted_run

    uri = tracking_uri(bucket_of(bucket))
    deleted: list[str] = []
    problems: list[str] = []
    for run_id in runs:
        try:
            if submitted_run(uri, run_id).clean_up():
                deleted.append(run_id)
        except KaggleOpsError as error:
            problems.append(str(error))
    if as_json:
        print_json(deleted=deleted, problems=problems)
    else:
        out.print(f"{len(deleted)} of {len(runs)} had something to delete.")
    for problem in problems:
        print_error(problem)
    if problems:
        sys.exit(1)
