"""`kaggleops push`."""

import sys

import click
from rich.progress import Progress

from kaggleops.cli.options import bucket_at, bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, out, print_error, print_json


@click.command("push")
@bucket_option
@json_option
def push_command(bucket: str | None, as_json: bool) -> None:
    """Send metrics and artifacts that ended runs could not send.

    \b
    Example:
      kaggleops push --bucket gs://my-bucket
    """
    from kaggleops.mlruns import ChangeLog, EntityStore
    from kaggleops.tracking.artifact_outbox import send_kept_artifacts
    from kaggleops.tracking.outbox import send_left_behind

    place = bucket_of(bucket)
    store_in = bucket_at(place)
    store_in.expect()
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("Sending", total=None)
        sent = send_left_behind(
            EntityStore(store_in, ChangeLog(store_in)),
            lambda done, total: bar.update(task, completed=done, total=total),
        )
        files = bar.add_task("Sending artifacts", total=None)
        artifacts = send_kept_artifacts(
            place, lambda done, total: bar.update(files, completed=done, total=total)
        )
    problems = sent.problems + artifacts.problems
    if as_json:
        print_json(
            sent=[str(entity_id) for entity_id in sent.entities],
            artifacts=[str(place) for place in artifacts.places],
            renamed=sent.renamed,
            in_use=[str(folder) for folder in sent.in_use + artifacts.in_use],
            problems=problems,
        )
    else:
        for entity_id in sent.entities:
            out.print(f"sent {entity_id}")
        for artifact in artifacts.places:
            out.print(f"sent {artifact}")
        for renamed in sent.renamed:
            out.print(renamed)
        if running := max(len(sent.in_use), len(artifacts.in_use)):
            err.print(f"{running} processes still run and send what is theirs.")
        if not (sent.entities or artifacts.places or problems):
            out.print(f"Nothing was left behind: {place} has everything.")
    for problem in problems:
        print_error(problem)
    if problems:
        sys.exit(1)
