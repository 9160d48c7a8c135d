"""Commands on the whole bucket: push, import, export, bundle, forget."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kaggleops.bucket.location import bucket_uri
from kaggleops.cli import options
from kaggleops.cli.data import sized
from kaggleops.cli.indexed import can_index, history_of, runs_named
from kaggleops.cli.output import err, exit_with, out, print_json, print_rows, progress_bar
from kaggleops.errors import UsageError
from kaggleops.git.own_files import leave_out
from kaggleops.printable import counted
from kaggleops.tags import USER

if TYPE_CHECKING:
    from kaggleops.mlruns import EntityStore
    from kaggleops.mlruns.deletion import Belongings

_RUNS_SHOWN = 20


@click.command("push")
@options.place
@options.json
def push_command(place: str) -> None:
    """Send what ended runs could not: metrics and artifacts.

    \b
    Example:
      kaggleops push --bucket gs://my-bucket
    """
    from kaggleops.mlruns import ChangeLog, EntityStore
    from kaggleops.tracking.push import push

    store_in = options.bucket_at(place)
    store_in.expect()
    with progress_bar("Sending") as progress:
        sent = push(EntityStore(store_in, ChangeLog(store_in)), progress)
    print_json(
        sent=[str(entity_id) for entity_id in sent.entities],
        artifacts=[str(place) for place in sent.artifacts],
        renamed=sent.renamed,
        in_use=[str(folder) for folder in sent.in_use],
        problems=sent.problems,
    )
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
@options.place
@options.json
def import_command(source: str, place: str) -> None:
    """Import runs from an mlruns folder, with their artifacts.

    SOURCE is a folder; the output of a notebook that logged without internet works too. Artifacts
    in another bucket are copied; what cannot be copied is named. Importing again adds what is new,
    and undoes no change made in the bucket. Of several copies of a run, import the oldest first.

    \b
    Example:
      kaggleops import ./mlruns
    """
    from kaggleops.mlruns import EntityStore
    from kaggleops.mlruns.import_sources import opened
    from kaggleops.mlruns.importer import import_into

    store = EntityStore(options.bucket_at(options.in_no_way(place)))
    with opened(source) as found, progress_bar("Importing") as importing:
        imported = import_into(
            store,
            found,
            lambda done, total, artifacts, size: importing(
                done, total, f"Importing ({counted(artifacts, 'artifact')}, {sized(size)})"
            ),
        )
    print_json(
        new=[str(entity_id) for entity_id in sorted(imported.new)],
        changed=[str(entity_id) for entity_id in sorted(imported.changed)],
        unchanged=imported.unchanged,
        artifacts=imported.artifacts,
        artifacts_size=imported.artifacts_size,
        problems=imported.problems,
    )
    out.print(
        f"{place}: {len(imported.new)} new, {len(imported.changed)} changed, "
        f"{imported.unchanged} there already; {counted(imported.artifacts, 'artifact')} copied "
        f"({sized(imported.artifacts_size)}).",
    )
    exit_with(imported.problems)


@click.command("export")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@options.place
@click.option("--artifacts", is_flag=True, help="Also the models, plots and checkpoints.")
@options.json
def export_command(folder: Path, place: str, artifacts: bool) -> None:
    """Export all runs as a plain mlruns folder.

    For MLflow without KaggleOps. DIR must be new or empty. For a copy that is itself a bucket, copy
    the objects (rclone copy, gcloud storage rsync -r).

    \b
    Example:
      kaggleops export plain-mlruns
    """
    from kaggleops.mlruns import EntityStore
    from kaggleops.mlruns.export import export

    store = EntityStore(options.bucket_at(place))
    store.check()
    with progress_bar("Exporting") as progress:
        done = export(store, folder, artifacts=artifacts, progress=progress)
    leave_out(folder)
    show = f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {folder}"
    also = f" and {counted(done.artifacts, 'artifact')}" if artifacts else ""
    print_json(
        folder=str(folder),
        entities=done.entities,
        artifacts=done.artifacts,
        show=show,
        problems=done.problems,
    )
    out.print(f"{folder} holds {done.entities} experiments, runs and models{also} of {place}.")
    out.print(f"Show it: {show}")
    exit_with(done.problems)


@click.command("bundle")
@options.bucket
@options.version
@options.repository
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write it into a folder instead, to upload as a dataset.",
)
@options.secrets
@options.json
def bundle_command(
    bucket: str | None,
    version: str | None,
    repository: Path,
    folder: Path | None,
    allow_secrets: bool,
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

    place = options.in_no_way(options.bucket_of(bucket)) if folder is None else ""
    commit = find_commit(repository, version)
    if commit.uncommitted and version is None:
        raise UsageError(
            f"bundling {commit.sha[:10]}",
            f"{commit.changes} changed and not committed",
            "Commit them, or add --version HEAD to bundle the commit without them.",
        )
    if folder is None:
        key = send(commit, options.bucket_at(place), allow_secrets=allow_secrets)
        where = f"{bucket_uri(place)}/{key}"
    else:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / Path(key_of(commit.sha)).name
        where = str(bundle(commit, file, allow_secrets=allow_secrets))
        leave_out(file)
    print_json(commit=commit.sha, repository=commit.origin, bundle=where)
    print_rows(
        ("Bundle", where),
        ("In the notebook", f'repository = "{commit.origin}"'),
        ("", f'version = "{commit.sha}"'),
    )


@click.command("forget")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--user", metavar="NAME", help="All runs of this user: the tag mlflow.user.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@options.place
@options.json
def forget_command(runs: tuple[str, ...], user: str | None, yes: bool, place: str) -> None:
    """Delete runs for good, with everything that belongs to them.

    The RUNs, or all runs of one user, with their models, traces, artifacts and logs. The runs are
    shown, and you are asked first. What a bucket keeps after that (old versions, soft-deleted
    objects) is named, with the command that deletes it.

    \b
    Example:
      kaggleops forget --user ada
    """
    from kaggleops.mlruns import ChangeLog, EntityStore
    from kaggleops.mlruns.deletion import belongings, forget, runs_by_id, runs_of

    if bool(runs) == bool(user):
        raise UsageError("deleting runs", "name either runs or a user", "Add RUN... or --user.")
    store_in = options.bucket_at(place)
    store = EntityStore(store_in, ChangeLog(store_in))
    store.check()
    ids = runs_named(store.bucket.uri, runs)
    among = None
    if user and can_index():  # the index tells which may be theirs
        with history_of(store.bucket.uri, None, anew=True) as history:
            among = history.with_tag(USER, user)
    with err.status("Looking for what belongs to them"):
        chosen = runs_by_id(store, ids) if ids else runs_of(store, user or "", among)
        found = belongings(store, chosen, time.time_ns() // 1_000_000)
    size = sum(entry.size for entry in found.artifacts)
    count = (
        f"{counted(len(found.runs), 'run')} with {len(found.others)} models and traces, "
        f"{counted(len(found.artifacts), 'artifact')} ({size / 1e6:.1f} MB), and "
        f"{len(found.left_by_jobs)} logs and executed notebooks"
    )
    if found.runs and not yes:
        for run in found.runs[:_RUNS_SHOWN]:
            err.print(f"{run} of experiment {run.experiment_id}")
        if len(found.runs) > _RUNS_SHOWN:
            err.print(f"… and {len(found.runs) - _RUNS_SHOWN} more")
        err.print(f"In all, {count}.")
        click.confirm(f"Delete all this from {store_in.uri} for good?", abort=True, err=True)
    with progress_bar("Deleting") as progress:
        forget(store, found, progress)
    commands = _old_versions(store, found)
    print_json(
        runs=[each.name for each in found.runs],
        models_and_traces=[each.name for each in found.others],
        artifacts=len(found.artifacts),
        artifact_bytes=size,
        left_by_jobs=[entry.key for entry in found.left_by_jobs],
        elsewhere=found.elsewhere,
        registered=found.registered,
        old_versions=commands,
    )
    if not found.runs:
        out.print(f"{store_in.uri} has no run of the user {user}: nothing was deleted.")
        return
    out.print(f"Deleted {count} from {store_in.uri}.")
    for place in found.elsewhere:
        out.print(f"Not in the bucket, and not deleted: {place}")
    for name in found.registered:
        out.print(f"Model {name} is still registered, without its files. Delete it in the UI.")
    if commands:
        out.print("The bucket may keep old versions; these commands delete them too:")
        out.print(*(f"  {command}" for command in commands), sep="\n")
        if store_in.keeps_deleted:
            out.print(store_in.keeps_deleted)


def _old_versions(store: "EntityStore", found: "Belongings") -> list[str]:
    """Return the commands that delete what object versioning keeps of them."""
    from kaggleops.layout import ARTIFACTS, INDEX_KEY, LEFT_BY_JOBS, Kind
    from kaggleops.mlruns.export import batches
    from kaggleops.mlruns.locations import artifact_path

    keys = []
    for owner in (*found.runs, *found.others):
        keys += [owner.key, f"{ARTIFACTS}{artifact_path(owner)}/"]
        if owner.kind is Kind.RUN:
            keys += [place.format(owner.name) for place in LEFT_BY_JOBS]
    if keys:
        keys.append(INDEX_KEY)  # it held rows of them
    return [command for some in batches(keys) for command in store.bucket.old_versions(some)]
