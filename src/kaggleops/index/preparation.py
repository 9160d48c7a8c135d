"""What a change in the bucket comes to: rows, or the reason why there are none.

Needs neither the database nor the bucket, so that another process can do it (worker.py).

How far the metric points of a long run are in the index, so that only new ones are written.

A live run comes anew with every flush, and hardly anything of it is new. Metric files grow at their
end. Where each still begins with what is in the index already, told by a digest, what follows is
all that has to be written; where one does not, all of the run's points are compared.
"""

import hashlib
import json
from dataclasses import dataclass, replace

from kaggleops.bucket import Version
from kaggleops.index.rows import rows_of
from kaggleops.index.tables import Rows
from kaggleops.mlruns import BrokenEntityError, Change, Entity, EntityId, Kind, unpack
from kaggleops.mlruns.liveness import silence_allowed
from kaggleops.mlruns.locations import rebase
from kaggleops.platforms.machine import memory

_LONG = 64 << 10  # bytes of points, which are compared faster than their digests are kept
_POINTS = "metrics/"


def digests_of(entity: Entity) -> str:
    """Return what to keep of a run so that `new_points` knows it again; "" where it is short."""
    if entity.id.kind is not Kind.RUN:
        return ""
    files = {path: data for path, data in entity.files.items() if path.startswith(_POINTS)}
    if sum(map(len, files.values())) < _LONG:
        return ""
    return json.dumps({path: [len(data), _digest(data)] for path, data in files.items()})


def new_points(entity: Entity, digests: str) -> Entity | None:
    """Return the run with those of its points only that were added since.

    Args:
        entity: the run as it is now.
        digests: what was kept of it as it is in the index.

    Returns:
        None where something else has happened to its points.
    """
    files = dict(entity.files)
    for path, (size, digest) in json.loads(digests).items():
        data = files.pop(path, b"")
        if _digest(data[:size]) != digest:
            return None
        if added := data[size:]:
            files[path] = added
    return replace(entity, files=files)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


_MEMORY_OF_POINT = 1024  # bytes of this machine's; a row takes some 250


@dataclass(frozen=True)
class Prepared:
    """A change, ready to be written.

    Args:
        id: of which entity.
        version: at which it is now.
        rows: what it comes to; None where it is gone or has a problem.
        problem: why there are no rows, or "".
        heartbeat: when its run said that it is alive, in ms since the epoch; 0 if it never did.
        may_be_silent: after how many seconds of silence its run is lost; None if it does not run.
        digests: what to keep of its points (growing.py), or "".
        grown: whether the rows of its points are to be added to those that are there.
    """

    id: EntityId
    version: Version
    rows: Rows | None = None
    problem: str = ""
    heartbeat: int = 0
    may_be_silent: int | None = None
    digests: str = ""
    grown: bool = False


def prepare(change: Change, known: str = "") -> Prepared:
    """Return what a change comes to.

    Args:
        change: not packed.
        known: the digests of its points that are in the index already, if it is a long run.
    """
    entity = change.entity
    if entity is None:
        return Prepared(change.id, change.version, problem=str(change.problem or ""))
    added = new_points(entity, known) if known else None
    rows, problem = None, ""
    points, most = _points(added or entity), memory() // _MEMORY_OF_POINT
    try:
        if points > most:
            raise ValueError(f"{points:,} points at once, and this machine has room for {most:,}")
        rows = rows_of(added or entity)
    except Exception as error:  # noqa: BLE001
        # Whatever stands in an object: MLflow's code for it was not made for that.
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        problem = f"indexing {change.id}: it holds what nobody expects ({reason})."
    return Prepared(
        change.id,
        change.version,
        rows,
        problem,
        entity.notes.heartbeat,
        silence_allowed(entity) if change.id.kind is Kind.RUN else None,
        digests_of(entity),
        added is not None,
    )


def _points(entity: Entity) -> int:
    files = entity.files.items()
    return sum(data.count(b"\n") for path, data in files if path.startswith("metrics/"))


def unpacked(change: Change, where: str, artifact_root: str) -> Change:
    """Return a change that came packed with its entity, or with the reason why it has none.

    Args:
        change: any.
        where: the address of its object, for the error.
        artifact_root: the URI under which the bucket's artifacts lie.
    """
    if change.packed is None:
        return change
    try:
        entity = rebase(unpack(change.packed, change.id, where), artifact_root)
    except BrokenEntityError as error:
        return Change(change.id, change.version, problem=error)
    return Change(change.id, change.version, entity)
