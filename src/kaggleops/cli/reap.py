"""`kaggleops reap`: delete machines that cost money although their run is over."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.options import bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, out, print_error, print_json
from kaggleops.cli.submitting import backend_option
from kaggleops.errors import KaggleOpsError, UsageError

if TYPE_CHECKING:
    from kaggleops.backends.jobs import Reaped


@click.command("reap")
@bucket_option
@backend_option
@click.option("--dry-run", is_flag=True, help="Only show them.")
@json_option
def reap_command(bucket: str | None, backend: str | None, dry_run: bool, as_json: bool) -> None:
    """Delete machines that cost money although their run is over, or their time is.

    A machine ends itself. This is for one that could not; it may be run at any time, from anywhere.
    A backend that is not named and not set up here is passed over, with a word.
    """
    from kaggleops.backends.finding import backend_named, names

    uri = tracking_uri(bucket_of(bucket))
    found: list[Reaped] = []
    problems: list[str] = []
    with err.status("Asking"):
        for name in [backend] if backend else names():
            try:
                found += backend_named(name).reap(uri, delete=not dry_run)
            except UsageError as error:
                if backend:
                    raise
                err.print(f"passed over: {error}", style="yellow", highlight=False)
            except KaggleOpsError as error:
                problems.append(str(error))
    problems += [
        f"{_described(each)} was not deleted: {each.problem}" for each in found if each.problem
    ]
    if as_json:
        machines = [asdict(each) for each in found]
        print_json(machines=machines, deleted=not dry_run, problems=problems)
    else:
        done = "would be deleted" if dry_run else "deleted"
        for each in found:
            if not each.problem:
                out.print(f"{done}: {_described(each)}: {each.why}", highlight=False)
        if not found and not problems:
            out.print("Every machine that there is has its work.", highlight=False)
    for problem in problems:
        print_error(problem)
    if problems:
        sys.exit(1)


def _described(machine: "Reaped") -> str:
    price = f" (${machine.per_hour:.2f}/h)" if machine.per_hour else ""
    return f"{machine.backend} {machine.machine} of run {machine.run_id}{price}"
