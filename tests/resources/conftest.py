"""A project with a manifest, and somebody who fills buckets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaggleops.bucket import Bucket
from kaggleops.bucket.base import ABSENT
from kaggleops.resources import local
from kaggleops.resources.manifest import MANIFEST, Manifest, find_manifest


class Project:
    """A folder with a manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / MANIFEST).parent.mkdir(parents=True)

    def declare(self, **entries: Mapping[str, Any]) -> Manifest:
        """Write the manifest, and return it."""
        content = {name.replace("_", "-"): dict(fields) for name, fields in entries.items()}
        (self.folder / MANIFEST).write_text(yaml.safe_dump(content, sort_keys=False))
        return find_manifest(self.folder)

    @property
    def lock(self) -> Path:
        return (self.folder / MANIFEST).with_name("resources.lock")

    def files(self, folder: str = "data") -> dict[str, bytes]:
        """Return all that lies there, hidden files included."""
        top = self.folder / folder
        return {
            path.relative_to(top).as_posix(): path.read_bytes()
            for path in top.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path / "project")
    monkeypatch.chdir(made.folder)
    monkeypatch.setattr(local, "_outside", {})  # of what other tests read
    return made


def fill(bucket: Bucket, **files: bytes) -> None:
    """Write objects, whatever is there; `exp1__a_csv` is exp1/a.csv."""
    for name, data in files.items():
        key = name.replace("__", "/").replace("_", ".")
        there = bucket.stat(key)
        bucket.write(key, data, expected=there.version if there else ABSENT)
