"""What a change in the bucket comes to: rows, or the reason why there are none."""

from dataclasses import dataclass

from kaggleops.bucket import Version
from kaggleops.index.rows import rows_of
from kaggleops.index.tables import Rows
from kaggleops.mlruns import Change, Entity, EntityId, Kind
from kaggleops.mlruns.liveness import silence_allowed
from kaggleops.platforms.machine import memory

_MEMORY_OF_POINT = 1024  # bytes of this machine's; a row, or sorting one, takes some 250


@dataclass(frozen=True)
class Prepared:
    """A change, ready to be written; then what became of it."""

    id: EntityId  # of which entity
    version: Version  # at which it is now
    rows: Rows | None = None  # what it comes to; None where it is gone or has a problem
    problem: str = ""  # why it is not in the index as it is in the bucket, or ""
    waits_for: str = ""  # the key of the object without which that cannot be mended, or ""
    # when its run said that it is alive, in ms since the epoch; 0 if it never did
    heartbeat: int = 0
    # after how many seconds of silence its run is lost; None if it does not run
    may_be_silent: int | None = None


def prepare(change: Change) -> Prepared:
    """Return what a change comes to."""
    entity = change.entity
    if entity is None:
        return Prepared(change.id, change.version, problem=str(change.problem or ""))
    rows, problem = None, ""
    try:
        if change.id.kind is Kind.LOGGED_MODEL:
            check_room(entity)
        rows = rows_of(entity)
    except Exception as error:  # noqa: BLE001
        # Whatever stands in an object: MLflow's code for it was not made for that.
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        problem = f"indexing {change.id}: it holds what nobody expects ({reason})."
    silence = silence_allowed(entity) if change.id.kind is Kind.RUN else None
    return Prepared(change.id, change.version, rows, problem, "", entity.notes.heartbeat, silence)


def check_room(entity: Entity) -> None:
    """Raise ValueError where an entity has more metric points than this machine has room for."""
    files = [data for path, data in entity.files.items() if path.startswith("metrics/")]
    points, most = sum(data.count(b"\n") for data in files), memory() // _MEMORY_OF_POINT
    if points > most:
        raise ValueError(f"{points:,} points at once, and this machine has room for {most:,}")
