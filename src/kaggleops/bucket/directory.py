"""A bucket in a folder: each object is a plain file at its key, as MLflow writes its artifacts.

How it keeps the promises of base.py between threads, processes and processes that are killed:

- A write first goes to a file of its own in the hidden folder, complete and on the disk. Then,
  under the key's lock, the version is compared and the file renamed into place. Whoever is killed
  before the rename has changed nothing, and the kernel drops the locks of the dead.
- Reads and lists take no lock, so they work on a read-only disk: an open file stays what it was.
  (Unless it is overwritten in place, as MLflow does with artifacts that are logged twice.)
- A version is made of the file's time, number and size. The number differs from that of the file
  it replaces and the time is later than its time, so no version comes twice.
- What a power cut leaves is a whole object, the last or the one before.
- The hidden folder says that a folder is a bucket. Where one was and none is, a disk is not
  mounted: the bucket is away, and none is made anew in its place.

Links may lead elsewhere within the bucket's folder, and the folder itself may be one. What a link
would have lie outside of it is no object: whoever can write here gets nothing else of this machine.

The locks are flock's: they reach every process on this machine, and other machines only where the
file system carries them there (NFS does; a synchronised folder such as Google Drive does not).
"""

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import BinaryIO

from kaggleops.bucket.base import (
    ABSENT,
    AT_MOST,
    HIDDEN_FOLDER,
    AccessDeniedError,
    Bucket,
    BucketError,
    BucketNotFoundError,
    BucketUnavailableError,
    Entry,
    LeftOut,
    Listing,
    ObjectNotFoundError,
    ObjectTooLargeError,
    StoredObject,
    Version,
    check_key,
    conflict,
    made,
    opened,
)
from kaggleops.bucket.checksums import checksum_of, kind_of
from kaggleops.bucket.workroom import Workroom
from kaggleops.layout import MLRUNS

_NOT_BOTH = "A folder cannot hold both an object and others below its key."

_seen: set[Path] = set()
"""Folders that are known to be buckets."""


class DirectoryBucket(Bucket):
    """The bucket in the folder `root`, which the first write makes if need be."""

    def __init__(self, root: Path, *, patience: float = 120.0) -> None:
        self._root = root
        self._workroom = Workroom(root / HIDDEN_FOLDER, patience)
        self.artifact_uri = root.as_uri()
        self.uri = f"bucket+{self.artifact_uri}"

    def prepare(self) -> None:
        """Make the folder, and those above it, unless it is known to be one."""
        doing = f"making the bucket {self.uri}"
        with self._explained(doing):
            if self._root not in _seen:
                self._make(doing)

    def expect(self) -> None:
        """Note that it is one, and take it for away where it is not there."""
        _seen.add(self._root)

    def _make(self, doing: str) -> None:
        if not self._root.exists():
            self._root.mkdir(parents=True, exist_ok=True)
        try:
            (self._root / HIDDEN_FOLDER).mkdir(exist_ok=True)
        except OSError:  # a full or a read-only disk: one that is a bucket can still be read
            self._require_root(doing)
            if self._root not in _seen:
                raise
        self._require_root(doing)

    def read(
        self, key: str, *, unless: Version | None = None, at_most: int = AT_MOST
    ) -> StoredObject | None:
        """Read without a lock; a folder is no object."""
        doing = f"reading {self.object_uri(key)}"
        try:
            with self._explained(doing), self._opened(key, doing) as file:
                found = os.fstat(file.fileno())
                version, size = _version(found), found.st_size
                if version == unless:
                    return None
                if size > at_most:
                    raise ObjectTooLargeError(doing, size, at_most, version)
                return StoredObject(key, version, file.read(size))
        except ObjectNotFoundError:
            if unless == ABSENT:
                return None
            raise

    def fetch(self, key: str, into: Path, *, listed: Entry | None = None) -> Version:
        """Copy without a lock; a file that is overwritten in place meanwhile is copied again."""
        doing = f"fetching {self.object_uri(key)}"
        with made(into) as part:
            for _ in range(10):
                part.seek(0)
                part.truncate()
                version = self._copy(key, part, doing)
                part.seek(0)
                right = listed.checksum if listed and listed.version == version else ""
                if right and checksum_of(part, kind_of(right)) != right:
                    raise BucketError(doing, "it is not what was listed", "Check the disk.")
                if version:
                    return version
            raise BucketUnavailableError(doing, "somebody keeps writing it", "Try again.")

    def read_span(
        self, entry: Entry, into: BinaryIO, start: int = 0, end: int | None = None
    ) -> None:
        """Read without a lock."""
        doing = f"fetching {self.object_uri(entry.key)}"
        with self._explained(doing), self._opened(entry.key, doing) as file:
            if _version(os.fstat(file.fileno())) != entry.version:
                raise ObjectNotFoundError(doing, "it is not there at that version any more")
            file.seek(start)
            into.write(file.read(-1 if end is None else end - start))

    @contextmanager
    def on_disk(self, entry: Entry) -> Iterator[Path]:
        """Yield the file itself."""
        yield self._path(entry.key, f"reading {self.object_uri(entry.key)}")

    def local_path(self, key: str) -> Path:
        """Return it, whether or not something is there."""
        return self._path(key, f"looking for {self.object_uri(key)}") if key else self._root

    def _opened(self, key: str, doing: str) -> BinaryIO:
        file = _open(self._path(key, doing))
        if file is None:
            self._require_root(doing)
            raise ObjectNotFoundError(doing, "there is no such object")
        return file

    def _copy(self, key: str, into: BinaryIO, doing: str) -> Version | None:
        """Copy an object's content and return its version; None if it has changed meanwhile."""
        with self._explained(doing):
            file = self._opened(key, doing)
        with file:
            version = _version(os.fstat(file.fileno()))
            while True:
                with self._explained(doing):
                    block = file.read(1 << 20)
                if not block:
                    return version if _version(os.fstat(file.fileno())) == version else None
                into.write(block)

    def write(self, key: str, data: bytes | Path, *, expected: Version) -> Version:
        """Make the folders on the way, write aside, compare and rename."""
        doing = f"writing {self.object_uri(key)}"
        path = self._path(key, doing)
        with self._explained(doing):
            (self._require_root if self._root in _seen else self._make)(doing)
        with (
            opened(data, doing) as content,
            self._explained(doing),
            self._workroom.spooled(content) as new,
            self._workroom.locked(key, doing),
        ):
            there = _stat(path)
            version = _version(there) if there else ABSENT
            if version == expected:
                return self._put(new, path, there.st_mtime_ns if there else 0, doing)
            if there and _same_content(new, path):
                return version
            raise conflict(doing, expected, version)

    def stat(self, key: str, *, checksum: bool = False) -> Entry | None:
        """Look; open the file only for its checksum."""
        doing = f"looking for {self.object_uri(key)}"
        path = self._path(key, doing)
        with self._explained(doing):
            if checksum and (file := _open(path)):
                with file:
                    told = checksum_of(file)
                    return replace(_entry(key, os.fstat(file.fileno())), checksum=told)
            if there := _stat(path):
                return _entry(key, there)
            self._require_root(doing)
            return None

    def delete(self, key: str, *, expected: Version | None = None) -> None:
        """Remove the file, and leave its folder: others may be about to use it."""
        doing = f"deleting {self.object_uri(key)}"
        path = self._path(key, doing)
        with self._explained(doing):
            self._require_root(doing)
            if _stat(path) is None:
                return
            with self._workroom.locked(key, doing):
                there = _stat(path)
                if there is None:
                    return
                if expected is not None and _version(there) != expected:
                    raise conflict(doing, expected, _version(there))
                path.unlink()

    def listed(self, asked: Listing) -> Iterator[Entry]:
        """Walk the folders; what is there all along is sure to be found."""
        folder, _, start = asked.prefix.rpartition("/")
        how = (asked.recursive, frozenset[tuple[int, int]](), asked.left_out)
        with self._explained(asked.doing):
            self._require_root(asked.doing)
            if folder and not _is_within(self._root / folder, self._root):
                return
            for key, found in _walk(self._root, folder, start, *how):
                yield _entry(key, found)

    def _put(self, new: BinaryIO, path: Path, later_than: int, doing: str) -> Version:
        moment = max(time.time_ns(), later_than + 1)
        os.utime(new.fileno(), ns=(moment, moment))
        for _ in range(10):
            try:
                Path(new.name).rename(path)
                return _version(os.fstat(new.fileno()))
            except FileNotFoundError:  # its folder
                path.parent.mkdir(parents=True, exist_ok=True)
            except IsADirectoryError:
                # A bucket has no empty folders, so one left behind is nobody's. Others stay.
                for folder, _, _ in os.walk(path, topdown=False):
                    Path(folder).rmdir()
        raise BucketUnavailableError(doing, "somebody keeps removing its folder", "Try again.")

    def _path(self, key: str, doing: str) -> Path:
        """Return where an object lies; AccessDeniedError if a link leads out of the bucket."""
        check_key(key, doing)
        path = self._root / key
        if not _is_within(path, self._root):
            problem = f"{key!r} leads out of the bucket by a link"
            raise AccessDeniedError(doing, problem, "Put the files themselves there.")
        return path

    def _require_root(self, doing: str) -> None:
        try:
            is_folder = stat.S_ISDIR(self._root.stat().st_mode)
        except FileNotFoundError:
            if self._root in _seen:
                raise self._away(doing) from None
            hint = "Check the path; the first run that logs there makes it."
            problem = f"the folder {self._root} does not exist"
            raise BucketNotFoundError(doing, problem, hint) from None
        if not is_folder:
            raise BucketError(doing, f"{self._root} is a file", "A bucket is a folder.")
        # One that was copied by hand may lack the hidden folder.
        if any((self._root / each).exists() for each in (HIDDEN_FOLDER, MLRUNS)):
            _seen.add(self._root)
        elif self._root in _seen:
            raise self._away(doing)

    def _away(self, doing: str) -> BucketUnavailableError:
        mark = self._root / HIDDEN_FOLDER
        hint = f"Mount its disk. If you deleted it, `mkdir -p {quote(str(mark))}` begins a new one."
        problem = f"the bucket in {self._root} is not there any more"
        return BucketUnavailableError(doing, problem, hint)

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            place = error.filename2 or error.filename
            reason = f"{error.strerror}: {place}" if place else str(error.strerror)
            kind: type[BucketError] = BucketError
            match error.errno:
                case errno.EACCES | errno.EPERM | errno.EROFS:
                    kind = AccessDeniedError
                    hint = f"You need to own {self._root}, or to be given write access to it."
                case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
                    kind, hint = BucketUnavailableError, f"Free some space at {self._root}."
                case errno.ENAMETOOLONG | errno.EINVAL | errno.EILSEQ | errno.ELOOP:
                    hint = "No file there can have that name."
                case errno.ENOTDIR | errno.EEXIST:
                    reason, hint = f"a file stands where a folder is needed ({reason})", _NOT_BOTH
                case errno.EISDIR | errno.ENOTEMPTY:
                    reason, hint = f"a folder with objects stands there ({reason})", _NOT_BOTH
                case _:  # a disk that fails, a network drive that is away
                    kind = BucketUnavailableError
                    hint = f"Check that {self._root} can be reached."
            raise kind(doing, reason, hint) from error


def _entry(key: str, found: os.stat_result) -> Entry:
    return Entry(key, _version(found), found.st_size, found.st_mtime_ns // 1_000_000)


def _version(found: os.stat_result) -> Version:
    return f"{found.st_mtime_ns:x}-{found.st_ino:x}-{found.st_size:x}"


def _stat(path: Path) -> os.stat_result | None:
    """Return what is known of the file, or None if there is none (a folder is none)."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _is_within(path: Path | str, root: Path) -> bool:
    real = os.path.realpath(root)
    return os.path.realpath(path).startswith(f"{real}/")


def _open(path: Path) -> BinaryIO | None:
    try:
        # Without waiting for the other end of a pipe, should somebody have put one there.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return open(descriptor, "rb")  # noqa: PTH123 - a descriptor, not a path
    os.close(descriptor)
    return None


def _same_content(new: BinaryIO, path: Path) -> bool:
    new.seek(0)
    with path.open("rb") as old:
        while block := new.read(1 << 20):
            if old.read(len(block)) != block:
                return False
        return not old.read(1)


def _walk(
    root: Path,
    folder: str,
    start: str,
    recursive: bool,
    above: frozenset[tuple[int, int]],
    left_out: LeftOut,
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files in `folder` whose names start with `start`, in the order of their keys.

    `above` are the folders on the way here, so that a link to one of them is not followed for ever.
    """
    try:
        here = (root / folder).stat()
        with os.scandir(root / folder) as found:
            entries = [entry for entry in found if entry.name.startswith(start)]
    except (FileNotFoundError, NotADirectoryError):
        return
    identity = (here.st_dev, here.st_ino)
    if identity in above:
        return
    # "a-b" comes before what is in the folder "a", but after "a" itself: the slash counts.
    names = sorted((entry.name + "/" * entry.is_dir(), entry) for entry in entries)
    for name, entry in names:
        key = f"{folder}/{name}" if folder else name
        if entry.is_symlink() and not (_is_within(entry.path, root) and Path(entry.path).exists()):
            left_out(entry.path, "it is a symbolic link out of its folder")
        elif name.endswith("/"):
            if recursive and key != f"{HIDDEN_FOLDER}/":
                yield from _walk(root, key[:-1], "", True, above | {identity}, left_out)
        elif (details := _stat(Path(entry.path))) is not None:
            yield key, details
