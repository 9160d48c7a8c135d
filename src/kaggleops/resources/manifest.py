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
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import yaml

from kaggleops.bucket.base import is_key
from kaggleops.bucket.location import SCHEMES, bucket_uri
from kaggleops.errors import UsageError, first_line
from kaggleops.redaction import redacted

MANIFEST = Path("config/data/resources.yaml")
"""Where it lies below the project's folder."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}")
_OF_THE_BEST = ("experiment", "commit", "metric", "lower_is_better")

KNOWN = (
    "Use gs://BUCKET/PREFIX, s3://BUCKET[@HOST]/PREFIX, kaggle://competitions/NAME, "
    "kaggle://datasets/USER/NAME, kaggle://models/USER/MODEL/FRAMEWORK/VARIATION/VERSION, "
    "runs:/RUN_ID/PATH, runs:/best/PATH or https://… with a checksum."
)

VARIABLE = re.compile(r"\$\{(\w+)\}")
"""An environment variable in the address of a file on the web."""

KaggleKind = Literal["competitions", "datasets", "models"]

_PART = r"[\w.-]+"
_KAGGLE = {
    "competitions": re.compile(_PART),
    "datasets": re.compile(rf"{_PART}/{_PART}(/versions/\d+)?"),
    "models": re.compile(rf"{_PART}/{_PART}/{_PART}/{_PART}/\d+"),
}
_PAGE = re.compile(r"https?://(?:www\.)?kaggle\.com/(?:c/|(competitions|datasets|models)/)(.+)")


@dataclass(frozen=True)
class InBucket:
    """Objects of a bucket: `gs://BUCKET/PREFIX`, `s3://…`, or a folder, `bucket+file:///…`."""

    uri: str


@dataclass(frozen=True)
class OnKaggle:
    """A competition (`titanic`), dataset (`owner/name`) or model (`owner/…/1`) on Kaggle."""

    kind: KaggleKind
    ref: str  # what Kaggle calls it
    version: int = 0  # of a dataset; 0 for the newest

    @property
    def page(self) -> str:
        """Its page on Kaggle."""
        return f"https://www.kaggle.com/{self.kind}/{self.ref}"


@dataclass(frozen=True)
class OfRun:
    """Artifacts of a run: `runs:/RUN_ID/PATH`, or of the best one: `runs:/best/PATH`."""

    run: str
    path: str

    BEST = "best"


@dataclass(frozen=True)
class OnTheWeb:
    """One file at an address of its own."""

    url: str

    @property
    def name(self) -> str:
        """What the file is called."""
        return PurePosixPath(urlsplit(self.url).path).name


Address = InBucket | OnKaggle | OfRun | OnTheWeb


def parse_address(text: str, doing: str) -> Address:
    """Return what the manifest's `source` means; UsageError if that cannot be fetched."""
    text = text.strip()
    if page := _PAGE.match(text):
        meant = f"kaggle://{page[1] or 'competitions'}/{page[2].rstrip('/')}"
        raise UsageError(doing, f"{text} is a page, not a file", f"Did you mean {meant}?")
    scheme, _, rest = text.partition(":")
    first, _, path = rest.strip("/").partition("/")
    match scheme.lower():
        case known if known in SCHEMES:
            try:
                return InBucket(bucket_uri(text))
            except UsageError as error:
                raise UsageError(doing, f"{text}: {error.problem}", error.hint) from error
        case "kaggle":
            if first in _KAGGLE and _KAGGLE[first].fullmatch(path):
                ref, _, version = path.partition("/versions/")
                return OnKaggle(cast("KaggleKind", first), ref, int(version or 0))
            raise UsageError(doing, f"{text!r} is not an address on Kaggle", KNOWN)
        case "runs":
            if first and ".." not in rest.split("/"):
                return OfRun(first, path)
            raise UsageError(doing, f"{text!r} is not the address of a run's artifacts", KNOWN)
        case "http" | "https":
            try:
                if urlsplit(text).hostname and is_key(OnTheWeb(text).name):
                    return OnTheWeb(text)
            except ValueError:  # a bracket that nothing closes
                pass
            raise UsageError(doing, f"{text} does not name a file", KNOWN)
    raise UsageError(doing, f"{text!r} is not a source", KNOWN)


@dataclass(frozen=True)
class Resource:
    """One entry."""

    name: str  # what code reads it by
    source: str  # where its files come from, as the manifest has it
    address: Address  # the same, understood
    files: tuple[str, ...] = ()  # names or globs (*, ?, **) below the source; none for all
    destination: str = ""  # the folder below the project that its files go to
    description: str = ""  # for people
    skip_if_exist: bool = False  # whether a file that is there is right, whatever it holds
    checksum: str = ""  # of a file on the web
    token: str = ""  # the environment variable with what is sent there as `Bearer`
    experiment: str = ""  # among whose runs `runs:/best` is looked for
    commit: str = ""  # of which commit only
    metric: str = ""  # by which metric it is the best
    lower_is_better: bool = False

    @property
    def asked(self) -> dict[str, Any]:
        """What decides which files it means: where that has changed, a lock no longer holds."""
        # The lock is committed, and another password asks for the same file.
        said: dict[str, Any] = {"source": redacted(self.source), "files": list(self.files)}
        said |= {name: getattr(self, name) for name in ("checksum", *_OF_THE_BEST)}
        return {name: value for name, value in said.items() if value}


_TYPES: Mapping[str, type] = {
    each.name: each.type if isinstance(each.type, type) and each.type in (bool, str) else list
    for each in fields(Resource)
    if each.name not in ("name", "address")
}
FIELDS = tuple(_TYPES)
"""What an entry may say, in the order in which it is written."""


@dataclass(frozen=True)
class Manifest:
    """All entries."""

    path: Path
    resources: Mapping[str, Resource]  # by name, in the file's order

    @property
    def project(self) -> Path:
        """The project's folder."""
        return self.path.parents[len(MANIFEST.parts) - 1]

    def named(self, names: Iterable[str]) -> list[Resource]:
        """Return the entries of these names, or all of them; UsageError if there is no such."""
        return [self[name] for name in dict.fromkeys(names)] or list(self.resources.values())

    def __getitem__(self, name: str) -> Resource:
        if name not in self.resources:
            close = difflib.get_close_matches(name, self.resources, n=3)
            there = ", ".join(close or self.resources) or "none yet"
            hint = f"Did you mean {there}?" if close else f"It declares: {there}."
            raise UsageError(f"reading {self.path}", f"no resource named {name!r}", hint)
        return self.resources[name]


def find_manifest(directory: Path) -> Manifest:
    """Return the manifest of the project around a folder; UsageError if there is no right one."""
    for folder in (directory.absolute(), *directory.absolute().parents):
        if (folder / MANIFEST).is_file():
            return read_manifest(folder / MANIFEST)
    raise UsageError(
        f"looking for {MANIFEST}",
        f"neither {directory.absolute()} nor a folder above it has one",
        "Make it: `kaggleops data add NAME SOURCE`.",
    )


def read_manifest(path: Path) -> Manifest:
    """Return a manifest; UsageError, with the line, if it cannot be read or understood."""
    return parse_manifest(read_text(path), path)


def read_text(path: Path) -> str:
    """Return a manifest's text with its own line endings; UsageError if it cannot be read."""
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"reading {path}", str(error)) from error


def parse_manifest(text: str, path: Path) -> Manifest:
    """Return what a manifest's text says; UsageError, with the line, if that is not understood."""
    doing = f"reading {path}"
    try:
        top = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        raise UsageError(f"{doing}, line {number}", first_line(error), "Take it out.") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", "") or first_line(error)
        raise UsageError(doing, f"{line}{problem}", "Check its indentation.") from error
    if top is not None and not isinstance(top, yaml.MappingNode):
        hint = "Write NAME:, and its fields below"
        raise UsageError(doing, "it is not a mapping of names to entries", hint)
    resources: dict[str, Resource] = {}
    lines: dict[str, int] = {}
    for key, value in top.value if top else ():
        line = key.start_mark.line + 1
        there = f"{doing}, line {line}"
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            raise UsageError(there, "an entry's name is text", "Write NAME:")
        name = _value_of(key, there)
        if not isinstance(name, str):  # 2020, or yes
            problem = f"{name!r} is of the type {type(name).__name__}, not a name"
            raise UsageError(there, problem, "Put it in quotes.")
        if name in resources:
            problem = f"lines {lines[name]} and {line} both declare {name}"
            raise UsageError(doing, problem, "Give one of them another name.")
        lines[name] = line
        resources[name] = _resource(name, _value_of(value, there), there)
    _refuse_shared_destinations(resources.values(), doing)
    return Manifest(path, resources)


def _value_of(node: yaml.Node, doing: str) -> Any:
    try:
        return yaml.SafeLoader("").construct_document(node)
    # With what its conversions raise: of a date in a thirteenth month, of `!!bool maybe`.
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        problem = f"a value there is not what it looks like ({first_line(error)})"
        raise UsageError(doing, problem, "Put it in quotes.") from error


def _resource(name: str, fields: Any, doing: str) -> Resource:
    if not _NAME.fullmatch(name):
        raise UsageError(doing, f"{name!r} is not a name", "Use letters, digits, dots and dashes.")
    if not isinstance(fields, dict) or "source" not in fields:
        raise UsageError(doing, f"{name} has no source", "Add `source: gs://BUCKET/PREFIX`.")
    _check_fields(name, fields, doing)
    files = fields.get("files") or ()
    for each in files:
        if not isinstance(each, str | int | float) or not is_key(str(each)):
            raise UsageError(doing, f"{name}: {each!r} does not name a file below its source")
    understood = {
        "name": name,
        "source": fields["source"].strip(),
        "address": parse_address(fields["source"], doing),
        "files": tuple(map(str, files)),
        "destination": _destination(name, fields.get("destination") or f"data/{name}", doing),
    }
    return _checked(Resource(**{**fields, **understood}), doing)


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
    name = resource.name
    if isinstance(resource.address, OnTheWeb):
        if not resource.checksum:
            problem = f"{name} has no checksum, so its file could not be verified"
            raise UsageError(doing, problem, "Add `checksum: sha256:…` (`sha256sum FILE`).")
        resource = replace(resource, checksum=resource.checksum.strip().lower())
        if not _CHECKSUM.fullmatch(resource.checksum):
            hint = "Write sha256:… or md5:… with the digits that `sha256sum FILE` prints."
            raise UsageError(doing, f"{resource.checksum!r} is not a checksum", hint)
    elif resource.token:
        raise UsageError(doing, f"{name}: `token` is for an https:// source", "Leave it out.")
    best = isinstance(resource.address, OfRun) and resource.address.run == OfRun.BEST
    if best and not (resource.experiment and resource.metric):
        problem = f"{name} does not say which run is the best"
        raise UsageError(doing, problem, "Add `experiment:` and `metric:` (and `commit:`).")
    return resource


def _destination(name: str, text: str, doing: str) -> str:
    """Return the folder below the project."""
    folder, hint = os.path.normpath(text), f"Write a folder in it, such as data/{name}."
    if folder[0] == "~" or not is_key(folder) or folder.split("/")[0] == ".git":
        problem = f"{name}: its destination {text!r} is not a folder for data in the project"
        raise UsageError(doing, problem, hint)
    return folder


def _refuse_shared_destinations(resources: Iterable[Resource], doing: str) -> None:
    """Refuse resources of which one could overwrite another's files."""
    # In this order, what lies in a folder follows right behind it.
    ordered = sorted(resources, key=lambda each: each.destination.split("/"))
    for outer, inner in pairwise(ordered):
        if f"{inner.destination}/".startswith(f"{outer.destination}/"):
            problem = f"{inner.name}'s destination {inner.destination} is, or is in, {outer.name}'s"
            hint = "Give each a folder of its own, with `destination` or `data add --destination`."
            raise UsageError(doing, problem, hint)
