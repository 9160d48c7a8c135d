"""`kaggleops data`: the data that a project reads and does not contain."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from kaggleops.cli import options
from kaggleops.cli.output import err, out, print_json, print_table
from kaggleops.git.own_files import leave_out
from kaggleops.printable import counted

if TYPE_CHECKING:
    from kaggleops.resources.sync import Status

_SHOWN = 20  # names of files

names_argument = click.argument("names", metavar="[NAME]...", nargs=-1)


@contextmanager
def bytes_going(title: str) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Show a progress bar of bytes; yield what sets their total, and what adds some."""
    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield (
            lambda total: bar.update(task, total=total),
            lambda more: bar.update(task, advance=more),
        )


def sized(size: int) -> str:
    """Return a number of bytes with its unit; "?" for a negative one: not known."""
    return "?" if size < 0 else decimal(size)


@click.group("data")
def data_command() -> None:
    """Manage the data declared in config/data/resources.yaml.

    \b
    Examples:
      kaggleops data add tweets kaggle://competitions/tweet-sentiment-extraction
      kaggleops data fetch
    """


@data_command.command("fetch")
@names_argument
@click.option("--force", is_flag=True, help="Also replace files that were changed here.")
@click.option("--dry-run", is_flag=True, help="Only show what would be fetched.")
@options.json
def fetch_command(names: tuple[str, ...], force: bool, dry_run: bool) -> None:
    """Fetch declared data, in the locked versions.

    NAME is a resource; all of them by default. Files that are already right are left alone, and a
    resource that is not in resources.lock yet is added to it.

    \b
    Example:
      kaggleops data fetch tweets
    """
    from kaggleops.resources.manifest import find_manifest
    from kaggleops.resources.sync import fetch
    from kaggleops.resources.transfer import refuse_changed

    manifest = find_manifest(Path.cwd())
    with bytes_going("Fetching") as (begin, progress):
        done = fetch(manifest, names, force=force, dry_run=dry_run, begin=begin, progress=progress)
    for folder in {step.folder for step in done.steps} if not dry_run else ():
        leave_out(folder)
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
    # The changed ones, which would end the fetch, must not be among those left out.
    steps = sorted(done.steps if dry_run else (), key=lambda step: step.state != "changed")
    for step in steps[:_SHOWN]:
        refused = " here; needs --force" if step.state == "changed" and not force else ""
        out.print(f"{step.state}{refused}  {step.path}  {sized(step.file.size)}")
    if len(steps) > _SHOWN:
        out.print(f"… and {len(steps) - _SHOWN} more")
    for name, path in done.mounted.items():
        out.print(f"{name} is mounted at {path}.")
    if dry_run and not force:
        refuse_changed(done.steps)  # as the fetch would
    right = f"; {done.right} were already right" if done.right else ""
    count = f"{counted(len(done.steps))} ({sized(done.size)})"
    out.print(f"{'Would fetch' if dry_run else 'Fetched'} {count}{right}.")


@data_command.command("lock")
@names_argument
@options.json
def lock_command(names: tuple[str, ...]) -> None:
    """Lock declared data to its current versions.

    The versions and checksums at the source are written to resources.lock.

    \b
    Example:
      kaggleops data lock tweets
    """
    from kaggleops.resources.manifest import find_manifest
    from kaggleops.resources.places import folder_for
    from kaggleops.resources.sync import lock

    manifest = find_manifest(Path.cwd())
    came: set[Path] = set()
    with bytes_going("Locking") as (_, progress):
        locked = lock(manifest, names, progress, came.add)
    for folder in {folder_for(resource, manifest) for resource in manifest.named(names)}:
        if any(folder in path.parents for path in came):
            leave_out(folder)
    chosen = {name: locked[name] for name in names or manifest.resources}
    print_json(
        **{
            name: {"version": each.version, "files": len(each.files), "size": each.size}
            for name, each in chosen.items()
        }
    )
    for name, each in chosen.items():
        count, size = counted(len(each.files)), sized(each.size)
        out.print(f"{name}  {each.version}  {count}, {size}")


@data_command.command("status")
@names_argument
@options.json
def status_command(names: tuple[str, ...]) -> None:
    """Compare declared data with its lock and source.

    \b
    Example:
      kaggleops data status
    """
    from kaggleops.resources.manifest import find_manifest
    from kaggleops.resources.sync import compare

    manifest = find_manifest(Path.cwd())
    with err.status("Reading the sources"):
        found = compare(manifest, names)
    print_json(**{each.resource.name: _plain(each) for each in found})
    if not found:
        out.print(f"{manifest.path} declares no data yet.")
        return
    print_table(("name", "files", "size", "disk", "source"), [_row(each) for each in found])
    for each in found:
        if each.resource.description:
            out.print(f"{each.resource.name}: {each.resource.description}")
    for each in found:
        for title, names_by_state in (("disk", each.disk), ("source", each.source)):
            for state, some in names_by_state.items():
                more = f" and {len(some) - _SHOWN} more" if len(some) > _SHOWN else ""
                listed = ", ".join(some[:_SHOWN])
                out.print(f"{each.resource.name}: {title}: {state}: {listed}{more}")


def _plain(status: "Status") -> dict[str, object]:
    return {
        "description": status.resource.description,
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
        source = "declared differently: `kaggleops data lock`"
    return (
        name,
        str(len(locked.files)),
        sized(locked.size),
        disk,
        status.problem or source or "as locked",
    )


@data_command.command("add")
@click.argument("name")
@click.argument("source")
@click.option("--file", "files", multiple=True, help="A name or glob below SOURCE. Default: all.")
@click.option("--destination", metavar="DIR", help="Default: data/NAME.")
@click.option("--description", metavar="TEXT", help="What it is, for people.")
@click.option("--skip-if-exist", is_flag=True, help="Keep existing files without checking them.")
@click.option("--checksum", metavar="sha256:…", help="The checksum of a file on the web.")
@click.option("--token", metavar="NAME", help="On the web: the variable with the token to send.")
@click.option("--experiment", metavar="NAME", help="For runs:/best: the experiment.")
@click.option("--commit", metavar="SHA", help="For runs:/best: only runs of this commit.")
@click.option("--metric", metavar="NAME", help="For runs:/best: the metric.")
@click.option("--lower-is-better", is_flag=True, help="For runs:/best: lower is better.")
@options.json
def add_command(name: str, source: str, **fields: Any) -> None:
    """Declare a data source in config/data/resources.yaml.

    SOURCE is gs://BUCKET/PREFIX, s3://BUCKET[@HOST]/PREFIX, kaggle://competitions/NAME,
    kaggle://datasets/USER/NAME, kaggle://models/USER/MODEL/FRAMEWORK/VARIATION/VERSION,
    runs:/RUN_ID/PATH, runs:/best/PATH, or https://… with a checksum; ${NAME} in an address is an
    environment variable.

    \b
    Example:
      kaggleops data add tweets kaggle://competitions/tweet-sentiment-extraction
    """
    from kaggleops.resources.edits import add_entry, manifest_here

    given = {**fields, "source": source, "files": list(fields["files"])}
    manifest = add_entry(manifest_here(Path.cwd()), name, given)
    print_json(name=name, manifest=str(manifest.path))
    out.print(f"{manifest.path} declares {name}.")
    out.print(f"Fetch it: kaggleops data fetch {name}")


@data_command.command("push")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("uri", metavar="[URI]", required=False)
@click.option("--name", help="Default: the name of DIR.")
@click.option("--description", default="", metavar="TEXT", help="What it is, for people.")
@options.secrets
@options.json
def push_command(
    folder: Path, uri: str | None, name: str | None, description: str, allow_secrets: bool
) -> None:
    """Upload a folder as data that others can fetch.

    It is declared under its name. URI is gs://BUCKET/PREFIX or s3://BUCKET[@HOST]/PREFIX; by
    default data/NAME in the bucket of this project's runs.

    \b
    Example:
      kaggleops data push features --description 'TF-IDF of all tweets'
    """
    from kaggleops.resources.edits import manifest_here, push

    name = name or folder.resolve().name
    how = f"Say where: kaggleops data push {folder} gs://BUCKET/data/{name}"
    target = uri or f"{options.in_no_way(options.bucket_of(None, how))}/data/{name}"
    with bytes_going("Pushing") as (begin, progress):
        path = manifest_here(Path.cwd())
        locked = push(
            *(path, folder, target, name, description, begin, progress), allow_secrets=allow_secrets
        )
    print_json(name=name, version=locked.version, files=len(locked.files), size=locked.size)
    what = f"{counted(len(locked.files))} ({sized(locked.size)})"
    out.print(f"Pushed {what} to {target}; {path} declares {name}.")
    lock = os.path.relpath(path.with_name("resources.lock"))
    out.print(f"Commit both: git add {os.path.relpath(path)} {lock}")
