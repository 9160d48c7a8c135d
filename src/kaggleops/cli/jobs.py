"""`kaggleops cancel`: stop runs, wherever they run.

`kaggleops logs`.

`kaggleops resume`.

`kaggleops reap`: delete machines that cost money although their run is over.

`kaggleops cleanup`.

`kaggleops download`.
"""

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.options import bucket_at, bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, out, print_error, print_json, stdout_for_the_result
from kaggleops.cli.submission import (
    announce,
    backend_config_option,
    backend_option,
    money,
    money_options,
    read_backend_config,
    show_submitted,
)
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.printable import log_line

if TYPE_CHECKING:
    from kaggleops.backends.interface import Reaped


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
    from kaggleops.tracking.store import cancel

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
    from kaggleops.backends.lookup import submitted_run

    found = submitted_run(tracking_uri(bucket_of(bucket)), run)
    for line in found.logs(follow):
        click.echo(json.dumps({"line": line}) if as_json else log_line(line))


@click.command("resume")
@click.argument("run")
@bucket_option
@backend_option
@backend_config_option
@money_options
@json_option
def resume_command(
    run: str,
    bucket: str | None,
    backend: str | None,
    backend_config: Path | None,
    budget: float | None,
    keep: bool,
    as_json: bool,
) -> None:
    """Continue a run that failed, was cancelled or lost its machine.

    Same commit, same run, where it was or with another --backend. A run that already waits for a
    machine is not submitted twice.

    \b
    Example:
      kaggleops resume RUN -b runpod
    """
    from kaggleops.backends.lookup import backend_named, resume, submitted_run

    uri = tracking_uri(bucket_of(bucket))
    chosen = backend_named(backend or submitted_run(uri, run).backend.name)
    config = read_backend_config(chosen, backend_config, Path(), money(budget, keep))
    announce(chosen, config)
    with stdout_for_the_result() if as_json else nullcontext():
        resumed = resume(chosen, uri, run, config)
    show_submitted(resumed, as_json)


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
    from kaggleops.backends.lookup import backend_named, names

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
    from kaggleops.backends.lookup import submitted_run

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
    from kaggleops.backends.lookup import submitted_run

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
