"""`kaggleops reap`: delete machines that cost money although their run is over."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.options import bucket_at, bucket_of, bucket_option, json_option
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
    """Delete machines that cost money after their run is over.

    A machine deletes itself; this is for one that could not, and may be run at any time, from
    anywhere. A backend that is not named and not set up here is skipped with a message; if no
    backend could be asked, that is an error.

    \b
    Example:
      kaggleops reap --dry-run
    """
    from kaggleops.backends.finding import backend_named, names

    place = bucket_of(bucket)
    found: list[Reaped] = []
    asked: list[str] = []
    passed_over: list[dict[str, str]] = []
    with err.status("Asking"):
        problems = _problems_of(place)
        for name in [backend] if backend else names():
            try:
                there = backend_named(name).reap(tracking_uri(place), delete=not dry_run)
            except UsageError as error:
                if backend:
                    raise
                passed_over.append({"backend": name, "why": str(error)})
            except KaggleOpsError as error:
                problems.append(str(error))
            else:
                found += there or []
                asked += [] if there is None else [name]
    problems += [
        f"{_described(each)} was not deleted: {each.problem}" for each in found if each.problem
    ]
    if passed_over and not asked and not problems:
        problems.append("nobody could be asked, so nobody knows what costs money")
    if as_json:
        machines = [asdict(each) for each in found]
        print_json(
            machines=machines, deleted=not dry_run, passed_over=passed_over, problems=problems
        )
    else:
        done = "would be deleted" if dry_run else "deleted"
        for each in found:
            if not each.problem:
                out.print(f"{done}: {_described(each)}: {each.why}")
        if not found and not problems:
            out.print(_all_clear(asked, [each["backend"] for each in passed_over]))
    for skipped in passed_over:
        err.print(f"passed over: {skipped['why']}", style="yellow")
    for problem in problems:
        print_error(problem)
    if problems:
        sys.exit(1)


def _problems_of(place: str) -> list[str]:
    """Return why the bucket cannot say which runs are over; what is over without it still is."""
    from kaggleops.mlruns import EntityStore

    try:
        EntityStore(bucket_at(place)).check()
    except KaggleOpsError as error:
        return [str(error)]
    return []


def _all_clear(asked: list[str], passed_over: list[str]) -> str:
    if passed_over:
        return f"Asked: {', '.join(asked)}. Nobody knows of {', '.join(passed_over)}."
    return "Every machine that there is has its work." if asked else "No machine there costs money."


def _described(machine: "Reaped") -> str:
    price = f" (${machine.per_hour:.2f}/h)" if machine.per_hour else ""
    return f"{machine.backend} {machine.machine} of run {machine.run_id}{price}"
