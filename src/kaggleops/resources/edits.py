"""Ways into the manifest, and out of it: add entries, take a list over, push a folder, remove one.

The manifest is people's: its comments, order and blank lines stay byte for byte, since only the
lines of one entry are added or removed.

The list is that of the 2022 article: there, a Python file held a list of dictionaries with the keys
bucket, blob, subblob, files, destination, skip_if_exist (printed there as skil_if_exist) and
description. The file is read, never run.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from kaggleops.bucket import ABSENT, Bucket, ConflictError, open_bucket
from kaggleops.bucket.base import check_key
from kaggleops.bucket.location import CLOUD_STORAGE
from kaggleops.errors import UsageError
from kaggleops.redaction import redacted
from kaggleops.resources.addresses import VARIABLE
from kaggleops.resources.files import FOLDER
from kaggleops.resources.lock import Locked, read_lock, write_lock
from kaggleops.resources.manifest import (
    FIELDS,
    MANIFEST,
    Manifest,
    entry_lines,
    find_manifest,
    parse_manifest,
    read_manifest,
    read_text,
)
from kaggleops.resources.origins import Progress
from kaggleops.resources.sync import lock
from kaggleops.resources.transfer import WORKERS, all_of
from kaggleops.secret_scan import in_data, refuse

_TEXTS = ("bucket", "blob", "subblob", "destination", "description")
_KEYS = ("bucket", "blob", "subblob", "files", "destination", "skip_if_exist", "description")
_AS_PRINTED = {"skil_if_exist": "skip_if_exist"}

Entries = dict[str, dict[str, Any]]
"""The fields of each entry, by its name."""

_HEAD = """\
# Every file from outside that this project reads: where it comes from, and where it goes.
# `kaggleops data fetch` brings them; resources.lock says what they are.
"""


def manifest_here(directory: Path) -> Path:
    """Return where the manifest is, or would be: beside the nearest config folder or `.git`."""
    try:
        return find_manifest(directory).path
    except UsageError:
        around = (directory.absolute(), *directory.absolute().parents)
    marks = (MANIFEST.parts[0], ".git")
    project = next((each for each in around if any((each / m).exists() for m in marks)), around[0])
    return project / MANIFEST


def add_entries(path: Path, entries: Mapping[str, Mapping[str, Any]]) -> Manifest:
    """Add entries to a manifest, which is made if there is none, and return it.

    Args:
        path: the manifest.
        entries: what each says (`FIELDS`), by its name; what is empty is left out.

    Raises:
        UsageError: the manifest or an entry is not right; nothing has been written.
    """
    text, manifest = with_entries(path, entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, text)
    return manifest


def with_entries(path: Path, entries: Mapping[str, Mapping[str, Any]]) -> tuple[str, Manifest]:
    """Return what `add_entries` would write, and the manifest that this is.

    Raises:
        UsageError: the manifest or an entry is not right.
    """
    text = read_text(path) if path.exists() else _HEAD
    end = "\r\n" if "\r\n" in text else "\n"
    for name, fields in entries.items():
        said = {field: fields[field] for field in FIELDS if fields.get(field)}
        for field, value in said.items():
            _refuse_secret(field, str(value), f"declaring {name} in {path}")
        entry = yaml.safe_dump({name: said}, sort_keys=False, allow_unicode=True, width=1000)
        if text.strip():
            text += "" if text.endswith("\n") else end
            text += "" if text.endswith(2 * end) else end
        text += entry.replace("\n", end)
    return text, parse_manifest(text, path)


def _refuse_secret(field: str, value: str, doing: str) -> None:
    plain = VARIABLE.sub("", re.sub(r"://[^/?#@]*\$\{\w+\}@", "://", value))
    if redacted(plain) != plain:
        problem = f"{field}: {value} holds a secret, and the manifest is committed"
        hint = "Write ${NAME} in its place and set that variable, or use ~/.netrc or --token NAME."
        raise UsageError(doing, problem, hint)


def remove_entry(path: Path, name: str) -> Manifest:
    """Take an entry out of a manifest and its lock, with the comment above it; return what is left.

    Its files stay where they are.

    Raises:
        UsageError: there is no such entry.
    """
    manifest = read_manifest(path)
    locked = read_lock(manifest)
    _ = manifest[name]
    lines = read_text(path).splitlines(keepends=True)
    begin = entry_lines("".join(lines), f"reading {path}")[name] - 1
    end = begin + 1
    body = end
    while end < len(lines) and (lines[end][0] in " \t#-}]\r\n"):
        end += 1
        # A comment at the margin, or a blank line, is no more of it unless something follows.
        body = end if lines[end - 1].strip() and lines[end - 1][0] in " \t-}]" else body
    while body < len(lines) and not lines[body].strip():
        body += 1
    del lines[_comment_above(lines, begin) : body]
    manifest = parse_manifest("".join(lines), path)  # before: what is left must be a manifest
    _write(path, "".join(lines))
    write_lock(manifest, locked)
    return manifest


def _comment_above(lines: list[str], begin: int) -> int:
    """Return where the comment right above a line begins; one at the file's head is the file's."""
    first = begin
    while first > 0 and lines[first - 1].startswith("#"):
        first -= 1
    return first if first > 0 else begin


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(text.encode())  # as text, its line endings would be this machine's
    temporary.replace(path)


def read_list(file: Path) -> Entries:
    """Return what a Python file in the article's form declares.

    Raises:
        UsageError: it cannot be read, or holds no such list.
    """
    doing = f"importing {file}"
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    # Python gives up on brackets that are nested too deep in more than one way.
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(doing, str(error) or "it is nested too deep") from error
    entries: Entries = {}
    for line, item in _items(tree, doing):
        name, fields = _entry(item, f"{doing}, line {line}")
        number = 2
        unique = name
        while unique in entries:
            unique = f"{name}-{number}"
            number += 1
        entries[unique] = fields
    if not entries:
        hint = "Write [{'bucket': …, 'blob': …, 'files': […], 'destination': …}, …]."
        raise UsageError(doing, "it holds no list of dictionaries with a 'bucket'", hint)
    return entries


def _items(tree: ast.AST, doing: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield every dictionary that has a bucket, with its line, in the file's order."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Dict):
            continue
        keys = {key.value for key in node.keys if isinstance(key, ast.Constant)}
        if "bucket" not in keys:
            continue
        try:
            yield node.lineno, ast.literal_eval(node)
        except (ValueError, TypeError) as error:  # TypeError: a list as a key
            problem = "a value there is computed, and the file is not run"
            raise UsageError(f"{doing}, line {node.lineno}", problem, "Write it out.") from error


def _entry(item: Mapping[str, Any], doing: str) -> tuple[str, dict[str, Any]]:
    item = {_AS_PRINTED.get(key, key): value for key, value in item.items()}
    if unknown := [key for key in item if key not in _KEYS]:
        hint = f"There are: {', '.join(_KEYS)}."
        raise UsageError(doing, f"{unknown[0]!r} is unknown", hint)
    said = {key: "" if item.get(key) is None else item[key] for key in _KEYS}
    for key in _TEXTS:
        if not isinstance(said[key], str):
            raise UsageError(doing, f"{key!r} is text, not {said[key]!r}", "Put it in quotes.")
    if not isinstance(said["skip_if_exist"] or False, bool):
        problem = f"'skip_if_exist' is True or False, not {said['skip_if_exist']!r}"
        raise UsageError(doing, problem, "Write it without quotes.")
    bucket = said["bucket"].removeprefix(CLOUD_STORAGE)
    parts = [said[key].strip("/") for key in ("blob", "subblob")]
    place = "/".join([bucket.strip("/"), *filter(None, parts)])
    fields = {
        "source": CLOUD_STORAGE + place,
        "files": _files(said["files"] or [], doing),
        "destination": said["destination"].rstrip("/"),
        "skip_if_exist": said["skip_if_exist"] or False,
        "description": said["description"],
    }
    name = re.sub(r"[^\w.-]+", "-", PurePosixPath(place).name).strip("-._")
    return name or "resource", fields


def _files(said: Any, doing: str) -> list[str]:
    files = [said] if isinstance(said, str) else said
    if not isinstance(files, list | tuple) or not all(isinstance(each, str) for each in files):
        raise UsageError(doing, f"'files' is a list of names, not {said!r}", "Write ['a', 'b'].")
    return list(files)


def inside_project(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry whose destination lies in the project: data/NAME, where its own does not."""
    folder = PurePosixPath(str(fields["destination"]))
    outside = folder.is_absolute() or ".." in folder.parts or str(folder).startswith("~")
    return {**fields, "destination": f"data/{name}"} if outside else dict(fields)


def push(
    path: Path,
    folder: Path,
    uri: str,
    name: str,
    description: str = "",
    begin: Callable[[int], object] = lambda size: None,
    progress: Progress = lambda size: None,
    *,
    allow_secrets: bool = False,
) -> Locked:
    """Upload a folder's files, declare them in the manifest, and lock them.

    What is there already with the same content is left alone.

    Args:
        path: the manifest.
        folder: what to upload. Where it lies in the project, it is the destination, too.
        uri: where to, `gs://BUCKET/PREFIX`.
        name: what to call it.
        description: for people.
        begin: is called once, with the bytes that go.
        progress: is called with the bytes that have gone.
        allow_secrets: whether not to look for secrets in the files.

    Raises:
        UsageError: there is nothing to upload, there is a secret in it, the manifest has that name
            already, or what it would say is not right.
        ConflictError: something else is at that place.
    """
    doing = f"pushing {folder}"
    files = sorted(
        each for each in folder.rglob("*") if each.is_file() and FOLDER not in each.parts
    )
    if not files:
        raise UsageError(doing, "it holds no files" if folder.is_dir() else "there is no folder")
    if path.exists() and name in read_manifest(path).resources:
        raise UsageError(doing, f"{path} declares {name} already", "Choose another --name.")
    keys = {file: file.relative_to(folder).as_posix() for file in files}
    for key in keys.values():
        check_key(key, doing)
    bucket = open_bucket(uri)
    project = path.parents[len(MANIFEST.parts) - 1].resolve()
    inside = folder.resolve().is_relative_to(project) and folder.resolve() != project
    destination = folder.resolve().relative_to(project).as_posix() if inside else ""
    fields = {"source": bucket.uri, "destination": destination, "description": description}
    with_entries(path, {name: fields})  # before anything goes: what is not right is not declared
    if not allow_secrets:
        found = [each for file, key in keys.items() for each in in_data(key, file)]
        refuse(found, doing, "or their files out of the folder")
    bucket.prepare()
    _refuse_others(bucket, set(keys.values()), doing)
    begin(sum(file.stat().st_size for file in files))

    def upload(file: Path) -> None:
        try:
            bucket.write(keys[file], file, expected=ABSENT)
        except ConflictError as error:
            hint = "Push it to another place: what others have locked there must stay."
            raise ConflictError(error.doing, "another file is there already", hint) from error
        progress(file.stat().st_size)

    with ThreadPoolExecutor(WORKERS, thread_name_prefix="push") as pool:
        all_of(pool.submit(partial(upload, file)) for file in files)
    return lock(add_entries(path, {name: fields}), [name])[name]


def _refuse_others(bucket: Bucket, keys: Set[str], doing: str) -> None:
    """Refuse a place that holds anything else: the entry would mean that, too.

    Raises:
        ConflictError: it does.
    """
    other = next((entry.key for entry in bucket.list() if entry.key not in keys), None)
    if other is not None:
        problem = f"{bucket.uri} holds other files, such as {other}"
        raise ConflictError(doing, problem, f"Push it to a place of its own: {bucket.uri}/….")
