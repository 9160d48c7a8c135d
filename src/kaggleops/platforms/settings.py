"""What belongs to one machine: `config/local.yaml`, which git ignores."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kaggleops.bucket.location import bucket_uri
from kaggleops.errors import UsageError

LOCAL = Path("config/local.yaml")


def default_bucket(directory: Path) -> str | None:
    """Return the bucket that is meant where none is named.

    `MLFLOW_TRACKING_URI` if set, else `bucket:` in the `config/local.yaml` of the folder or of
    one above it, with an `endpoint:` or Amazon's `region:` beside it.
    """
    if tracked_in := os.environ.get("MLFLOW_TRACKING_URI"):
        return tracked_in
    names = ("bucket", "endpoint", "region")
    found, endpoint, region = (local_setting(directory, name) for name in names)
    if found and (endpoint or region):
        return bucket_uri(found, endpoint=endpoint, region=region)
    return found


def local_setting(directory: Path, name: str) -> str | None:
    """Return a setting from the `config/local.yaml` of a folder or of one above it.

    Raises UsageError if the file is not readable YAML, or no mapping.
    """
    for folder in (directory.absolute(), *directory.absolute().parents):
        if (folder / LOCAL).is_file():
            found = _read(folder / LOCAL).get(name)
            return str(found) if found else None
    return None


def check_settings(directory: Path) -> None:
    """Raise UsageError where the folder's own `config/local.yaml` is not readable YAML."""
    _read(directory / LOCAL)


def _read(file: Path) -> Mapping[str, Any]:
    doing = f"reading {file}"
    if not file.is_file():
        return {}
    try:
        found = yaml.safe_load(file.read_text())
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UsageError(doing, f"{line}{error.problem}", _HINT) from error
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise UsageError(doing, str(error), _HINT) from error
    if not isinstance(found, dict | None):
        raise UsageError(doing, "it has no lines `name: value`", _HINT)
    return found or {}


_HINT = "Mend it, or delete it: `kaggleops init` writes a new one."


def keep_settings(directory: Path, settings: Mapping[str, str]) -> None:
    """Set these in the folder's own `config/local.yaml`; what else stands there stays.

    Raises UsageError if it is not readable YAML, or not written line by line.
    """
    file = directory / LOCAL
    before = _read(file)
    head = "# What belongs to this machine; git ignores it."
    lines = file.read_text().splitlines() if file.is_file() else [head]
    for name, value in settings.items():
        line = yaml.safe_dump({name: value}, width=1_000_000).rstrip()
        at = next((n for n, each in enumerate(lines) if each.startswith(f"{name}:")), len(lines))
        lines[at : at + 1] = [line]
    text = "\n".join(lines) + "\n"
    try:
        right = yaml.safe_load(text) == {**before, **settings}
    except yaml.YAMLError:
        right = False
    if not right:
        hint = "Write these there: " + ", ".join(f"{name}: {settings[name]}" for name in settings)
        raise UsageError(f"writing {file}", "it is not written as lines `name: value`", hint)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
