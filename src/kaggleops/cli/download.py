"""`kaggleops download`."""

import sys
from pathlib import Path

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.options import bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, out, print_error, print_json


@click.command("download")
@click.argument("run")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@bucket_option
@json_option
def download_command(run: str, folder: Path, bucket: str | None, as_json: bool) -> None:
    """Download a submitted run's artifacts and output into DIR.

    Its artifacts go into DIR/artifacts, what it left on its platform into DIR/output.

    \b
    Example:
      kaggleops download RUN results
    """
    from kaggleops.backends.finding import submitted_run

    found = submitted_run(tracking_uri(bucket_of(bucket)), run)
    with err.status("Downloading"):
        brought = found.download(folder)
    if as_json:
        print_json(
            folder=str(folder),
            files=[str(file.relative_to(folder)) for file in brought.files],
            problems=brought.problems,
        )
    else:
        out.print(f"{folder} holds {len(brought.files)} files of run {run}.")
    for problem in brought.problems:
        print_error(problem)
    if brought.problems:
        sys.exit(1)
