"""Add entries to the manifest and take them out, and leave all else in it as it was.

The file is people's: its comments, order and blank lines stay byte for byte, since only the lines
of one entry are added or removed.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kaggleops.errors import UsageError
from kaggleops.redaction import redacted
from kaggleops.resources.addresses import VARIABLE
from kaggleops.resources.entries import entry_lines
from kaggleops.resources.lock import read_lock, write_lock
from kaggleops.resources.manifest import (
    FIELDS,
    MANIFEST,
    Manifest,
    find_manifest,
    parse_manifest,
    read_manifest,
    read_text,
)

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
        _refuse_secret(str(fields.get("source", "")), f"declaring {name} in {path}")
        said = {field: fields[field] for field in FIELDS if fields.get(field)}
        entry = yaml.safe_dump({name: said}, sort_keys=False, allow_unicode=True, width=1000)
        if text.strip():
            text += "" if text.endswith("\n") else end
            text += "" if text.endswith(2 * end) else end
        text += entry.replace("\n", end)
    return text, parse_manifest(text, path)


def _refuse_secret(source: str, doing: str) -> None:
    plain = VARIABLE.sub("", re.sub(r"://[^/?#@]*\$\{\w+\}@", "://", source))
    if redacted(plain) != plain:
        problem = f"the address {source} holds a secret, and the manifest is committed"
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
