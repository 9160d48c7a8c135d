"""Commands on runs that a backend runs: cancel, logs, resume, reap, cleanup, download."""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.options import bucket_at, bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, exit_with, out, print_json, stdout_for_json
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


def _each(runs: Iterable[str], do: Callable[[str], object]) -> tuple[list[str], list[str]]:
    """Return the runs for which something was done (not False), and the problems of others."""
    done: list[str] = []
    problems: list[str] = []
    for run_id in runs:
        try:
            if do(run_id) is not False:
                done.append(run_id)
        except KaggleOpsError as error:
            problems.append(str(error))
    return done, problems


@click.command("cancel")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@bucket_option
@json_option
def cancel_command(runs: tuple[str, ...], bucket: str | None, as_json: bool) -> None:
    """Cancel runs: set them to KILLED in the bucket.

    Their machines notice within the flush interval (10 s at first, a minute in a long run), send
    what they have, and stop.

    \b
    Example:
      kaggleops cancel RUN
    """
    from kaggleops.tracking.store import cancel

    uri = tracking_uri(bucket_of(bucket))
    cancelled, problems = _each(runs, lambda run_id: cancel(uri, run_id))
    if as_json:
        print_json(cancelled=cancelled, problems=problems)
    else:
        for run_id in cancelled:
            out.print(f"cancelled {run_id}: its machine stops at its next check")
    exit_with(problems)


@click.command("logs")
@click.argument("run")
@bucket_option
@click.option("-f", "--follow", is_flag=True, help="Keep printing until it has ended.")
@click.option("--json", "as_json", is_flag=True, help="Print each line as a JSON object.")
def logs_command(run: str, bucket: str | None, follow: bool, as_json: bool) -> None:
    """Show the output of a submitted run.

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

    Same commit, same run, on the same backend or another one. A run that is already waiting for a
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
    with stdout_for_json(as_json):
        resumed = resume(chosen, uri, run, config)
    show_submitted(resumed, as_json)


@click.command("reap")
@bucket_option
@backend_option
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@json_option
def reap_command(bucket: str | None, backend: str | None, dry_run: bool, as_json: bool) -> None:
    """Delete machines that cost money after their run is over.

    A machine deletes itself; this is for one that could not, and can be run at any time, from
    anywhere. Without --backend, backends that are not set up here are skipped with a message; it
    is an error if none could be checked.

    \b
    Example:
      kaggleops reap --dry-run
    """
    from kaggleops.backends.lookup import backend_named, names

    place = bucket_of(bucket)
    found: list[Reaped] = []
    checked: list[str] = []
    skipped: list[dict[str, str]] = []
    with err.status("Checking the platforms"):
        problems = _problems_of(place)
        for name in [backend] if backend else names():
            try:
                there = backend_named(name).reap(tracking_uri(place), delete=not dry_run)
            except UsageError as error:
                if backend:
                    raise
                skipped.append({"backend": name, "why": str(error)})
            except KaggleOpsError as error:
                problems.append(str(error))
            else:
                found += there or []
                checked += [] if there is None else [name]
    problems += [
        f"{_described(each)} was not deleted: {each.problem}" for each in found if each.problem
    ]
    if skipped and not checked and not problems:
        problems.append("no platform could be checked for machines that cost money")
    if as_json:
        machines = [asdict(each) for each in found]
        print_json(machines=machines, deleted=not dry_run, passed_over=skipped, problems=problems)
    else:
        done = "would be deleted" if dry_run else "deleted"
        for each in found:
            if not each.problem:
                out.print(f"{done}: {_described(each)}: {each.why}")
        if not found and not problems:
            out.print(_all_clear(checked, [each["backend"] for each in skipped]))
    for backend_skipped in skipped:
        err.print(f"skipped: {backend_skipped['why']}", style="yellow")
    exit_with(problems)


def _problems_of(place: str) -> list[str]:
    """Return why the bucket cannot say which runs are over; machines past their time still go."""
    from kaggleops.mlruns import EntityStore

    return _each([""], lambda _: EntityStore(bucket_at(place)).check())[1]


def _all_clear(checked: list[str], skipped: list[str]) -> str:
    if skipped:
        return f"Checked: {', '.join(checked)}. Not checked: {', '.join(skipped)}."
    return "Every machine belongs to a run that is not over." if checked else "Nothing to delete."


def _described(machine: "Reaped") -> str:
    price = f" (${machine.per_hour:.2f}/h)" if machine.per_hour else ""
    return f"{machine.backend} {machine.machine} of run {machine.run_id}{price}"


@click.command("cleanup")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@bucket_option
@json_option
def cleanup_command(runs: tuple[str, ...], bucket: str | None, as_json: bool) -> None:
    """Delete what ended runs left on their platform.

    That is the notebook, its log and its files. Runs and artifacts in the bucket stay.

    \b
    Example:
      kaggleops cleanup RUN
    """
    from kaggleops.backends.lookup import submitted_run

    uri = tracking_uri(bucket_of(bucket))
    deleted, problems = _each(runs, lambda run_id: submitted_run(uri, run_id).clean_up())
    if as_json:
        print_json(deleted=deleted, problems=problems)
    else:
        out.print(f"{len(deleted)} of {len(runs)} had something to delete.")
    exit_with(problems)


@click.command("download")
@click.argument("run")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@bucket_option
@json_option
def download_command(run: str, folder: Path, bucket: str | None, as_json: bool) -> None:
    """Download one run's artifacts and output.

    The artifacts go into DIR/artifacts, what it left on its platform into DIR/output.

    \b
    Example:
      kaggleops download RUN results
    """
    from kaggleops.backends.lookup import submitted_run

    found = submitted_run(tracking_uri(bucket_of(bucket)), run)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a line says it
    with err.status("Downloading"):
        fetched = found.download(folder)
    if as_json:
        print_json(
            folder=str(folder),
            files=[str(file.relative_to(folder)) for file in fetched.files],
            problems=fetched.problems,
        )
    else:
        out.print(f"{folder} holds {len(fetched.files)} files of run {run}.")
    exit_with(fetched.problems)
