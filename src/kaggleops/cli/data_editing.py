"""`kaggleops data add`, `rm`, `push` and `import`: what changes the manifest."""

import os
from pathlib import Path
from typing import Any

import click

from kaggleops.cli.data_output import bytes_going, counted, sized
from kaggleops.cli.options import bucket_of, json_option, secrets_option
from kaggleops.cli.output import out, print_json


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
