"""A folder of this machine as a source: a `bucket+file` bucket, where artifacts lie as files."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kaggleops.bucket.keys import is_key
from kaggleops.resources.files import File, checksum_of
from kaggleops.resources.origins import GoneError, Origin, Progress, chosen


class FolderOrigin(Origin):
    """The files below `bucket+file:///FOLDER` or `file:///FOLDER`."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._folder = Path(unquote(urlsplit(uri).path))

    def list(self, patterns: Sequence[str]) -> list[File]:
        """Read every file: nothing else tells its checksum."""
        found = (path for path in self._folder.rglob("*") if path.is_file())
        names = filter(is_key, (path.relative_to(self._folder).as_posix() for path in found))
        wanted = chosen(map(File, names), patterns, f"listing {self._uri}")
        return [self._described(file.name) for file in wanted]

    def _described(self, name: str) -> File:
        path = self._folder / name
        return File(name, path.stat().st_size, "", checksum_of(path))

    def read(self, file: File, into: Path, progress: Progress) -> None:
        """Copy it."""
        source = self._folder / file.name
        if not source.is_file():
            raise GoneError(f"fetching {source}", "it is gone at the source")
        shutil.copyfile(source, into)
        progress(file.size)
