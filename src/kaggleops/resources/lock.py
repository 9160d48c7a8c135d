"""The lock: which files a resource came to, so that they are the same everywhere from then on.

`resources.lock` lies beside the manifest and is committed with it. It is JSON with a line for each
file, so that a difference shows what has changed.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kaggleops.bucket.base import is_key, made
from kaggleops.bucket.checksums import is_kind, kind_of
from kaggleops.errors import UsageError
from kaggleops.redaction import redacted
from kaggleops.resources.files import File
from kaggleops.resources.manifest import MANIFEST, Manifest, Resource, read_manifest

LOCK = "resources.lock"

_READ = re.compile(r"""\bresources\(\s*["']([\w.-]+)["']""")


@dataclass(frozen=True)
class Locked:
    """What a resource came to."""

    asked: Mapping[str, Any]  # what the manifest's entry asked for then (`Resource.asked`)
    origin: str  # the run that was the best; "" where the manifest's source says it all
    files: tuple[File, ...]

    @cached_property
    def version(self) -> str:
        """Twelve digits that change with any byte of any file."""
        content = sorted((file.name, file.size, file.checksum) for file in self.files)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(file.size for file in self.files)


def is_locked(resource: Resource, locked: Mapping[str, Locked]) -> bool:
    """Tell whether a resource is locked, and the manifest still asks for what it asked for then."""
    return resource.name in locked and locked[resource.name].asked == resource.asked


def read_lock(manifest: Manifest) -> dict[str, Locked]:
    """Return what each resource came to; nothing where there is no lock yet.

    Raises UsageError if it cannot be read: somebody merged or edited it.
    """
    path = manifest.path.with_name(LOCK)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: _locked(fields) for name, fields in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        hint = "Take it from git, or delete it and run `kaggleops data lock`."
        raise UsageError(f"reading {path}", f"it is not a lock file ({error})", hint) from error


def refuse_unlocked(folder: Path, given: Collection[str], doing: str) -> None:
    """Refuse to run a commit that reads a resource which no machine could read: it is not locked.

    Raises UsageError if a script in the commit's folder reads such a resource by its name, or one
    of the `given` values names it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return
    manifest = read_manifest(path)
    locked = read_lock(manifest)
    unlocked = {each.name for each in manifest.resources.values() if not is_locked(each, locked)}
    if not unlocked:
        return
    texts = (script.read_text(errors="replace") for script in folder.rglob("*.py"))
    read = {name for text in texts for name in _READ.findall(text)}
    if names := sorted(unlocked & {*read, *given}):
        problem = f"it reads {', '.join(names)}, and its {LOCK} does not say which files that means"
        hint = f"kaggleops data lock {' '.join(names)}, and commit {MANIFEST.with_name(LOCK)}."
        raise UsageError(doing, problem, hint)


def write_lock(manifest: Manifest, locked: Mapping[str, Locked]) -> None:
    """Write what each of the manifest's resources came to; others are left out."""
    path = manifest.path.with_name(LOCK)
    known = [name for name in sorted(manifest.resources) if name in locked]
    entries = ",\n".join(f"{json.dumps(name)}: {_written(locked[name])}" for name in known)
    with made(path) as new:
        new.write(f"{{\n{entries}\n}}\n".encode())


def _written(locked: Locked) -> str:
    files = ",\n".join(
        f"    {json.dumps(file.name)}: "
        + json.dumps({"size": file.size, "version": file.version, "checksum": file.checksum})
        for file in sorted(locked.files)
    )
    fields = [
        f'  "asked": {json.dumps(locked.asked, sort_keys=True)}',
        *([f'  "origin": {json.dumps(locked.origin)}'] if locked.origin else []),
        f'  "files": {{\n{files}\n  }}',
    ]
    return "{\n" + ",\n".join(fields) + "\n}"


def _locked(fields: Mapping[str, Any]) -> Locked:
    files = tuple(_file(name, each) for name, each in fields["files"].items())
    asked = dict(fields["asked"])
    if "source" in asked:  # of an older lock, as it is
        asked["source"] = redacted(asked["source"])
    return Locked(asked, str(fields.get("origin", "")), files)


def _file(name: str, fields: Mapping[str, Any]) -> File:
    """Return a file of the lock, which may be somebody else's: its name becomes a path."""
    file = File(name, int(fields["size"]), str(fields["version"]), str(fields["checksum"]))
    if not is_key(name):
        raise ValueError(f"{name!r} does not name a file below a destination")
    if file.size < 0 or not is_kind(kind_of(file.checksum)):
        raise ValueError(f"{name} has no size, or no checksum of a known kind")
    return file
