"""What belongs to one machine: `config/local.yaml`, which git ignores."""

import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from kaggleops.errors import UsageError

LOCAL = Path("config/local.yaml")


def default_bucket(directory: Path) -> str | None:
    """Return the bucket that is meant where none is named.

    `MLFLOW_TRACKING_URI` if set, else `bucket:` in the `config/local.yaml` of the folder or of
    one above it.

    Raises:
        UsageError: the file is not readable YAML.
    """
    return os.environ.get("MLFLOW_TRACKING_URI") or local_setting(directory, "bucket")


def local_setting(directory: Path, name: str) -> str | None:
    """Return a setting from the `config/local.yaml` of a folder or of one above it.

    Raises:
        UsageError: the file is not readable YAML.
    """
    for folder in (directory.absolute(), *directory.absolute().parents):
        file = folder / LOCAL
        if file.is_file():
            try:
                settings = yaml.safe_load(file.read_text())
            except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
                raise UsageError(f"reading {file}", str(error)) from error
            if isinstance(settings, dict) and settings.get(name):
                return str(settings[name])
            return None
    return None


def keep_settings(directory: Path, settings: Mapping[str, str]) -> None:
    """Set these in the folder's own `config/local.yaml`; what else stands there stays.

    Args:
        directory: a repository's top folder.
        settings: values by name.
    """
    file = directory / LOCAL
    head = "# What belongs to this machine; git ignores it."
    lines = file.read_text().splitlines() if file.is_file() else [head]
    for name, value in settings.items():
        line = yaml.safe_dump({name: value}, width=1_000_000).rstrip()
        at = next((n for n, each in enumerate(lines) if each.startswith(f"{name}:")), len(lines))
        lines[at : at + 1] = [line]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")
