"""`kaggleops logs`."""

import json

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.options import bucket_of, bucket_option
from kaggleops.printable import log_line


@click.command("logs")
@click.argument("run")
@bucket_option
@click.option("-f", "--follow", is_flag=True, help="Go on until it has ended.")
@click.option("--json", "as_json", is_flag=True, help="Print each line as an object of JSON.")
def logs_command(run: str, bucket: str | None, follow: bool, as_json: bool) -> None:
    """Print what a submitted run's job has printed.

    \b
    Example:
      kaggleops logs -f RUN
    """
    from kaggleops.backends.finding import submitted_run

    found = submitted_run(tracking_uri(bucket_of(bucket)), run)
    for line in found.logs(follow):
        click.echo(json.dumps({"line": line}) if as_json else log_line(line))
