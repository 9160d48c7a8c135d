"""One MLflow entity in memory: the files of its file-store folder, and the notes beside them.

The files are the file store's own, byte for byte. What that folder has no place for, and a merge
cannot do without (when each tag was written, what was deleted, which round a status belongs to,
when the runner was last heard), lies in the notes.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import cached_property
from typing import Any

import yaml

from kaggleops.errors import KaggleOpsError
from kaggleops.layout import ARTIFACTS, EntityId, Kind

META = "meta.yaml"
NOTES = ".kaggleops.json"
"""The notes' file, in an archive and in a working folder; unpacking for others leaves it out."""

NOTES_FORMAT = 1


class BrokenEntityError(KaggleOpsError):
    """An entity's archive or folder that cannot be what it says it is."""


class Role(Enum):
    """How two versions of a file merge."""

    META = auto()
    """Field by field."""
    POINTS = auto()
    """Metric points, one a line: the union."""
    PARAM = auto()
    """Never changes: another value is an error."""
    FIXED = auto()
    """Written once by MLflow, the same wherever it is written."""
    WRITTEN = auto()
    """The newest write or deletion wins."""


_ROLES: Mapping[Kind, Mapping[str, Role]] = {
    Kind.EXPERIMENT: {META: Role.META},
    Kind.RUN: {
        META: Role.META,
        "metrics": Role.POINTS,
        "params": Role.PARAM,
        "inputs": Role.FIXED,
        "outputs": Role.FIXED,
    },
    Kind.LOGGED_MODEL: {META: Role.META, "metrics": Role.POINTS},
    Kind.DATASET: {META: Role.FIXED},
}

FOLDERS: Mapping[Kind, frozenset[str]] = {
    Kind.RUN: frozenset({"metrics", "params", ARTIFACTS}),
    Kind.LOGGED_MODEL: frozenset({"metrics", "params"}),
}
"""The folders without which MLflow refuses an entity; a bucket of loose files would lose them."""


def role_of(kind: Kind, path: str) -> Role:
    """Return how the file at `path` within an entity of this kind merges."""
    return _ROLES.get(kind, {}).get(path.split("/", 1)[0], Role.WRITTEN)


@dataclass(frozen=True, order=True)
class Stamp:
    """When a register was last set. Later rounds win, then higher ranks, then later times."""

    round: int = 0  # how often a finished run was deliberately resumed
    rank: int = 0  # for a status: 0 scheduled, 1 running, 2 ended; else 0
    at: int = 0  # milliseconds since the epoch


@dataclass
class Notes:
    """What MLflow's folder has no place for. Times are in milliseconds since the epoch."""

    # when each file whose newest write wins was written
    written: dict[str, int] = field(default_factory=dict)
    deleted: dict[str, int] = field(default_factory=dict)  # when each such file was deleted
    # when each group of `meta.yaml`'s fields was set (see `merging.REGISTERS`)
    registers: dict[str, Stamp] = field(default_factory=dict)
    heartbeat: int = 0  # when the process that runs it last said so, by its own clock
    # within how many seconds after that it said it would be heard again; 0: it never said
    promise: int = 0

    def copy(self) -> "Notes":
        """Return an independent copy."""
        written, deleted, registers = dict(self.written), dict(self.deleted), dict(self.registers)
        return replace(self, written=written, deleted=deleted, registers=registers)

    def to_json(self) -> dict[str, Any]:
        """Return the notes as plain data, the same for equal notes."""
        return {
            "format": NOTES_FORMAT,
            "written": dict(sorted(self.written.items())),
            "deleted": dict(sorted(self.deleted.items())),
            "registers": {
                name: [stamp.round, stamp.rank, stamp.at]
                for name, stamp in sorted(self.registers.items())
            },
            "heartbeat": [self.heartbeat, self.promise],
        }

    def to_bytes(self) -> bytes:
        """Return the notes as they stand in an archive."""
        return json.dumps(self.to_json(), ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: Any, doing: str) -> "Notes":
        """Read notes back; BrokenEntityError where they are none, or of a newer format."""
        try:
            if data["format"] > NOTES_FORMAT:
                problem = f"it was written by a newer version (notes of format {data['format']})"
                raise BrokenEntityError(doing, problem, "Update kaggleops on this machine.")
            return cls(
                written={str(path): int(at) for path, at in data["written"].items()},
                deleted={str(path): int(at) for path, at in data["deleted"].items()},
                registers={
                    str(name): Stamp(*(int(part) for part in stamp))
                    for name, stamp in data["registers"].items()
                },
                heartbeat=int(data["heartbeat"][0]),
                promise=int(data["heartbeat"][1]),
            )
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BrokenEntityError(doing, f"its {NOTES} is not readable ({error})") from error


@dataclass(frozen=True)
class Entity:
    """One entity's whole content. Treat as immutable."""

    id: EntityId  # which
    files: Mapping[str, bytes]  # content by path within the entity's folder, "/"-separated
    # its folders, the empty ones included; those that hold files are added
    folders: frozenset[str] = frozenset()
    notes: Notes = field(default_factory=Notes)  # what lies beside them

    def __post_init__(self) -> None:
        parents = set()
        for path in (*self.files, *self.folders):
            end = path.find("/")
            while end >= 0:
                parents.add(path[:end])
                end = path.find("/", end + 1)
        object.__setattr__(self, "folders", self.folders | parents)

    @cached_property
    def meta(self) -> dict[str, Any]:
        """`meta.yaml`, read; raises `BrokenEntityError` where it is missing or no mapping."""
        if META not in self.files:
            raise BrokenEntityError(f"reading {self.id}", f"it has no {META}")
        return parse_yaml(self.files[META], f"reading {META} of {self.id}")


_MAX_YAML_DEPTH = 32
_MAX_YAML_BYTES = 32 << 20  # MLflow lets a dataset's profile have 16 MB
_MAX_YAML_EVENTS = 100_000
_SHORT = 10_000  # characters
_FLAT_YAML = re.compile(r"(?:\w{1,99}+: (?:\[\]|\{\}|(?:[\w./']|-\d)[^\n]*+)\n)*+", re.ASCII)
"""A field a line, each with a text or a number: there is no place in it for anything strange."""
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def parse_yaml(data: bytes, doing: str) -> dict[str, Any]:
    """Read a mapping of plain values, never building objects, or raise `BrokenEntityError`."""
    try:
        text = data.decode()
        _refuse_strange_yaml(text, doing)
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise BrokenEntityError(doing, f"it is not plain YAML ({error})") from error
    if not isinstance(value, dict):
        raise BrokenEntityError(doing, "it is not a mapping")
    if not _is_plain(value):
        raise BrokenEntityError(doing, "it has keys that are no text, or numbers beyond 64 bits")
    return value


def _refuse_strange_yaml(text: str, doing: str) -> None:
    # MLflow writes none of this. Tags build objects; nesting deep enough crashes libyaml's loader,
    # and the whole process with it; aliases of aliases become gigabytes when they are written out.
    if len(text) < _SHORT and _FLAT_YAML.fullmatch(text):
        return
    if len(text) > _MAX_YAML_BYTES:
        raise BrokenEntityError(doing, f"it is larger than {_MAX_YAML_BYTES >> 20} MiB")
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if number > _MAX_YAML_EVENTS:
            raise BrokenEntityError(doing, f"it holds more than {_MAX_YAML_EVENTS} things")
        if isinstance(event, yaml.AliasEvent):
            raise BrokenEntityError(doing, "it has aliases")
        if tag := getattr(event, "tag", None):
            raise BrokenEntityError(doing, f"it has the tag {tag[:80]!r}")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_YAML_DEPTH:
            raise BrokenEntityError(doing, f"it is nested deeper than {_MAX_YAML_DEPTH} levels")


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def dump_yaml(value: Mapping[str, Any]) -> bytes:
    """Write a mapping as MLflow writes it (mlflow.utils.yaml_utils.write_yaml)."""
    text: str = yaml.dump(
        dict(value), default_flow_style=False, allow_unicode=True, sort_keys=True, Dumper=_Dumper
    )
    return text.encode()
