"""Where an import reads files: a folder on this machine, or a prefix of a bucket on Cloud Storage.

Only plain files are seen: a link could lead anywhere, and what lies behind it would be copied into
a bucket that others may read.
"""

import io
import os
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kaggleops.bucket import ABSENT, Entry, ObjectNotFoundError
from kaggleops.bucket.base import crc32c
from kaggleops.bucket.location import is_remote, name_and_prefix
from kaggleops.errors import KaggleOpsError, UsageError

_AT_ONCE = 16
_MANY = 100  # files for which gcsfs is worth the second that importing it takes


@dataclass(frozen=True)
class File:
    """A file as a listing shows it.

    Args:
        path: within its place, "/"-separated.
        size: in bytes.
        modified_ms: when it was last written, in milliseconds since the epoch.
    """

    path: str
    size: int
    modified_ms: int


class LocalPlace:
    """A folder on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.uri = str(folder)
        self.links: list[str] = []
        """The links that were skipped: they lead out of the folder, or to another folder."""

    def files(self) -> Iterator[File]:
        """Walk the folder; a link counts where it leads to another file in it.

        Raises:
            KaggleOpsError: it cannot be read, or is a link itself.
        """
        if self._folder.is_symlink():
            hint = "Put the files themselves there."
            raise KaggleOpsError(f"reading {self.uri}", "it is a symbolic link", hint)
        try:
            yield from self._below("")
        except OSError as error:
            raise KaggleOpsError(f"reading {self.uri}", str(error)) from error

    def _below(self, path: str) -> Iterator[File]:
        here = self._folder / path
        if not here.is_dir():
            return
        with os.scandir(here) as entries:
            for entry in entries:
                below = f"{path}/{entry.name}" if path else entry.name
                if entry.is_dir(follow_symlinks=False):
                    yield from self._below(below)
                elif entry.is_file(follow_symlinks=False) or self._is_inside(Path(entry.path)):
                    found = entry.stat()
                    yield File(below, found.st_size, found.st_mtime_ns // 1_000_000)
                elif entry.is_symlink():
                    self.links.append(entry.path)

    def _is_inside(self, link: Path) -> bool:
        return link.is_file() and link.resolve().is_relative_to(self._folder.resolve())

    @contextmanager
    def on_disk(self, path: str) -> Iterator[Path]:
        """Yield the file itself."""
        yield self._folder / path


class BucketPlace:
    """A prefix in a bucket on Cloud Storage: what comes is compared with what was listed."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        name, prefix = name_and_prefix(self.uri)
        self._root = f"{prefix}/" if prefix else ""
        # Here: whoever has only folders needs nothing of Google's.
        from kaggleops.bucket.gcs import GcsBucket, entry_of

        self._entry_of = entry_of
        self._bucket = GcsBucket(name)
        self._listed: dict[str, Entry] = {}

    def files(self) -> Iterator[File]:
        """List the prefix: one request for every thousand files."""
        for name, blob in self._bucket.every(self._root, f"listing {self.uri}"):
            path = name.removeprefix(self._root)
            if path and not path.endswith("/"):  # a console's placeholder for a folder
                entry = self._listed[path] = self._entry_of(name, blob)
                yield File(path, entry.size, entry.updated_ms)

    def read(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Return the contents of (small) files, by path; those that are gone are left out."""
        found: dict[str, bytes] = {}
        wanted = list(paths)

        def take(entry: Entry, content: bytes) -> None:
            if crc32c(io.BytesIO(content)) == entry.crc32c:
                found[entry.key.removeprefix(self._root)] = content

        # By gcsfs, all at once; then one by one what did not come right.
        if len(wanted) >= _MANY:
            self._bucket.read_many([self._entry(path) for path in wanted], take)
        left = [path for path in wanted if path not in found]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found.update(each for each in pool.map(self._read, left) if each)
        return found

    def _read(self, path: str) -> tuple[str, bytes] | None:
        with suppress(ObjectNotFoundError):
            stored = self._bucket.read(self._root + path)
            return (path, stored.data) if stored else None
        return None

    @contextmanager
    def on_disk(self, path: str) -> Iterator[Path]:
        """Yield a temporary file with the content of one, however large.

        Raises:
            BucketError: it cannot be read.
        """
        with self._bucket.on_disk(self._entry(path)) as file:
            yield file

    def _entry(self, path: str) -> Entry:
        return self._listed.get(path) or Entry(self._root + path, ABSENT, 0)


Place = LocalPlace | BucketPlace


def bucket_place(uri: str) -> BucketPlace:
    """Return the place at an address in a bucket.

    Raises:
        UsageError: it is in a kind of bucket that an import does not read.
    """
    if is_remote(uri):
        return BucketPlace(uri)
    hint = "Copy it into a folder (aws s3 sync, rclone copy), and import that."
    raise UsageError(f"reading {uri[:200]}", "an import reads folders and gs:// addresses", hint)


def local_path(uri: str) -> Path | None:
    """Return the path on this machine that a path or a `file:` URI names; None for any other."""
    scheme, separator, _ = uri.partition("://")
    if separator and scheme.lower() != "file":
        return None
    if uri[:5].lower() == "file:":
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(uri).path))
    return Path(uri).expanduser()
