"""Two versions of one entity become one: commutative, associative, idempotent.

- Metric points: the union. A point that one side holds twice stays twice.
- Params: never change; a differing value is an error that names both.
- What is written over (tags, aliases, assessments): the newest write or deletion wins.
- `meta.yaml`: by register, a group of fields that are set together. A status that ended beats a
  running one, the newest such wins, and a deliberate resume starts a new round that beats both.

Equal times are broken by content, so that every machine breaks them alike.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kaggleops.mlruns.archive import check_tree
from kaggleops.mlruns.entity import (
    META,
    BrokenEntityError,
    Entity,
    Notes,
    Role,
    Stamp,
    dump_yaml,
    role_of,
)
from kaggleops.mlruns.layout import EntityId, Kind

REGISTERS: Mapping[Kind, Mapping[str, tuple[str, ...]]] = {
    Kind.EXPERIMENT: {"name": ("name",), "lifecycle": ("lifecycle_stage",)},
    Kind.RUN: {
        "name": ("run_name",),
        "status": ("status", "end_time"),
        "lifecycle": ("lifecycle_stage", "deleted_time"),
    },
    Kind.LOGGED_MODEL: {
        "status": ("status",),
        "lifecycle": ("lifecycle_stage",),
    },
}
"""The fields of `meta.yaml` that change, grouped as they are set together."""

_EARLIEST = ("creation_time", "creation_timestamp")
_LATEST = ("last_update_time", "last_updated_timestamp")

# mlflow.entities.RunStatus: RUNNING 1, SCHEDULED 2, FINISHED 3, FAILED 4, KILLED 5.
_RUN_STATUS_RANKS = {2: 0, 1: 1, 3: 2, 4: 2, 5: 2}
# mlflow.entities.LoggedModelStatus: UNSPECIFIED 0, PENDING 1, READY 2, FAILED 3.
_MODEL_STATUS_RANKS = {0: 0, 1: 1, 2: 2, 3: 2}
ENDED = 2


class ParamConflictError(BrokenEntityError):
    """Two writers gave one param two values."""


def status_rank(kind: Kind, status: Any) -> int:
    """Return 0 for a status that waits, 1 for one under way, 2 for one that ended."""
    ranks = _MODEL_STATUS_RANKS if kind is Kind.LOGGED_MODEL else _RUN_STATUS_RANKS
    return ranks.get(status, 1)


def merge(a: Entity, b: Entity) -> Entity:
    """Return what both versions hold.

    Raises:
        ParamConflictError: a param has two values.
        BrokenEntityError: a path is a file in one and a folder in the other, or `meta.yaml`
            cannot be read.
    """
    if a.id != b.id:
        raise ValueError(f"{a.id} and {b.id} are two entities")
    files: dict[str, bytes] = {}
    for path in a.files.keys() | b.files.keys():
        role = role_of(a.id.kind, path)
        if role in (Role.META, Role.WRITTEN):
            continue
        mine, theirs = a.files.get(path), b.files.get(path)
        if mine is None or theirs is None or mine == theirs:
            files[path] = theirs if mine is None else mine  # type: ignore[assignment]
        elif role is Role.POINTS:
            files[path] = _merge_points(mine, theirs)
        elif role is Role.PARAM:
            raise _param_conflict(a.id, path, mine, theirs)
        else:
            files[path] = max(mine, theirs)
    heartbeat, promise = max((n.heartbeat, n.promise) for n in (a.notes, b.notes))
    notes = Notes(heartbeat=heartbeat, promise=promise)
    _merge_written(a, b, files, notes)
    if role_of(a.id.kind, META) is Role.META:
        files[META] = _merge_meta(a, b, notes)
    merged = Entity(a.id, files, a.folders | b.folders, notes)
    check_tree(merged, f"merging two versions of {a.id}")
    return merged


def yield_params(ours: Entity, theirs: Entity) -> Entity:
    """Return ours with their value for every param that has two: the first to arrive stays."""
    prevail = {
        path: data
        for path, data in theirs.files.items()
        if role_of(ours.id.kind, path) is Role.PARAM and path in ours.files
    }
    return replace(ours, files={**ours.files, **prevail})


def _merge_points(a: bytes, b: bytes) -> bytes:
    counts = Counter(_lines(a)) | Counter(_lines(b))
    # By time, then step: the order in which one writer would have appended them.
    return b"".join(line + b"\n" for line in sorted(counts.elements(), key=_point_order))


def _lines(data: bytes) -> list[bytes]:
    return [line for line in data.split(b"\n") if line]


def _point_order(line: bytes) -> tuple[int, int, bytes]:
    parts = line.split()
    try:
        return int(parts[0]), int(parts[2]) if len(parts) > 2 else 0, line
    except (ValueError, IndexError):
        return 0, 0, line  # not a point; kept, and whoever reads it says so


def _param_conflict(entity_id: EntityId, path: str, a: bytes, b: bytes) -> ParamConflictError:
    name = path.removeprefix("params/")
    values = " and ".join(repr(value.decode(errors="replace")) for value in sorted((a, b)))
    return ParamConflictError(
        f"merging two versions of {entity_id}",
        f"the param {name!r} has the values {values}, and a param never changes",
        "Log the new value under another name, or in another run.",
    )


def _merge_written(a: Entity, b: Entity, files: dict[str, bytes], notes: Notes) -> None:
    for path in _written_paths(a) | _written_paths(b):
        at, _, content = max(_latest(a, path), _latest(b, path))
        if content is None:
            notes.deleted[path] = at
        else:
            files[path] = content
            notes.written[path] = at


def _written_paths(entity: Entity) -> set[str]:
    kind = entity.id.kind
    present = {path for path in entity.files if role_of(kind, path) is Role.WRITTEN}
    return present | entity.notes.deleted.keys()


def _latest(entity: Entity, path: str) -> tuple[int, int, Any]:
    """Return (time, 1 for a deletion, content); comparable, as the middle decides before None."""
    if path in entity.files:
        return entity.notes.written.get(path, 0), 0, entity.files[path]
    if path in entity.notes.deleted:
        return entity.notes.deleted[path], 1, None
    return -1, 0, b""


def _merge_meta(a: Entity, b: Entity, notes: Notes) -> bytes:
    registers = REGISTERS[a.id.kind]
    grouped = {field for fields in registers.values() for field in fields}
    merged: dict[str, Any] = {}
    for field in a.meta.keys() | b.meta.keys():
        if field in grouped:
            continue
        values = [meta[field] for meta in (a.meta, b.meta) if meta.get(field) is not None]
        if not values:
            merged[field] = None
        elif field in _EARLIEST:
            merged[field] = min(values, key=_as_number)
        elif field in _LATEST:
            merged[field] = max(values, key=_as_number)
        else:
            merged[field] = max(values, key=_as_text)
    for name, fields in registers.items():
        stamp, _, values_of = max(_register(a, name, fields), _register(b, name, fields))
        notes.registers[name] = stamp
        merged.update(values_of.of)
    # Two spellings of one content become MLflow's own, whichever side is asked first.
    return a.files[META] if a.files[META] == b.files[META] else dump_yaml(merged)


class _Values:
    """A register's fields; compared after everything that decides, so never itself decisive."""

    def __init__(self, of: dict[str, Any]) -> None:
        self.of = of

    def __lt__(self, other: "_Values") -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


def _register(entity: Entity, name: str, fields: tuple[str, ...]) -> tuple[Stamp, str, _Values]:
    of = {field: entity.meta[field] for field in fields if field in entity.meta}
    stamp = entity.notes.registers.get(name, Stamp())
    if name == "status":
        rank = status_rank(entity.id.kind, entity.meta.get("status"))
        stamp = Stamp(stamp.round, rank, stamp.at)
    return stamp, _as_text(of), _Values(of)


def _as_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _as_number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
