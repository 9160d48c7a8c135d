"""`kaggleops reap`: delete machines that cost money although their run is over."""

import sys
from dataclasses import asdict

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.options import bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, out, print_error, print_json
from kaggleops.cli.submitting import backend_option


@click.command("reap")
@bucket_option
@backend_option
@click.option("--dry-run", is_flag=True, help="Only show them.")
@json_option
def reap_command(bucket: str | None, backend: str | None, dry_run: bool, as_json: bool) -> None:
    """Delete machines that cost money although their run is over, or their time is.

    A machine ends itself. This is for one that could not; it may be run at any time, from anywhere.
    """
    from kaggleops.backends.finding import backend_named

    uri = tracking_uri(bucket_of(bucket))
    with err.status("Asking"):
        found = backend_named(backend or "runpod").reap(uri, delete=not dry_run)
    if as_json:
        print_json(machines=[asdict(each) for each in found], deleted=not dry_run)
    else:
        done = "would be deleted" if dry_run else "deleted"
        for each in found:
            if not each.problem:
                said = f"{each.backend} {each.machine} of run {each.run_id}: {each.why}"
                out.print(f"{done}: {said} (${each.per_hour:.2f}/h)", highlight=False)
        if not found:
            out.print("Every machine that there is has its work.", highlight=False)
    for each in found:
        if each.problem:
            price = f"it goes on costing ${each.per_hour:.2f} an hour"
            print_error(f"{each.backend} {each.machine} was not deleted, {price}: {each.problem}")
    if any(each.problem for each in found):
        sys.exit(1)
