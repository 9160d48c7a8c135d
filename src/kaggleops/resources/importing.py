"""The 2022 article's list of resources, as entries of the manifest.

There, a Python file held a list of dictionaries with the keys bucket, blob, subblob, files,
destination, skip_if_exist (printed there as skil_if_exist) and description. The file is read,
never run.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from kaggleops.errors import UsageError

_TEXTS = ("bucket", "blob", "subblob", "destination", "description")
_KEYS = ("bucket", "blob", "subblob", "files", "destination", "skip_if_exist", "description")
_AS_PRINTED = {"skil_if_exist": "skip_if_exist"}

Entries = dict[str, dict[str, Any]]
"""The fields of each entry, by its name."""


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
    bucket = said["bucket"].removeprefix("gs://")
    parts = [said[key].strip("/") for key in ("blob", "subblob")]
    place = "/".join([bucket.strip("/"), *filter(None, parts)])
    fields = {
        "source": f"gs://{place}",
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
