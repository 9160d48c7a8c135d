"""A resource's files: what tells one from a look-alike, what was put on this disk, what is coming.

What was put on this disk is remembered, so that what somebody changed is told from what is merely
old. For each path: the last content that was right there, and the file's times and size then. While
those are the same, so is the content, and nobody reads it again: a file's change time cannot be set
by whoever edits it. On the disk it is a file of JSON objects, one a line, of which later ones
count. What is new is added to its end, so that it costs as much as it says, and that no process
undoes another's.

A file on its way waits in a hidden folder beside where it will be, until it has its whole content,
verified; the last step is a rename. What a killed process left of a large file is gone on with; of
a full disk nothing is left.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kaggleops.bucket.checksums import checksum_of, kind_of
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.folders import private_file, private_folder, state_folder

State = Literal["right", "missing", "old", "changed"]
"""A file on this disk against the lock; "changed": by somebody here, "old": by an older lock."""

_Stamp = list[int]

_FEW = 1000  # entries that nobody need tidy up

FOLDER = ".kaggleops-fetching"
"""Beside what is being fetched; gone when that is there."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, order=True)
class File:
    """One file of a resource.

    Args:
        name: its path below the resource's destination, with "/".
        size: in bytes; -1 where the source does not say.
        version: what the source calls this state of it (Cloud Storage: its generation; S3: its
            ETag; Kaggle: the dataset's version), "" where it knows none.
        checksum: as `checksum_of` computes it, in the kind that the source tells; "" where it does
            not.
    """

    name: str
    size: int = -1
    version: str = ""
    checksum: str = ""

    @property
    def known(self) -> bool:
        """Whether a copy can be told from any other file."""
        return self.size >= 0 and bool(self.checksum)

    def same_content(self, other: "File") -> bool:
        """Tell whether both are known to hold the same bytes, whatever their versions."""
        return self.known and (self.size, self.checksum) == (other.size, other.checksum)


def check_checksum(text: str, doing: str) -> str:
    """Return a checksum as the manifest has it, in lower case.

    Raises:
        UsageError: it is none that could be checked.
    """
    kind, _, digits = text.strip().lower().partition(":")
    length = {"sha256": 64, "md5": 32}.get(kind)
    if length is None or len(digits) != length or set(digits) - set("0123456789abcdef"):
        hint = "Write sha256:… or md5:… with the digits that `sha256sum FILE` prints."
        raise UsageError(doing, f"{text!r} is not a checksum", hint)
    return f"{kind}:{digits}"


def verify(path: Path, expected: File, doing: str) -> None:
    """Make sure that a copy is what it should be.

    Raises:
        KaggleOpsError: it has another size or another checksum.
    """
    size = path.stat().st_size
    if size != expected.size:
        raise DamagedError(doing, f"it has {size:,} bytes instead of {expected.size:,}")
    found = checksum_of(path, kind_of(expected.checksum))
    if found != expected.checksum:
        raise DamagedError(doing, f"its checksum is {found} instead of {expected.checksum}")


class DamagedError(KaggleOpsError):
    """What came is not what was asked for."""


class Placed:
    """The record of one project's files on this machine. Safe to use from several threads.

    Args:
        root: the folder below which its destinations lie.
    """

    def __init__(self, root: Path) -> None:
        digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
        self._file = state_folder() / "resources" / f"{digest}.json"
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, _Stamp]] = {}
        self._new: dict[str, tuple[str, _Stamp]] = {}
        self._inode = 0
        self._end = 0  # of the lines that were read
        self._entries = 0  # that they held
        self._learn()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let nobody else put files on this disk; one who had to wait knows what they did."""
        private_folder(self._file.parent)
        with private_file(self._file.with_suffix(".lock")).open("w") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)
            self._learn()
            self._tidy_up()
            yield

    def checksum(self, path: Path, kind: str) -> str:
        """Return a file's checksum of a kind, from the record where the file is unchanged."""
        checksum, stamp = self._known.get(str(path), ("", []))
        if stamp == _stamp(path) and kind_of(checksum) == kind:
            return checksum
        return checksum_of(path, kind)

    def is_ours(self, path: Path) -> bool:
        """Tell whether what is there is what was once right there, and so may be replaced."""
        checksum, stamp = self._known.get(str(path), ("", []))
        if not checksum:
            return False
        return stamp == _stamp(path) or checksum_of(path, kind_of(checksum)) == checksum

    def right(self, path: Path, checksum: str) -> None:
        """Remember that a path holds the right content."""
        entry = (checksum, _stamp(path))
        with self._lock:
            if self._known.get(str(path)) != entry:
                self._known[str(path)] = self._new[str(path)] = entry

    def save(self) -> None:
        """Write down what is new."""
        with self._lock:
            if not self._new:
                return
            private_folder(self._file.parent)
            # A process that was killed may have left half a line.
            line = f"\n{json.dumps(self._new)}\n".encode()
            with private_file(self._file).open("ab", buffering=0) as opened:
                opened.write(line)
                if opened.tell() - len(line) == self._end:
                    self._inode, self._end = os.fstat(opened.fileno()).st_ino, opened.tell()
            self._entries += len(self._new)
            self._new = {}

    def _learn(self) -> None:
        """Read what others have written down since."""
        with self._lock, suppress(OSError):
            there = self._file.stat()
            if there.st_ino != self._inode:
                self._inode, self._end, self._entries = there.st_ino, 0, 0
            if there.st_size == self._end:
                return
            with self._file.open("rb") as opened:
                opened.seek(self._end)
                for line in opened:
                    # It spares time, and what is no line of ours spares none.
                    with suppress(ValueError, TypeError, AttributeError):
                        said = {
                            path: (checksum, stamp)
                            for path, (checksum, stamp) in json.loads(line).items()
                        }
                        self._known |= said
                        self._entries += len(said)
                    if line.endswith(b"\n"):
                        self._end += len(line)

    def _tidy_up(self) -> None:
        """Write the record anew, if most of it does not count any more."""
        with self._lock:
            if self._entries < 2 * len(self._known) + _FEW:
                return
            temporary = self._file.with_suffix(f".{os.getpid()}")
            private_file(temporary).write_text(f"{json.dumps(self._known)}\n")
            temporary.replace(self._file)
            there = self._file.stat()
            self._inode, self._end = there.st_ino, there.st_size
            self._entries, self._new = len(self._known), {}


def _stamp(path: Path) -> _Stamp:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def state_of(path: Path, file: File, placed: Placed, *, any_content: bool = False) -> State:
    """Return how a file on this disk stands against the lock.

    Args:
        path: where it is, or would be.
        file: what the lock says.
        placed: what was put on this disk.
        any_content: whether one that is there counts as right, whatever it holds.
    """
    if not path.exists():
        return "missing"
    if any_content:
        return "right"
    if path.is_file():
        alike = file.known and path.stat().st_size == file.size
        if alike and placed.checksum(path, kind_of(file.checksum)) == file.checksum:
            placed.right(path, file.checksum)
            return "right"
        if placed.is_ours(path):
            return "old"
    return "changed"


class Staging:
    """What is on its way to a folder.

    Args:
        folder: where to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hidden = folder / FOLDER

    def part(self, file: File) -> Path:
        """Return where a file waits, in a folder that is there."""
        self._hidden.mkdir(parents=True, exist_ok=True)
        return self._part(file)

    def come(self, file: File) -> int:
        """Return how many bytes of a file wait on the disk already."""
        try:
            return self._part(file).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def _part(self, file: File) -> Path:
        # Of another version, it would be another.
        identity = f"{file.name}\0{file.version}\0{file.checksum}".encode()
        return self._hidden / hashlib.sha256(identity).hexdigest()[:20]

    def place(self, file: File) -> Path:
        """Give a file that is whole its name, and return its path."""
        path = self.folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.part(file).replace(path)
        return path

    def drop(self, file: File) -> None:
        """Forget what has come of a file."""
        self.part(file).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget everything that is on its way."""
        shutil.rmtree(self._hidden, ignore_errors=True)

    def leave(self) -> None:
        """Leave the hidden folder only where something waits in it."""
        with suppress(OSError):
            self._hidden.rmdir()


@contextmanager
def full_disk_leaves_nothing(staging: Staging) -> Iterator[None]:
    """Turn what a disk raises into one line; if it is full, leave nothing half-written on it.

    Raises:
        KaggleOpsError: it is full, or the file cannot be written.
    """
    doing = f"fetching into {staging.folder}"
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            staging.clear()
            hint = "Free some space, or move the destination to another disk, and fetch again."
            raise KaggleOpsError(doing, f"the disk is full ({error.strerror})", hint) from error
        name = f" ({error.filename})" if error.filename else ""
        raise KaggleOpsError(doing, f"{error.strerror or error}{name}") from error
