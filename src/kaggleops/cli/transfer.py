"""Commands on the whole bucket: push, import, export, bundle."""

from pathlib import Path

import click

from kaggleops.bucket.location import bucket_uri
from kaggleops.cli.data import sized
from kaggleops.cli.options import (
    bucket_at,
    bucket_of,
    bucket_option,
    json_option,
    place_option,
    repository_option,
    secrets_option,
    version_option,
)
from kaggleops.cli.output import err, exit_with, out, print_json, print_rows, progress_bar
from kaggleops.errors import UsageError
from kaggleops.git.own_files import leave_out
from kaggleops.printable import counted


@click.command("push")
@place_option
@json_option
def push_command(place: str, as_json: bool) -> None:
    """Send what ended runs could not: metrics and artifacts.

    \b
    Example:
      kaggleops push --bucket gs://my-bucket
    """
    from kaggleops.mlruns import ChangeLog, EntityStore
    from kaggleops.tracking.push import push

    store_in = bucket_at(place)
    store_in.expect()
    with progress_bar("Sending") as progress:
        sent = push(EntityStore(store_in, ChangeLog(store_in)), progress)
    if as_json:
        print_json(
            sent=[str(entity_id) for entity_id in sent.entities],
            artifacts=[str(place) for place in sent.artifacts],
            renamed=sent.renamed,
            in_use=[str(folder) for folder in sent.in_use],
            problems=sent.problems,
        )
    else:
        for found in (*sent.entities, *sent.artifacts):
            out.print(f"sent {found}")
        for renamed in sent.renamed:
            out.print(renamed)
        if sent.in_use:
            err.print(f"Processes that still run, and send for themselves: {len(sent.in_use)}.")
        if not (sent.entities or sent.artifacts or sent.problems):
            out.print(f"Nothing to send: {place} has everything.")
    exit_with(sent.problems)


@click.command("import")
@click.argument("source")
@place_option
@json_option
def import_command(source: str, place: str, as_json: bool) -> None:
    """Import runs from an mlruns folder, with their artifacts.

    SOURCE is a folder; the output of a notebook that logged without internet works too. Artifacts
    in another bucket are copied; what cannot be copied is named. Importing again adds what is new,
    and undoes no change made in the bucket.

    \b
    Example:
      kaggleops import ./mlruns
    """
    from kaggleops.mlruns import EntityStore
    from kaggleops.mlruns.import_sources import opened
    from kaggleops.mlruns.importer import import_into

    store = EntityStore(bucket_at(place))
    with opened(source) as found, progress_bar("Importing") as importing:
        imported = import_into(
            store,
            found,
            lambda done, total, artifacts, size: importing(
                done, total, f"Importing ({counted(artifacts, 'artifact')}, {sized(size)})"
            ),
        )
    if as_json:
        print_json(
            new=[str(entity_id) for entity_id in sorted(imported.new)],
            changed=[str(entity_id) for entity_id in sorted(imported.changed)],
            unchanged=imported.unchanged,
            artifacts=imported.artifacts,
            artifacts_size=imported.artifacts_size,
            problems=imported.problems,
        )
    else:
        out.print(
            f"{place}: {len(imported.new)} new, {len(imported.changed)} changed, "
            f"{imported.unchanged} there already; {counted(imported.artifacts, 'artifact')} copied "
            f"({sized(imported.artifacts_size)}).",
        )
    exit_with(imported.problems)


@click.command("export")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@place_option
@click.option("--artifacts", is_flag=True, help="Also the models, plots and checkpoints.")
@json_option
def export_command(folder: Path, place: str, artifacts: bool, as_json: bool) -> None:
    """Export all runs as a plain mlruns folder.

    For MLflow without KaggleOps. DIR must be new or empty. For a copy that is itself a bucket, copy
    the objects (rclone copy, gcloud storage rsync -r).

    \b
    Example:
      kaggleops export plain-mlruns
    """
    from kaggleops.mlruns import EntityStore
    from kaggleops.mlruns.export import export

    store = EntityStore(bucket_at(place))
    store.check()
    with progress_bar("Exporting") as progress:
        done = export(store, folder, artifacts=artifacts, progress=progress)
    leave_out(folder)
    show = f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {folder}"
    if as_json:
        print_json(
            folder=str(folder),
            entities=done.entities,
            artifacts=done.artifacts,
            show=show,
            problems=done.problems,
        )
    else:
        also = f" and {counted(done.artifacts, 'artifact')}" if artifacts else ""
        out.print(
            f"{folder} holds {done.entities} experiments, runs and models{also} of {place}.\n"
            f"Show it: {show}",
        )
    exit_with(done.problems)


@click.command("bundle")
@bucket_option
@version_option
@repository_option
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write it into a folder instead, to upload as a dataset.",
)
@secrets_option
@json_option
def bundle_command(
    bucket: str | None,
    version: str | None,
    repository: Path,
    folder: Path | None,
    allow_secrets: bool,
    as_json: bool,
) -> None:
    """Put a commit into the bucket, for machines that cannot clone it.

    For private code, and for commits that are not pushed: a git bundle under the bucket's `code/`,
    where notebooks/run.ipynb finds it by the commit's hash.

    \b
    Example:
      kaggleops bundle --version my-branch
    """
    from kaggleops.git.checkouts import bundle, key_of, send
    from kaggleops.git.commits import find_commit

    place = bucket_of(bucket) if folder is None else ""
    commit = find_commit(repository, version)
    if commit.uncommitted and version is None:
        raise UsageError(
            f"bundling {commit.sha[:10]}",
            f"{commit.changes} changed and not committed",
            "Commit them, or add --version HEAD to bundle the commit without them.",
        )
    if folder is None:
        key = send(commit, bucket_at(place), allow_secrets=allow_secrets)
        where = f"{bucket_uri(place)}/{key}"
    else:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / Path(key_of(commit.sha)).name
        where = str(bundle(commit, file, allow_secrets=allow_secrets))
        leave_out(file)
    if as_json:
        print_json(commit=commit.sha, repository=commit.origin, bundle=where)
        return
    print_rows(
        ("Bundle", where),
        ("In the notebook", f'repository = "{commit.origin}"'),
        ("", f'version = "{commit.sha}"'),
    )
