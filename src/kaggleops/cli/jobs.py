"""Commands on runs that a backend runs: cancel, logs, resume, reap, cleanup, download."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli import options
from kaggleops.cli.indexed import can_index, history_of, run_named, runs_named
from kaggleops.cli.output import as_named, err, exit_with, out, print_json, stdout_for_json
from kaggleops.cli.submission import announce, show_submitted, wait_for_a_machine
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.git.own_files import leave_out
from kaggleops.printable import counted, log_line
from kaggleops.tags import PARENT, SWEEP

if TYPE_CHECKING:
    from kaggleops.backends.interface import Reaped
    from kaggleops.reports.trainings import Run


_LOOK = 10.0  # seconds between two looks at what is kept of a run that goes on


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
@options.place
@options.json
def cancel_command(runs: tuple[str, ...], place: str) -> None:
    """Cancel runs: set them to KILLED in the bucket.

    Their machines notice within the flush interval (10 s at first, a minute in a long run), send
    what they have, and stop. Of a sweep, all jobs are cancelled.

    \b
    Example:
      kaggleops cancel RUN
    """
    from kaggleops.mlruns.liveness import OPEN
    from kaggleops.tracking.store import cancel

    uri = tracking_uri(place)
    chosen = runs_named(place, runs)
    cancelled, problems = _each(chosen, lambda run_id: cancel(uri, run_id))
    # Those that a watcher makes meanwhile, it cancels itself.
    below = [run.id for run in _below_sweeps(place, cancelled) if run.status in OPEN]
    jobs, of_jobs = _each(below, lambda run_id: cancel(uri, run_id))
    cancelled, problems = cancelled + jobs, problems + of_jobs
    print_json(cancelled=cancelled, problems=problems)
    for run_id in cancelled:
        out.print(as_named(f"cancelled {run_id}: its machine stops at its next check"))
    exit_with(problems)


def _below_sweeps(place: str, run_ids: Iterable[str]) -> "list[Run]":
    """Return the jobs, and the fold sets, of those runs that are sweeps."""
    if not can_index():
        return []
    with history_of(place, None, fresh_for=0) as history:
        sweeps = [run.id for run in history.runs(list(run_ids)) if SWEEP in run.tags]
        trials = history.having(PARENT, sweeps)
        return [*trials, *history.having(PARENT, [run.id for run in trials])]


@click.command("logs")
@click.argument("run")
@options.place
@click.option("-f", "--follow", is_flag=True, help="Keep printing until it has ended.")
@click.option("--json", "as_json", is_flag=True, help="Print each line as a JSON object.")
def logs_command(run: str, place: str, follow: bool, as_json: bool) -> None:
    """Show the output of a run, and why it failed.

    It is what its platform has of it; where that has nothing, what is kept with the run.

    \b
    Example:
      kaggleops logs -f RUN
    """
    from mlflow import MlflowClient

    from kaggleops.backends.base import failure_of
    from kaggleops.backends.interface import is_ended
    from kaggleops.backends.lookup import submitted_run
    from kaggleops.platforms.http import NotThereError

    run_id = run_named(place, run)

    def show(line: str) -> None:
        click.echo(json.dumps({"line": line}) if as_json else log_line(line))

    shown = False
    try:
        nothing = "Nothing is kept of what it printed."
        found = submitted_run(tracking_uri(place), run_id, nothing)
        if follow:
            wait_for_a_machine(found)
        for line in found.logs(follow):
            show(line)
            shown = True
    except KaggleOpsError as error:
        if shown:
            raise
        of_none = isinstance(error, UsageError)  # no platform has it
        for line in kept_output(tracking_uri(place), run_id, follow and of_none):
            show(line)
            shown = True
        if not shown:
            raise
        # Of one that has ended, what is kept is all that there was.
        gone = isinstance(error, NotThereError) and is_ended(found.run.info.status)
        exit_with([] if of_none or gone else [str(error)])
    if why := failure_of(MlflowClient(tracking_uri(place)).get_run(run_id)):
        err.print(as_named(f"{run_id} failed: {why}"), style="red")


def kept_output(uri: str, run_id: str, follow: bool) -> Iterator[str]:
    """Yield the lines that are kept of what a run printed; with `follow`, until it has ended."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from kaggleops.backends.interface import is_ended
    from kaggleops.launch.output import kept

    client, shown, over = MlflowClient(uri), 0, False
    while not over:
        try:
            run = client.get_run(run_id)
        except MlflowException:  # there is no such run
            return
        over = not follow or is_ended(run.info.status)
        lines = kept(run, uri) or []
        whole = len(lines) if over else len(lines) - 1  # the last one may grow
        yield from lines[shown:whole]
        shown = max(shown, whole)
        time.sleep(0 if over else _LOOK)


@click.command("resume")
@click.argument("run")
@options.place
@options.backend
@options.backend_config
@options.budget
@options.keep
@options.json
def resume_command(
    run: str, place: str, backend: str | None, backend_config: Path | None, **money: Any
) -> None:
    """Continue a run that failed, was cancelled or lost its machine.

    Same commit, same run, on the same backend or another one. A run that is already waiting for a
    machine is not submitted twice. A sweep that was paused or cancelled goes on with the next
    watcher.

    \b
    Example:
      kaggleops resume RUN -b runpod
    """
    from kaggleops.backends.lookup import backend_named, resume, submitted_run

    uri, run = tracking_uri(place), run_named(place, run)
    if _is_sweep(uri, run):
        from kaggleops.campaign.children import resume_sweep

        resume_sweep(uri, run, [each.id for each in _below_sweeps(place, [run])])
        print_json(run_id=run)
        out.print(as_named(f"sweep {run} goes on: kaggleops watch"))
        return
    hint = "Say where it goes on: -b local is this machine."
    chosen = backend_named(backend or submitted_run(uri, run, hint).backend.name)
    repository = options.project_folder()
    config = chosen.config_of(repository, backend_config, options.given(money))
    announce(chosen, config)
    with stdout_for_json():
        resumed = resume(chosen, uri, run, config, repository)
    show_submitted(resumed)


def _is_sweep(uri: str, run_id: str) -> bool:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return SWEEP in MlflowClient(uri).get_run(run_id).data.tags
    except MlflowException:
        return False  # what is wrong with it is said below


@click.command("reap")
@options.place
@options.backend
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@options.json
def reap_command(place: str, backend: str | None, dry_run: bool) -> None:
    """Delete machines that cost money after their run is over.

    A machine deletes itself; this is for one that could not, and can be run at any time, from
    anywhere. What a `doctor --try` left that was killed goes, too. Without --backend, backends
    that are not set up here are skipped with a message; it is an error if none could be checked.

    \b
    Example:
      kaggleops reap --dry-run
    """
    from kaggleops.backends.lookup import backend_named, names
    from kaggleops.first_contact.trial import left_behind
    from kaggleops.mlruns import EntityStore

    found: list[Reaped] = []
    checked: list[str] = []
    trials: list[str] = []
    skipped: list[dict[str, str]] = []
    with err.status("Checking the platforms"):
        # Why the bucket cannot say which runs are over; machines past their time still go.
        problems = _each([""], lambda _: EntityStore(options.bucket_at(place)).check())[1]
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
        with suppress(KaggleOpsError):  # what is wrong with the bucket is said already
            left = {each.folder: each for each in left_behind(place)}
            trials, more = _each(left, lambda each: None if dry_run else left[each].delete())
            problems += more
    problems += [
        f"{_described(each)} was not deleted: {each.problem}" for each in found if each.problem
    ]
    if skipped and not checked and not problems:
        problems.append("no platform could be checked for machines that cost money")
    machines = [asdict(each) for each in found]
    told = {"trials": trials, "deleted": not dry_run, "passed_over": skipped}
    print_json(machines=machines, **told, problems=problems)
    done = "would be deleted" if dry_run else "deleted"
    for each in found:
        if not each.problem:
            out.print(f"{done}: {_described(each)}: {each.why}")
    for folder in trials:
        out.print(f"{done}: {folder}, which `doctor --try` left")
    if not found and not trials and not problems:
        not_checked = ", ".join(each["backend"] for each in skipped)
        clear = "Every machine belongs to a run that is not over."
        listed = f"Checked: {', '.join(checked)}. Not checked: {not_checked}."
        out.print(listed if skipped else clear if checked else "Nothing to delete.")
    for backend_skipped in skipped:
        err.print(f"skipped: {backend_skipped['why']}", style="yellow")
    exit_with(problems)


def _described(machine: "Reaped") -> str:
    price = f" (${machine.per_hour:.2f}/h)" if machine.per_hour else ""
    return f"{machine.backend} {machine.machine} of run {machine.run_id}{price}"


@click.command("cleanup")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@options.place
@options.json
def cleanup_command(runs: tuple[str, ...], place: str) -> None:
    """Delete what ended runs left on their platform.

    That is the notebook, its log and its files. Runs and artifacts in the bucket stay.

    \b
    Example:
      kaggleops cleanup RUN
    """
    from kaggleops.backends.lookup import submitted_run

    uri, chosen = tracking_uri(place), runs_named(place, runs)
    none = "It has left nothing on a platform."
    deleted, problems = _each(chosen, lambda run_id: submitted_run(uri, run_id, none).clean_up())
    print_json(deleted=deleted, problems=problems)
    out.print(f"{len(deleted)} of {len(chosen)} had something to delete.")
    exit_with(problems)


@click.command("download")
@click.argument("run")
@click.argument(
    "folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path, file_okay=False)
)
@options.place
@options.json
def download_command(run: str, folder: Path | None, place: str) -> None:
    """Download what a run has left, here or elsewhere.

    Its artifacts, with the files that it left in its checkout (`keep` in MLproject: results/,
    submission.csv, …), go into DIR, and what its job left on its platform into DIR/output. DIR is
    results/NAME-ID unless given, with the run's name and the first digits of its id.

    \b
    Example:
      kaggleops download clean-moose-230
    """
    from kaggleops.backends.lookup import download

    run_id = run_named(place, run)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a line says it
    with err.status("Downloading"):
        folder, fetched = download(tracking_uri(place), run_id, folder)
    if fetched.files:
        leave_out(folder)
    files = [str(file.relative_to(folder)) for file in fetched.files]
    print_json(folder=str(folder), files=files, problems=fetched.problems)
    if fetched.files or fetched.problems:
        out.print(f"{folder} holds {counted(len(fetched.files))} of run {run}.")
    else:
        out.print(f"Run {run} has no artifacts, and left nothing.")
    exit_with(fetched.problems)
