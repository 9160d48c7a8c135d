"""`kaggleops forget`."""

import shlex
import time
from typing import TYPE_CHECKING

import click

from kaggleops.cli.indexed import can_index, history_of
from kaggleops.cli.options import bucket_at, bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, out, print_json, progress_bar
from kaggleops.errors import UsageError
from kaggleops.tags import USER

if TYPE_CHECKING:
    from kaggleops.mlruns import EntityId, EntityStore
    from kaggleops.mlruns.deletion import Belongings

_SHOWN = 20  # runs


@click.command("forget")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--user", metavar="NAME", help="All runs of this user: the tag mlflow.user.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@bucket_option
@json_option
def forget_command(
    runs: tuple[str, ...], user: str | None, yes: bool, bucket: str | None, as_json: bool
) -> None:
    """Delete runs for good, with everything that belongs to them.

    The RUNs, or all runs of one user, with their models, traces, artifacts and logs. The runs are
    shown, and you are asked first. What Cloud Storage keeps after that (old versions, soft-deleted
    objects) is named, with the command that deletes it.

    \b
    Example:
      kaggleops forget --user ada
    """
    from kaggleops.mlruns import ChangeLog, EntityStore
    from kaggleops.mlruns.deletion import belongings, forget, runs_named, runs_of

    if bool(runs) == bool(user):
        raise UsageError("deleting runs", "name either runs or a user", "Add RUN... or --user.")
    store_in = bucket_at(bucket_of(bucket))
    store = EntityStore(store_in, ChangeLog(store_in))
    store.check()
    among = _with_tag(store, USER, user) if user and can_index() else None
    with err.status("Looking for what belongs to them"):
        chosen = runs_named(store, runs) if runs else runs_of(store, user or "", among)
        found = belongings(store, chosen, time.time_ns() // 1_000_000)
    count = _count(found)
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
            artifact_bytes=sum(entry.size for entry in found.artifacts),
            left_by_jobs=[entry.key for entry in found.left_by_jobs],
            elsewhere=found.elsewhere,
            registered=found.registered,
            old_versions=commands,
        )
        return
    out.print(f"Deleted {count} from {store_in.uri}.")
    for place in found.elsewhere:
        out.print(f"Not in the bucket, and not deleted: {place}")
    for name in found.registered:
        out.print(f"Model {name} is still registered, without its files. Delete it in the UI.")
    if commands:
        out.print("Cloud Storage may keep old versions; these commands delete them too:")
        out.print(*(f"  {command}" for command in commands), sep="\n")
        out.print("Soft-deleted objects disappear after the bucket's soft-delete period.")


def _with_tag(store: "EntityStore", tag: str, value: str) -> "list[EntityId]":
    """Return the runs that may have a tag: which those are is told by the index."""
    with history_of(store.bucket.uri, None, anew=True) as history:
        return history.with_tag(tag, value)


def _count(found: "Belongings") -> str:
    size = sum(entry.size for entry in found.artifacts) / 1e6
    return (
        f"{len(found.runs)} runs, {len(found.others)} of their models and traces, "
        f"{len(found.artifacts)} artifacts ({size:.1f} MB), "
        f"{len(found.left_by_jobs)} logs and executed notebooks"
    )


def _old_versions(store: "EntityStore", found: "Belongings") -> list[str]:
    """Return the commands that delete what object versioning keeps of them."""
    from kaggleops.bucket.location import is_remote
    from kaggleops.layout import ARTIFACTS, INDEX_KEY, LEFT_BY_JOBS, Kind
    from kaggleops.mlruns.locations import artifact_path

    uri = store.bucket.uri
    if not is_remote(uri):
        return []
    commands = []
    for owner in (*found.runs, *found.others):
        places = [f"{uri}/{owner.key}", f"{uri}/{ARTIFACTS}{artifact_path(owner)}/**"]
        if owner.kind is Kind.RUN:
            left = [place.format(owner.name) for place in LEFT_BY_JOBS]
            places += [f"{uri}/{each}{'**' if each.endswith('/') else ''}" for each in left]
        commands.append(places)
    if commands:
        commands.append([f"{uri}/{INDEX_KEY}"])  # it held rows of them
    return [shlex.join(["gcloud", "storage", "rm", "--all-versions", *each]) for each in commands]
