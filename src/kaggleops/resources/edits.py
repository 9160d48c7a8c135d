"""Ways into the manifest: add an entry, push a folder.

The manifest is people's: its comments, order and blank lines stay byte for byte, since the lines of
an entry are only added.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from kaggleops.bucket import ABSENT, ConflictError, open_bucket
from kaggleops.bucket.base import check_key, made
from kaggleops.errors import UsageError
from kaggleops.redaction import redacted
from kaggleops.resources.files import FOLDER
from kaggleops.resources.lock import Locked
from kaggleops.resources.manifest import (
    FIELDS,
    MANIFEST,
    VARIABLE,
    Manifest,
    find_manifest,
    parse_manifest,
    read_manifest,
    read_text,
)
from kaggleops.resources.origins import Progress
from kaggleops.resources.sync import lock
from kaggleops.resources.transfer import of_each
from kaggleops.secret_scan import in_data, refuse

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


def add_entry(path: Path, name: str, fields: Mapping[str, Any]) -> Manifest:
    """Add an entry to a manifest, which is made if there is none, and return it.

    It says what is not empty of `fields` (`FIELDS`). Raises UsageError if the manifest or the entry
    is not right; nothing has been written then.
    """
    text, manifest = _with_entry(path, name, fields)
    path.parent.mkdir(parents=True, exist_ok=True)
    with made(path) as new:
        new.write(text.encode())  # as text, its line endings would be this machine's
    return manifest


def _with_entry(path: Path, name: str, fields: Mapping[str, Any]) -> tuple[str, Manifest]:
    """Return what `add_entry` would write, and the manifest that this is."""
    text = read_text(path) if path.exists() else _HEAD
    end = "\r\n" if "\r\n" in text else "\n"
    said = {field: fields[field] for field in FIELDS if fields.get(field)}
    if name in parse_manifest(text, path).resources:
        hint = "Delete the lines of that one, or take another name."
        raise UsageError(f"declaring {name} in {path}", "there is one already", hint)
    for field, value in said.items():
        plain = VARIABLE.sub("", re.sub(r"://[^/?#@]*\$\{\w+\}@", "://", str(value)))
        if redacted(plain) != plain:
            problem = f"{field}: {value} holds a secret, and the manifest is committed"
            hint = "Write ${NAME} in its place and set that variable, or use ~/.netrc or --token."
            raise UsageError(f"declaring {name} in {path}", problem, hint)
    entry = yaml.safe_dump({name: said}, sort_keys=False, allow_unicode=True, width=1000)
    if text.strip():
        text += "" if text.endswith("\n") else end
        text += "" if text.endswith(2 * end) else end
    text += entry.replace("\n", end)
    return text, parse_manifest(text, path)


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
    """Upload a folder's files, declare them in the manifest at `path`, and lock them.

    Where the folder lies in the project, it is the destination, too; `uri` is an address in a
    bucket. What is there already with the same content is left alone. `begin` is called once, with
    the bytes that go, `progress` with those that have gone.

    Raises UsageError if there is nothing to upload, there is a secret in it (unless they are
    allowed), the manifest has that name already, or what it would say is not right; ConflictError
    if something else is at that place.
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
    names = set(keys.values())
    for key in names:
        check_key(key, doing)
    bucket = open_bucket(uri)
    project = path.parents[len(MANIFEST.parts) - 1].resolve()
    inside = folder.resolve().is_relative_to(project) and folder.resolve() != project
    destination = folder.resolve().relative_to(project).as_posix() if inside else ""
    fields = {"source": bucket.uri, "destination": destination, "description": description}
    _with_entry(path, name, fields)  # before anything goes: what is not right is not declared
    if not allow_secrets:
        found = [each for file, key in keys.items() for each in in_data(key, file)]
        refuse(found, doing, "or their files out of the folder")
    bucket.prepare()
    others = (entry.key for entry in bucket.list() if entry.key not in names)
    if other := next(others, None):  # the entry would mean that, too
        problem = f"{bucket.uri} holds other files, such as {other}"
        raise ConflictError(doing, problem, f"Push it to a place of its own: {bucket.uri}/….")
    begin(sum(file.stat().st_size for file in files))

    def upload(file: Path) -> None:
        try:
            bucket.write(keys[file], file, expected=ABSENT)
        except ConflictError as error:
            hint = "Push it to another place: what others have locked there must stay."
            raise ConflictError(error.doing, "another file is there already", hint) from error
        progress(file.stat().st_size)

    of_each(upload, files)
    return lock(add_entry(path, name, fields), [name])[name]
