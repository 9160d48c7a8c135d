"""`kaggleops push`."""

import sys

import click
from rich.progress import Progress

from kaggleops.bucket import open_bucket
from kaggleops.cli.options import bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, out, print_error, print_json


@click.command("push")
@bucket_option
@json_option
def push_command(bucket: str | None, as_json: bool) -> None:
    """Send what runs on this machine could not send before they ended."""
    from kaggleops.mlruns import EntityStore
    from kaggleops.tracking.outbox import send_left_behind

    place = bucket_of(bucket)
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("Sending", total=None)
        sent = send_left_behind(
            EntityStore(open_bucket(place)),
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print_json(
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
        print_error(problem)
    if sent.problems:
        sys.exit(1)
