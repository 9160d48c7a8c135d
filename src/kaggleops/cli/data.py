"""`kaggleops data`: what a project reads and does not hold itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kaggleops.cli.data_editing import add_command, import_command, push_command, rm_command
from kaggleops.cli.data_output import bytes_going, counted, sized
from kaggleops.cli.options import json_option
from kaggleops.cli.output import err, out, print_json, print_table

if TYPE_CHECKING:
    from kaggleops.resources.sync import Status
    from kaggleops.resources.transfer import Step

_SHOWN = 20  # names of files

names_argument = click.argument("names", metavar="[NAME]...", nargs=-1)


@click.group("data")
def data_command() -> None:
    """Manage the data that config/data/resources.yaml declares.

    \b
    Examples:
      kaggleops data add tweets kaggle://competitions/tweet-sentiment-extraction
      kaggleops data fetch
    """


@data_command.command("fetch")
@names_argument
@click.option("--force", is_flag=True, help="Replace also what was changed here.")
@click.option("--dry-run", is_flag=True, help="Only say what would be fetched.")
@json_option
def fetch_command(names: tuple[str, ...], force: bool, dry_run: bool, as_json: bool) -> None:
    """Fetch data files, as resources.lock has them.

    NAME is a resource; all of them by default. A file that is right already is left alone, and what
    is not locked yet is locked as it arrives.
    """
    from kaggleops.resources.manifest import find_manifest
    from kaggleops.resources.sync import fetch
    from kaggleops.resources.transfer import refuse_changed

    manifest = find_manifest(Path.cwd())
    with bytes_going("Fetching") as (begin, progress):
        done = fetch(manifest, names, force=force, dry_run=dry_run, begin=begin, progress=progress)
    if as_json:
        print_json(
            files=[
                {
                    "name": step.resource.name,
                    "path": str(step.path),
                    "size": step.file.size,
                    "state": step.state,
                }
                for step in done.steps
            ],
            size=done.size,
            right=done.right,
            mounted={name: str(path) for name, path in done.mounted.items()},
            dry_run=dry_run,
        )
    else:
        _print_steps(done.steps if dry_run else (), force)
        for name, path in done.mounted.items():
            out.print(f"{name} is mounted at {path}.")
    if dry_run and not force:
        refuse_changed(done.steps)  # as the fetch would
    if not as_json:
        verb = "Would fetch" if dry_run else "Fetched"
        right = f"; {done.right} were right already" if done.right else ""
        count = f"{counted(len(done.steps))} ({sized(done.size)})"
        out.print(f"{verb} {count}{right}.")


def _print_steps(steps: Sequence["Step"], force: bool) -> None:
    # What would end the fetch is not to be among those that are left out.
    for step in sorted(steps, key=lambda step: step.state != "changed")[:_SHOWN]:
        state = (
            "changed here; needs --force" if step.state == "changed" and not force else step.state
        )
        out.print(f"{state}  {step.path}  {sized(step.file.size)}")
    if len(steps) > _SHOWN:
        out.print(f"… and {len(steps) - _SHOWN} more")


@data_command.command("lock")
@names_argument
@json_option
def lock_command(names: tuple[str, ...], as_json: bool) -> None:
    """Lock the versions and checksums of data files.

    They are written to resources.lock, as they are at their source now.
    """
    from kaggleops.resources.manifest import find_manifest
    from kaggleops.resources.sync import lock

    manifest = find_manifest(Path.cwd())
    with bytes_going("Locking") as (_, progress):
        locked = lock(manifest, names, progress)
    chosen = {name: locked[name] for name in names or manifest.resources}
    if as_json:
        print_json(
            **{
                name: {"version": each.version, "files": len(each.files), "size": each.size}
                for name, each in chosen.items()
            }
        )
        return
    for name, each in chosen.items():
        count, size = counted(len(each.files)), sized(each.size)
        out.print(f"{name}  {each.version}  {count}, {size}")


@data_command.command("status")
@names_argument
@json_option
def status_command(names: tuple[str, ...], as_json: bool) -> None:
    """Compare data files with resources.lock and the sources."""
    from kaggleops.resources.manifest import find_manifest
    from kaggleops.resources.sync import compare

    manifest = find_manifest(Path.cwd())
    with err.status("Asking the sources"):
        found = compare(manifest, names)
    if as_json:
        print_json(**{each.resource.name: _plain(each) for each in found})
        return
    if not found:
        out.print(f"{manifest.path} declares nothing yet.")
        return
    print_table(("name", "files", "size", "disk", "source"), [_row(each) for each in found])
    for each in found:
        for title, names_by_state in (("disk", each.disk), ("source", each.source)):
            for state, some in names_by_state.items():
                more = f" and {len(some) - _SHOWN} more" if len(some) > _SHOWN else ""
                listed = ", ".join(some[:_SHOWN])
                out.print(f"{each.resource.name}: {title}: {state}: {listed}{more}")


def _plain(status: "Status") -> dict[str, object]:
    return {
        "locked": status.locked and status.locked.version,
        "stale": status.stale,
        "folder": str(status.folder),
        "disk": status.disk,
        "source": status.source,
        "problem": status.problem,
        "right": status.right,
    }


def _row(status: "Status") -> tuple[str, ...]:
    name, locked = status.resource.name, status.locked
    if locked is None:
        return name, "", "", "", "not locked yet: `kaggleops data fetch`"
    disk = ", ".join(f"{len(some)} {state}" for state, some in status.disk.items()) or "right"
    source = ", ".join(f"{len(some)} {state}" for state, some in status.source.items())
    if status.stale:
        source = "the manifest has changed since: `kaggleops data lock`"
    return (
        name,
        str(len(locked.files)),
        sized(locked.size),
        disk,
        status.problem or source or "as locked",
    )


for command in (add_command, rm_command, push_command, import_command):
    data_command.add_command(command)
