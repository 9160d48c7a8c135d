"""Two versions of one entity become one: commutative, associative, idempotent.

- Metric points: the union; an equal point is one point, as in MLflow's SQL store.
- Params: never change. Two notations of one value are one; two values are an error in `merge`, and
  in `merge_onto` the one that comes later takes another name.
- A name that is a file here and a folder there (`acc` and `acc/val`): the file is renamed.
- What is written over (tags, aliases, assessments): the newest write or deletion wins.
- `meta.yaml`: by register, a group of fields that are set together. A status that ended beats a
  running one, the newest such wins, and a deliberate resume starts a new round that beats both.

Equal times are broken by content, so that every machine breaks them alike.
"""

import json
import re
from collections.abc import Mapping, Set
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from itertools import count
from typing import Any

from kaggleops.layout import EntityId, Kind
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
from kaggleops.printable import quoted

REGISTERS: Mapping[Kind, Mapping[str, tuple[str, ...]]] = {
    Kind.EXPERIMENT: {"name": ("name",), "lifecycle": ("lifecycle_stage",)},
    Kind.RUN: {
        "name": ("run_name",),
        "status": ("status", "end_time"),
        "lifecycle": ("lifecycle_stage", "deleted_time"),
    },
    Kind.LOGGED_MODEL: {"status": ("status",), "lifecycle": ("lifecycle_stage",)},
}
"""The fields of `meta.yaml` that change, grouped as they are set together."""

_EARLIEST = ("creation_time", "creation_timestamp")
_LATEST = ("last_update_time", "last_updated_timestamp")

# mlflow.entities.RunStatus: RUNNING 1, SCHEDULED 2, FINISHED 3, FAILED 4, KILLED 5.
_RUN_STATUS_RANKS = {2: 0, 1: 1, 3: 2, 4: 2, 5: 2}
# mlflow.entities.LoggedModelStatus: UNSPECIFIED 0, PENDING 1, READY 2, FAILED 3.
_MODEL_STATUS_RANKS = {0: 0, 1: 1, 2: 2, 3: 2}
ENDED = 2

_LONGEST = 247  # of a name that a dot and a number are added to; MLflow takes 250 characters
_LONGEST_NUMBER = 64
_WORDS = {b"true": "true", b"false": "false", b"none": "none", b"null": "none"}

BESIDE = ".self"
"""What a metric, param or tag called `acc` is called with beside another one called `acc/val`."""

_NAMED = re.compile(r"(?:version-\d+/)?(?:metrics|params|tags|request_metadata)/")
"""How the path of a file begins that is called as somebody chose."""


def status_rank(kind: Kind, status: Any) -> int:
    """Return 0 for a status that waits, 1 for one under way, 2 for one that ended."""
    ranks = _MODEL_STATUS_RANKS if kind is Kind.LOGGED_MODEL else _RUN_STATUS_RANKS
    return ranks.get(status, 1)


def merge(a: Entity, b: Entity) -> Entity:
    """Return what both versions hold.

    Raises BrokenEntityError where a param has two values, a path that nobody chose is a file in one
    and a folder in the other, or `meta.yaml` cannot be read.
    """
    if a.id != b.id:
        raise ValueError(f"{a.id} and {b.id} are two entities")
    a, b = make_room(a, a.folders | b.folders), make_room(b, a.folders | b.folders)
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
            if not same_value(mine, theirs):
                both = (repr(value.decode(errors="replace")) for value in sorted((mine, theirs)))
                problem = f"has the values {' and '.join(both)}, and a param never changes"
                doing = f"merging two versions of {a.id}"
                raise BrokenEntityError(doing, f"its param {_name(path)!r} {problem}")
            files[path] = _one_notation(mine, theirs)
        else:
            files[path] = max(mine, theirs)
    heartbeat, promise = max((n.heartbeat, n.promise) for n in (a.notes, b.notes))
    notes = Notes(heartbeat=heartbeat, promise=promise)
    for path in _written_paths(a) | _written_paths(b):
        at, _, content = max(_latest(a, path), _latest(b, path))
        if content is None:
            notes.deleted[path] = at
        else:
            files[path], notes.written[path] = content, at
    if role_of(a.id.kind, META) is Role.META:
        files[META] = _merge_meta(a, b, notes)
    merged = Entity(a.id, files, a.folders | b.folders, notes)
    check_tree(merged, f"merging two versions of {a.id}")
    return merged


def merge_onto(stored: Entity, entity: Entity) -> tuple[Entity, list[str]]:
    """Return what both hold, where one was there first; and say what has another name now.

    A param keeps the value, and its notation, that was there first. Else raises what `merge` does.
    """
    folders = stored.folders | entity.folders
    said = [
        renamed(entity.id, path.removesuffix(BESIDE))
        for each in (stored, entity)
        for path in sorted(make_room(each, folders).files.keys() - each.files.keys())
    ]
    stored, entity = make_room(stored, folders), make_room(entity, folders)
    files = dict(entity.files)
    for path, first in stored.files.items():
        if role_of(entity.id.kind, path) is not Role.PARAM or path not in files:
            continue
        value, files[path] = files[path], first
        if not same_value(first, value):
            free = free_name(path, value, {**stored.files, **files})
            files[free] = value
            said.append(kept_beside(entity.id, path, first, free, value))
    return merge(stored, replace(entity, files=files)), said


def free_name(path: str, value: bytes, files: Mapping[str, bytes]) -> str:
    """Return where a param's second value goes: where it is already, or nothing is yet."""
    names = (f"{path[:_LONGEST]}.{number}" for number in count(2))
    return next(name for name in names if same_value(files.get(name, value), value))


def kept_beside(entity_id: EntityId, path: str, first: bytes, other: str, value: bytes) -> str:
    """Say that a param has a second value, and where it is."""
    return (
        f"{_what(path)} of {entity_id} is {quoted(first.decode(errors='replace'))} already; "
        f"{quoted(value.decode(errors='replace'))}, logged later, is kept as {_name(other)!r}."
    )


def renamed(entity_id: EntityId, path: str) -> str:
    """Say that a metric, param or tag is called otherwise, as there is a folder of its name."""
    return (
        f"{_what(path)} of {entity_id} is {_name(path + BESIDE)!r} from now on: there is "
        f"{_name(path)}/… too, and a name cannot be both a file and a folder."
    )


def make_room(entity: Entity, folders: Set[str]) -> Entity:
    """Return the entity with each file renamed that lies where a folder is to be."""
    # Of what was deleted, too: the deletion is one of the file under its new name.
    paths = entity.files.keys() | entity.notes.deleted.keys()
    for path in sorted(paths & folders):
        if _NAMED.match(path):
            new = path + BESIDE
            while new in folders:
                new += BESIDE
            entity = _moved(entity, path, new)
    return entity


def _moved(entity: Entity, path: str, new: str) -> Entity:
    files, notes = dict(entity.files), entity.notes.copy()
    role, data, there = role_of(entity.id.kind, path), files.pop(path, None), files.get(new)
    if role is Role.WRITTEN:
        at, _, data = max(_latest(entity, path), _latest(entity, new))
        for each in (path, new):
            for stamps in (notes.written, notes.deleted):
                stamps.pop(each, None)
        (notes.deleted if data is None else notes.written)[new] = at
        files.pop(new, None)
    elif data is not None and there is not None:
        if role is Role.POINTS:
            data = _merge_points(data, there)
        elif same_value(data, there):
            data = _one_notation(data, there)
        else:
            new = free_name(new, data, files)
    if data is not None:
        files[new] = data
    return replace(entity, files=files, notes=notes)


def same_value(a: bytes, b: bytes) -> bool:
    """Tell whether two texts are one value: equal, or one number or truth value in two notations.

    What is `1e-4` on a command line is `0.0001` once Python has read it, `true` is `True`.
    """
    return a == b or _value(a) == _value(b)


def _one_notation(a: bytes, b: bytes) -> bytes:
    """Choose one of two notations of a value, as every machine chooses."""
    return min(a, b, key=lambda text: (len(text), text))


def _value(text: bytes) -> object:
    if len(text) > _LONGEST_NUMBER:
        return text
    word = text.strip().lower()
    try:
        number = Decimal(word.decode())
    except (InvalidOperation, UnicodeDecodeError):
        return _WORDS.get(word, text)
    return number if number.is_finite() else str(number)


def _what(path: str) -> str:
    return f"The {path[: path.index('/')].removesuffix('s')} {_name(path)!r}"


def _name(path: str) -> str:
    return path.partition("/")[2]


def _merge_points(a: bytes, b: bytes) -> bytes:
    # By time, then step: the order in which one writer would have appended them.
    return b"".join(line + b"\n" for line in sorted({*_lines(a), *_lines(b)}, key=_point_order))


def _lines(data: bytes) -> list[bytes]:
    return [line for line in data.split(b"\n") if line]


def _point_order(line: bytes) -> tuple[int, int, bytes]:
    parts = line.split()
    try:
        return int(parts[0]), int(parts[2]) if len(parts) > 2 else 0, line
    except (ValueError, IndexError):
        return 0, 0, line  # not a point; kept, and whoever reads it says so


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
        both = _register(a, name, fields), _register(b, name, fields)
        notes.registers[name], _, values_of = max(both, key=lambda register: register[:2])
        merged.update(values_of)
    # Two spellings of one content become MLflow's own, whichever side is asked first.
    return a.files[META] if a.files[META] == b.files[META] else dump_yaml(merged)


def _register(entity: Entity, name: str, fields: tuple[str, ...]) -> tuple[Stamp, str, Any]:
    """Return when a register was set, and its fields: as text to compare, and as they are."""
    of = {field: entity.meta[field] for field in fields if field in entity.meta}
    stamp = entity.notes.registers.get(name, Stamp())
    if name == "status":
        rank = status_rank(entity.id.kind, entity.meta.get("status"))
        stamp = Stamp(stamp.round, rank, stamp.at)
    return stamp, _as_text(of), of


def _as_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _as_number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
