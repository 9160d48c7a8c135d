"""`kaggleops forget`."""

import shlex
import time
from typing import TYPE_CHECKING, Any

import click
from rich.progress import Progress

from kaggleops.cli.options import bucket_at, bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, out, print_json
from kaggleops.errors import UsageError

if TYPE_CHECKING:
    from kaggleops.mlruns import EntityStore
    from kaggleops.mlruns.deletion import Belongings

_SHOWN = 20  # runs


@click.command("forget")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--user", metavar="NAME", help="All runs of this user: the tag mlflow.user.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@bucket_option
@json_option
def forget_command(
    runs: tuple[str, ...], user: str | None, yes: bool, bucket: str | None, as_json: bool
) -> None:
    """Delete runs for good, with everything that belongs to them.

    RUNs, or all runs of one person: with their models, traces, artifacts and logs. The runs are
    shown, and you are asked first. What Cloud Storage keeps beyond that (old versions, soft-deleted
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
    with err.status("Looking for what belongs to them"):
        chosen = runs_named(store, runs) if runs else runs_of(store, user or "")
        found = belongings(store, chosen, time.time_ns() // 1_000_000)
    if found.runs and not yes:
        _show(found)
        click.confirm(f"Delete all this from {store_in.uri} for good?", abort=True, err=True)
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("Deleting", total=None)
        forget(store, found, lambda done, total: bar.update(task, completed=done, total=total))
    if as_json:
        print_json(**_as_json(store, found))
        return
    out.print(f"Deleted {_count(found)} from {store_in.uri}.")
    for line in _left(store, found):
        out.print(line)


def _show(found: "Belongings") -> None:
    for run in found.runs[:_SHOWN]:
        err.print(f"{run} of experiment {run.experiment_id}")
    if len(found.runs) > _SHOWN:
        err.print(f"… and {len(found.runs) - _SHOWN} more")
    err.print(f"In all {_count(found)}.")


def _count(found: "Belongings") -> str:
    size = sum(entry.size for entry in found.artifacts) / 1e6
    return (
        f"{len(found.runs)} runs, {len(found.others)} models and traces of theirs, "
        f"{len(found.artifacts)} artifacts ({size:.1f} MB), "
        f"{len(found.left_by_jobs)} logs and executed notebooks"
    )


def _left(store: "EntityStore", found: "Belongings") -> list[str]:
    lines = [f"Not in the bucket, and not deleted: {place}" for place in found.elsewhere]
    lines += [
        f"Still registered, without its files: model {name}. Delete its versions in the UI."
        for name in found.registered
    ]
    if commands := _old_versions(store, found):
        lines.append("Cloud Storage may keep old versions; these commands delete them, too:")
        lines += [f"  {command}" for command in commands]
        lines.append("What was soft-deleted is gone when the bucket's soft-delete time is over.")
    return lines


def _old_versions(store: "EntityStore", found: "Belongings") -> list[str]:
    """Return the commands that delete what versioning keeps of them."""
    from kaggleops.bucket.location import is_remote
    from kaggleops.layout import ARTIFACTS, LEFT_BY_JOBS, Kind
    from kaggleops.mlruns.locations import artifact_path

    uri = store.bucket.uri
    if not is_remote(uri):
        return []
    commands = []
    for owner in (*found.runs, *found.others):
        places = [f"{uri}/{owner.key}", f"{uri}/{ARTIFACTS}{artifact_path(owner)}/**"]
        if owner.kind is Kind.RUN:
            left = [place.format(owner.name) for place in LEFT_BY_JOBS]
            places += [
                f"{uri}/{each}**" if each.endswith("/") else f"{uri}/{each}" for each in left
            ]
        commands.append(shlex.join(["gcloud", "storage", "rm", "--all-versions", *places]))
    return commands


def _as_json(store: "EntityStore", found: "Belongings") -> dict[str, Any]:
    return {
        "runs": [each.name for each in found.runs],
        "models_and_traces": [each.name for each in found.others],
        "artifacts": len(found.artifacts),
        "artifact_bytes": sum(entry.size for entry in found.artifacts),
        "left_by_jobs": [entry.key for entry in found.left_by_jobs],
        "elsewhere": list(found.elsewhere),
        "registered": list(found.registered),
        "old_versions": _old_versions(store, found),
    }
