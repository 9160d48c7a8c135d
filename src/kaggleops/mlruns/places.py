"""Where files lie that go in or out of a bucket: a folder here, or any address that fsspec opens.

Only plain files are seen: a link could lead anywhere, and what lies behind it would be copied into
a bucket that others may read.
"""

import io
import os
import shutil
import tempfile
import urllib.parse
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kaggleops.bucket import ABSENT, BucketError, Entry, ObjectNotFoundError
from kaggleops.bucket.base import crc32c
from kaggleops.bucket.location import is_remote, name_and_prefix
from kaggleops.errors import KaggleOpsError

_AT_ONCE = 16
_MANY = 100  # files for which gcsfs is worth the second that importing it takes


class PlaceError(KaggleOpsError):
    """A place that cannot be read."""


@dataclass(frozen=True)
class File:
    """A file as a listing shows it.

    Args:
        path: within its place, "/"-separated.
        size: in bytes.
        modified_ms: when it was last written, in milliseconds since the epoch; 0 where unknown.
    """

    path: str
    size: int
    modified_ms: int


class Place(ABC):
    """Files below one address."""

    uri: str

    @abstractmethod
    def files(self) -> Iterator[File]:
        """Yield every plain file, in no particular order; none where nothing is there.

        Raises:
            PlaceError: it cannot be read.
        """

    @abstractmethod
    def read(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Return the contents of (small) files, by path; those that are gone are left out."""

    @abstractmethod
    @contextmanager
    def on_disk(self, path: str) -> Iterator[Path]:
        """Yield a file on this disk with a file's content, however large; it is not to be changed.

        Raises:
            PlaceError: it cannot be read.
        """


def place_at(uri: str) -> Place:
    """Return the place at a path, a `file:` URI or whatever else fsspec opens.

    Raises:
        PlaceError: nothing on this machine can open it.
    """
    if (folder := local_path(uri)) is not None:
        return LocalPlace(folder)
    return BucketPlace(uri) if is_remote(uri.lower()) else RemotePlace(uri)


def local_path(uri: str) -> Path | None:
    """Return the path on this machine that a path or a `file:` URI names; None for any other."""
    scheme, separator, _ = uri.partition("://")
    if separator and scheme.lower() != "file":
        return None
    if uri[:5].lower() == "file:":
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(uri).path))
    return Path(uri).expanduser()


class LocalPlace(Place):
    """A folder on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.uri = str(folder)
        self.links: list[str] = []
        """The links that were passed over: they lead out of the folder, or to another folder."""

    def files(self) -> Iterator[File]:
        """Walk the folder; a link counts where it leads to another file in it.

        Raises:
            PlaceError: it cannot be read, or is a link itself.
        """
        if self._folder.is_symlink():
            hint = "Put the files themselves there."
            raise PlaceError(f"reading {self.uri}", "it is a symbolic link", hint)
        try:
            yield from self._below("")
        except OSError as error:
            raise PlaceError(f"reading {self.uri}", str(error)) from error

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

    def read(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Read them one after the other."""
        try:
            return {path: (self._folder / path).read_bytes() for path in paths}
        except OSError as error:
            raise PlaceError(f"reading {self.uri}", str(error)) from error

    @contextmanager
    def on_disk(self, path: str) -> Iterator[Path]:
        """Yield the file itself."""
        yield self._folder / path


class BucketPlace(Place):
    """A prefix in a bucket on Cloud Storage: what comes is compared with what was listed."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._name, prefix = name_and_prefix(self.uri)
        self._root = f"{prefix}/" if prefix else ""
        # Here: whoever has only folders needs nothing of Google's.
        from kaggleops.bucket.gcs import GcsBucket, entry_of

        self._entry_of = entry_of
        self._bucket = GcsBucket(self._name)
        self._listed: dict[str, Entry] = {}

    def files(self) -> Iterator[File]:
        """List the prefix: one request for every thousand files."""
        with self._explained():
            for name, blob in self._bucket.every(self._root, f"listing {self.uri}"):
                path = name.removeprefix(self._root)
                if path and not path.endswith("/"):  # a console's placeholder for a folder
                    entry = self._listed[path] = self._entry_of(name, blob)
                    yield File(path, entry.size, entry.updated_ms)

    def read(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Read them at once: by gcsfs, and what did not come right one by one."""
        found: dict[str, bytes] = {}
        wanted = list(paths)

        def take(entry: Entry, content: bytes) -> None:
            if crc32c(io.BytesIO(content)) == entry.crc32c:
                found[entry.key.removeprefix(self._root)] = content

        with self._explained():
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
        """Fetch the file into a temporary folder."""
        with ExitStack() as stack:
            with self._explained():
                file = stack.enter_context(self._bucket.on_disk(self._entry(path)))
            yield file

    def _entry(self, path: str) -> Entry:
        return self._listed.get(path) or Entry(self._root + path, ABSENT, 0)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except BucketError as error:
            raise PlaceError(error.doing, error.problem, error.hint) from error


class RemotePlace(Place):
    """A prefix behind another of fsspec's file systems, such as `s3://bucket/mlruns`."""

    def __init__(self, uri: str) -> None:
        import fsspec  # only whoever reads remote files needs it, and what it brings

        self.uri = uri.rstrip("/")
        with self._explained(f"opening {uri}"):
            self._fs, root = fsspec.url_to_fs(self.uri, use_listings_cache=False)
            self._root = root.rstrip("/")

    def files(self) -> Iterator[File]:
        """List the prefix."""
        with self._explained(f"listing {self.uri}"):
            try:
                found: dict[str, dict[str, Any]] = self._fs.find(self._root, detail=True)
            except FileNotFoundError:
                found = {}
        for name, info in found.items():
            path = name.removeprefix(self._root).lstrip("/")
            # A console's placeholder for a folder is no file.
            if path and not path.endswith("/") and info.get("type") == "file":
                yield File(path, int(info.get("size") or 0), _modified(info))

    def read(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Read them at once, as many at a time as the file system allows."""
        wanted = {f"{self._root}/{path}": path for path in paths}
        with self._explained(f"reading {self.uri}"):
            found = self._fs.cat(list(wanted), on_error="return") if wanted else {}
            for content in found.values():
                if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                    raise content
        return {
            wanted[name]: content for name, content in found.items() if isinstance(content, bytes)
        }

    @contextmanager
    def on_disk(self, path: str) -> Iterator[Path]:
        """Fetch the file into a temporary folder."""
        folder = Path(tempfile.mkdtemp(prefix="kaggleops-"))
        try:
            with self._explained(f"reading {self.uri}/{path}"):
                self._fs.get_file(f"{self._root}/{path}", str(folder / "file"))
            yield folder / "file"
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except KaggleOpsError:
            raise
        except Exception as error:
            # Each of fsspec's file systems has errors of its own.
            raise PlaceError(doing, f"{type(error).__name__}: {error}") from error


def _modified(info: dict[str, Any]) -> int:
    for name in ("mtime", "updated", "LastModified", "last_modified", "created"):
        value = info.get(name)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return int(value.timestamp() * 1000)
        if isinstance(value, int | float):
            return int(value * 1000)
    return 0
