"""The manifest: every file that a project reads and does not hold itself, declared once.

`config/data/resources.yaml` maps names to where files come from and where they go. What came is
written down beside it, in `resources.lock` (lock.py). What is wrong with an entry is said with its
line.
"""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from kaggleops.bucket.base import is_key
from kaggleops.errors import UsageError
from kaggleops.redaction import redacted
from kaggleops.resources.addresses import Address, OfRun, OnTheWeb, parse_address
from kaggleops.resources.files import check_checksum

MANIFEST = Path("config/data/resources.yaml")
"""Where it lies below the project's folder."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_OF_THE_BEST = ("experiment", "commit", "metric", "lower_is_better")


@dataclass(frozen=True)
class Resource:
    """One entry.

    Args:
        name: what code reads it by.
        source: where its files come from, as the manifest has it.
        address: the same, understood.
        files: names or globs (`*`, `?`, `**`) below the source; none for all.
        destination: the folder below the project that its files go to.
        description: for people.
        skip_if_exist: whether a file that is there counts as right, whatever it holds.
        checksum: of a file on the web.
        token: the environment variable with what it is asked for with, as `Bearer`.
        experiment: among whose runs `runs:/best` is looked for.
        commit: of which commit only, or "".
        metric: by which metric it is the best.
        lower_is_better: whether less of that is better.
    """

    name: str
    source: str
    address: Address
    files: tuple[str, ...] = ()
    destination: str = ""
    description: str = ""
    skip_if_exist: bool = False
    checksum: str = ""
    token: str = ""
    experiment: str = ""
    commit: str = ""
    metric: str = ""
    lower_is_better: bool = False

    @property
    def asked(self) -> dict[str, Any]:
        """What decides which files it means: where that has changed, a lock no longer holds."""
        # The lock is committed, and another password asks for the same file.
        fields: dict[str, Any] = {"source": redacted(self.source), "files": list(self.files)}
        fields["checksum"] = self.checksum
        fields |= {name: getattr(self, name) for name in _OF_THE_BEST}
        return {name: value for name, value in fields.items() if value}


_TYPES: Mapping[str, type] = {
    each.name: bool if each.type is bool else str if each.type is str else list
    for each in fields(Resource)
    if each.name not in ("name", "address")
}
FIELDS = tuple(_TYPES)
"""What an entry may say, in the order in which it is written."""


@dataclass(frozen=True)
class Manifest:
    """All entries.

    Args:
        path: the file.
        resources: by name, in the file's order.
    """

    path: Path
    resources: Mapping[str, Resource]

    @property
    def project(self) -> Path:
        """The project's folder."""
        return self.path.parents[len(MANIFEST.parts) - 1]

    def named(self, names: Iterable[str]) -> list[Resource]:
        """Return the entries of these names, or all if there are none.

        Raises:
            UsageError: there is no such entry.
        """
        return [self[name] for name in dict.fromkeys(names)] or list(self.resources.values())

    def __getitem__(self, name: str) -> Resource:
        if name not in self.resources:
            close = difflib.get_close_matches(name, self.resources, n=3)
            there = ", ".join(close or self.resources) or "none yet"
            hint = f"Did you mean {there}?" if close else f"It declares: {there}."
            raise UsageError(f"reading {self.path}", f"no resource named {name!r}", hint)
        return self.resources[name]


def find_manifest(directory: Path) -> Manifest:
    """Return the manifest of the project around a folder.

    Raises:
        UsageError: there is none, or it cannot be understood.
    """
    for folder in (directory.absolute(), *directory.absolute().parents):
        if (folder / MANIFEST).is_file():
            return read_manifest(folder / MANIFEST)
    raise UsageError(
        f"looking for {MANIFEST}",
        f"neither {directory.absolute()} nor a folder above it has one",
        "Make it: `kaggleops data add NAME SOURCE`.",
    )


def read_manifest(path: Path) -> Manifest:
    """Return a manifest.

    Raises:
        UsageError: it cannot be read or understood; the message names the line.
    """
    return parse_manifest(read_text(path), path)


def read_text(path: Path) -> str:
    """Return a manifest's text with its own line endings.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"reading {path}", str(error)) from error


def parse_manifest(text: str, path: Path) -> Manifest:
    """Return what a manifest's text says.

    Raises:
        UsageError: it cannot be understood; the message names the line.
    """
    doing = f"reading {path}"
    resources = {}
    for line, key, node in _entries_of(text, doing):
        there = f"{doing}, line {line}"
        name = _value_of(key, there)
        if not isinstance(name, str):  # 2020, or yes
            problem = f"{name!r} is of the type {type(name).__name__}, not a name"
            raise UsageError(there, problem, "Put it in quotes.")
        resources[name] = _resource(name, _value_of(node, there), there)
    _refuse_shared_destinations(resources.values(), doing)
    return Manifest(path, resources)


def _resource(name: str, fields: Any, doing: str) -> Resource:
    if not _NAME.fullmatch(name):
        raise UsageError(doing, f"{name!r} is not a name", "Use letters, digits, dots and dashes.")
    if not isinstance(fields, dict) or "source" not in fields:
        raise UsageError(doing, f"{name} has no source", "Add `source: gs://BUCKET/PREFIX`.")
    _check_fields(name, fields, doing)
    files = tuple(map(str, fields.get("files") or ()))
    for each, said in zip(files, fields.get("files") or (), strict=True):
        if not isinstance(said, str | int | float) or not is_key(each):
            raise UsageError(doing, f"{name}: {each!r} does not name a file below its source")
    made = Resource(
        **{
            **fields,
            "name": name,
            "source": fields["source"].strip(),
            "address": parse_address(fields["source"], doing),
            "files": files,
            "destination": _destination(name, fields.get("destination") or f"data/{name}", doing),
        }
    )
    return _checked(made, doing)


def _check_fields(name: str, fields: Mapping[Any, Any], doing: str) -> None:
    for field, value in fields.items():
        kind = _TYPES.get(str(field))
        if kind is None:
            close = difflib.get_close_matches(str(field), _TYPES, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(_TYPES)}."
            raise UsageError(doing, f"{name}: {field!r} is unknown", hint)
        if not isinstance(value, kind):
            wanted = {list: "a list", bool: "true or false"}.get(kind, "text")
            hint = "Put it in quotes." if kind is str and not isinstance(value, list) else ""
            raise UsageError(doing, f"{name}: {field} is {wanted}, not {value!r}", hint)


def _checked(resource: Resource, doing: str) -> Resource:
    """Return it where what it says goes together."""
    if isinstance(resource.address, OnTheWeb):
        if not resource.checksum:
            problem = f"{resource.name} has no checksum, so its file could not be verified"
            raise UsageError(doing, problem, "Add `checksum: sha256:…` (`sha256sum FILE`).")
        resource = replace(resource, checksum=check_checksum(resource.checksum, doing))
    elif resource.token:
        problem = f"{resource.name}: `token` is for an https:// source"
        raise UsageError(doing, problem, "Leave it out.")
    best = isinstance(resource.address, OfRun) and resource.address.run == OfRun.BEST
    if best and not (resource.experiment and resource.metric):
        problem = f"{resource.name} does not say which run is the best"
        raise UsageError(doing, problem, "Add `experiment:` and `metric:` (and `commit:`).")
    return resource


def _destination(name: str, text: str, doing: str) -> str:
    """Return the folder below the project."""
    folder = os.path.normpath(text)
    if folder[0] in "/~" or folder == ".." or folder.startswith("../"):
        problem = f"{name}: its destination {text} lies outside the project"
        raise UsageError(doing, problem, f"Write a folder in it, such as data/{name}.")
    if not is_key(folder) or folder.split("/")[0] == ".git":
        problem = f"{name}: its destination {text!r} is not for data"
        raise UsageError(doing, problem, f"Write a folder such as data/{name}.")
    return folder


def _refuse_shared_destinations(resources: Iterable[Resource], doing: str) -> None:
    """Refuse resources that could overwrite each other's files.

    Raises:
        UsageError: two have the same destination, or one's lies in the other's.
    """
    # In this order, what lies in a folder follows right behind it.
    ordered = sorted(resources, key=lambda each: each.destination.split("/"))
    for outer, inner in pairwise(ordered):
        if outer.destination == inner.destination:
            problem = (
                f"{outer.name} and {inner.name} have the same destination, {inner.destination}"
            )
            raise UsageError(doing, problem, "Give each a folder of its own.")
        if inner.destination.startswith(f"{outer.destination}/"):
            problem = f"{inner.name}'s destination {inner.destination} lies in {outer.name}'s"
            raise UsageError(doing, problem, "Give each a folder of its own.")


# -- the YAML, entry by entry ---------------------------------------------------------------------


def _entries_of(text: str, doing: str) -> list[tuple[int, yaml.ScalarNode, yaml.Node]]:
    """Return each entry's line, from 1, its name and what it says.

    Raises:
        UsageError: it is no YAML, no mapping, or has a name twice, which YAML would pass over.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise _no_yaml(doing, error) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"line {line}: {chr(error.character)!r} is not allowed in YAML"
        raise UsageError(doing, problem, "Take it out.") from error
    except RecursionError as error:
        raise UsageError(doing, "its brackets are nested too deep") from error
    if node is None:
        return []
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(
            doing, "it is not a mapping of names to entries", "Write NAME:, and its fields below"
        )
    entries: dict[str, tuple[int, yaml.ScalarNode, yaml.Node]] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            raise UsageError(doing, f"line {line}: an entry's name is text", "Write NAME:")
        if key.value in entries:
            problem = f"lines {entries[key.value][0]} and {line} both declare {key.value}"
            raise UsageError(doing, problem, "Give one of them another name.")
        entries[key.value] = line, key, value
    return list(entries.values())


def _value_of(node: yaml.Node, doing: str) -> Any:
    """Return what a part of the manifest says.

    Raises:
        UsageError: nothing that YAML knows.
    """
    try:
        return yaml.SafeLoader("").construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise _no_yaml(doing, error) from error
    # What its conversions raise: of a date in a thirteenth month, of `!!bool maybe`.
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        problem = f"a value there is not what it looks like ({error})"
        raise UsageError(doing, problem, "Put it in quotes.") from error


def _no_yaml(doing: str, error: yaml.MarkedYAMLError) -> UsageError:
    line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
    return UsageError(doing, f"{line}{error.problem}", "Check its indentation.")
