"""`kaggleops data`: what a project reads and does not hold itself.

What the `kaggleops data` commands show.

`kaggleops data add`, `rm`, `push` and `import`: what changes the manifest.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from kaggleops.cli.options import json_option
from kaggleops.cli.output import err, out, print_json, print_table

if TYPE_CHECKING:
    from kaggleops.resources.sync import Status
    from kaggleops.resources.transfer import Step
import os
from typing import Any

from kaggleops.cli.options import bucket_of, secrets_option


@contextmanager
def bytes_going(title: str) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Show bytes that come or go; yield what to call with their total, and with each more."""
    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield (
            lambda total: bar.update(task, total=total),
            lambda more: bar.update(task, advance=more),
        )


def counted(files: int) -> str:
    """Return how many files there are, in words."""
    return "1 file" if files == 1 else f"{files:,} files"


def sized(size: int) -> str:
    """Return a number of bytes as people write it; "?" where it is not known."""
    if size < 0:
        return "?"
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= one:
            return f"{size / one:.1f} {unit}"
    return f"{size} bytes"


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


@click.command("add")
@click.argument("name")
@click.argument("source")
@click.option("--file", "files", multiple=True, help="A name or glob below SOURCE. Default: all.")
@click.option("--destination", metavar="DIR", help="Default: data/NAME.")
@click.option("--description", metavar="TEXT", help="For people.")
@click.option("--skip-if-exist", is_flag=True, help="Take what is there, whatever it holds.")
@click.option("--checksum", metavar="sha256:…", help="Of a file on the web.")
@click.option("--token", metavar="NAME", help="On the web: the variable with the token to send.")
@click.option("--experiment", metavar="NAME", help="For runs:/best: among whose runs.")
@click.option("--commit", metavar="SHA", help="For runs:/best: of this commit only.")
@click.option("--metric", metavar="NAME", help="For runs:/best: by this metric.")
@click.option("--lower-is-better", is_flag=True, help="For runs:/best: the lowest is the best.")
@json_option
def add_command(name: str, source: str, as_json: bool, **fields: Any) -> None:
    """Declare a data source in config/data/resources.yaml.

    SOURCE is gs://BUCKET/PREFIX, kaggle://competitions/NAME, kaggle://datasets/USER/NAME,
    kaggle://models/USER/MODEL/FRAMEWORK/VARIATION/VERSION, runs:/RUN_ID/PATH, runs:/best/PATH, or
    https://… with a checksum; ${NAME} in an address is an environment variable.
    """
    from kaggleops.resources.edits import add_entries, manifest_here

    given = {**fields, "source": source, "files": list(fields["files"])}
    manifest = add_entries(manifest_here(Path.cwd()), {name: given})
    if as_json:
        print_json(name=name, manifest=str(manifest.path))
    else:
        out.print(f"{manifest.path} declares {name}.")
        out.print(f"Fetch it: kaggleops data fetch {name}")


@click.command("rm")
@click.argument("name")
@json_option
def rm_command(name: str, as_json: bool) -> None:
    """Remove a data source and its lock; its files stay."""
    from kaggleops.resources.edits import remove_entry
    from kaggleops.resources.manifest import find_manifest

    before = find_manifest(Path.cwd())
    folder = before[name].destination
    remove_entry(before.path, name)
    if as_json:
        print_json(name=name, manifest=str(before.path), files=folder)
    else:
        out.print(f"{before.path} declares {name} no more; {folder} is as it was.")


@click.command("push")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("uri", metavar="[URI]", required=False)
@click.option("--name", help="Default: the folder's name.")
@click.option("--description", default="", metavar="TEXT", help="For people.")
@secrets_option
@json_option
def push_command(
    folder: Path,
    uri: str | None,
    name: str | None,
    description: str,
    allow_secrets: bool,
    as_json: bool,
) -> None:
    """Upload a folder and declare it as data that others can fetch.

    URI is gs://BUCKET/PREFIX; by default data/NAME in the bucket of this project's runs.
    """
    from kaggleops.resources.edits import manifest_here, push

    name = name or folder.resolve().name
    how = f"Say where: kaggleops data push {folder} gs://BUCKET/data/{name}"
    target = uri or f"{bucket_of(None, how)}/data/{name}"
    with bytes_going("Pushing") as (begin, progress):
        path = manifest_here(Path.cwd())
        locked = push(
            *(path, folder, target, name, description, begin, progress), allow_secrets=allow_secrets
        )
    if as_json:
        print_json(name=name, version=locked.version, files=len(locked.files), size=locked.size)
    else:
        what = f"{counted(len(locked.files))} ({sized(locked.size)})"
        out.print(f"Pushed {what} to {target}; {path} declares {name}.")
        lock = os.path.relpath(path.with_name("resources.lock"))
        out.print(f"Commit both: git add {os.path.relpath(path)} {lock}")


@click.command("import")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@json_option
def import_command(file: Path, as_json: bool) -> None:
    """Declare the data sources that a Python file lists.

    FILE is in the form of the 2022 article. It is read, not run. A destination outside of the
    project becomes data/NAME.
    """
    from kaggleops.resources.edits import add_entries, inside_project, manifest_here, read_list

    path = manifest_here(Path.cwd())
    entries = read_list(file)
    added = {name: inside_project(name, fields) for name, fields in entries.items()}
    add_entries(path, added)
    moved = {
        name: fields["destination"]
        for name, fields in entries.items()
        if added[name]["destination"] != fields["destination"]
    }
    if as_json:
        print_json(manifest=str(path), names=list(entries), moved=moved)
        return
    out.print(f"{path} declares {', '.join(entries)}.")
    for name, old in moved.items():
        text = f"{name} goes to data/{name}: {old} lies outside of the project."
        out.print(text)


for command in (add_command, rm_command, push_command, import_command):
    data_command.add_command(command)
