"""`kaggleops forget`."""

import time
from typing import TYPE_CHECKING

import click

from kaggleops.cli.indexed import can_index, history_of, runs_named
from kaggleops.cli.options import bucket_at, json_option, place_option
from kaggleops.cli.output import err, out, print_json, progress_bar
from kaggleops.errors import UsageError
from kaggleops.printable import counted
from kaggleops.tags import USER

if TYPE_CHECKING:
    from kaggleops.mlruns import EntityStore
    from kaggleops.mlruns.deletion import Belongings

_SHOWN = 20  # runs


@click.command("forget")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--user", metavar="NAME", help="All runs of this user: the tag mlflow.user.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@place_option
@json_option
def forget_command(
    runs: tuple[str, ...], user: str | None, yes: bool, place: str, as_json: bool
) -> None:
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
    store_in = bucket_at(place)
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
        f"{counted(len(found.runs), 'run')}, {len(found.others)} of their models and traces, "
        f"{counted(len(found.artifacts), 'artifact')} ({size / 1e6:.1f} MB), "
        f"{len(found.left_by_jobs)} of their logs and executed notebooks"
    )
    if found.runs and not yes:
        for run in found.runs[:_SHOWN]:
            err.print(f"{run} of experiment {run.experiment_id}")
        if len(found.runs) > _SHOWN:
            err.print(f"… and {len(found.runs) - _SHOWN} more")
        err.print(f"In all {count}.")
        click.confirm(f"Delete all this from {store_in.uri} for good?", abort=True, err=True)
    with progress_bar("Deleting") as progress:
        forget(store, found, progress)
    commands = _old_versions(store, found)
    if as_json:
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
        return
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
