"""A resource's files: what tells one from a look-alike, what was put on this disk, what is coming.

What was put on this disk is remembered, so that what somebody changed is told from what is merely
old. For each path: the last content that was right there, and the file's times and size then. While
those are the same, so is the content, and nobody reads it again: a file's change time cannot be set
by whoever edits it. The record is a file of JSON objects, one a line, of which later ones count:
what is new is added to its end, so no process undoes another's.

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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kaggleops.bucket.checksums import CRC32C, checksum_of, kind_of
from kaggleops.errors import KaggleOpsError
from kaggleops.platforms.folders import private_file, private_folder, state_folder

State = Literal["right", "missing", "old", "changed"]
"""A file on this disk against the lock; "changed": by somebody here, "old": by an older lock."""

_FEW = 1000  # entries that nobody need tidy up

FOLDER = ".kaggleops-fetching"
"""Beside what is being fetched; gone when that is there."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, order=True)
class File:
    """One file of a resource."""

    name: str  # its path below the resource's destination, with "/"
    size: int = -1  # in bytes; -1 where the source does not say
    # what the source calls this state of it (Cloud Storage: its generation; S3: its ETag; Kaggle:
    # the dataset's version), "" where it knows none
    version: str = ""
    checksum: str = ""  # as `checksum_of` has it, in the kind that the source tells; "" for none

    @property
    def known(self) -> bool:
        """Whether a copy can be told from any other file."""
        return self.size >= 0 and bool(self.checksum)

    def same_content(self, other: "File") -> bool:
        """Tell whether both are known to hold the same bytes, whatever their versions."""
        return self.known and (self.size, self.checksum) == (other.size, other.checksum)


class DamagedError(KaggleOpsError):
    """What came is not what was asked for."""


def verified(path: Path, expected: File, doing: str) -> File:
    """Return what a copy is: a file with its size and checksum; DamagedError if not as expected."""
    size = path.stat().st_size
    if expected.known and size != expected.size:
        raise DamagedError(doing, f"it has {size:,} bytes instead of {expected.size:,}")
    found = checksum_of(path, kind_of(expected.checksum) if expected.checksum else CRC32C)
    if expected.checksum and found != expected.checksum:
        raise DamagedError(doing, f"its checksum is {found} instead of {expected.checksum}")
    return replace(expected, size=size, checksum=found)


class Placed:
    """The record of the files below a folder of this machine. Safe to use from several threads."""

    def __init__(self, root: Path) -> None:
        digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
        self._file = state_folder() / "resources" / f"{digest}.json"
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, list[int]]] = {}
        self._new: dict[str, tuple[str, list[int]]] = {}
        self._read = 0, 0  # inode and size of the record when it was read
        self._entries = 0  # that it held
        self._learn()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let nobody else put files on this disk; one who had to wait knows what they did."""
        private_folder(self._file.parent)
        with private_file(self._file.with_suffix(".lock")).open("w") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)
            self._learn()
            if self._entries > 2 * len(self._known) + _FEW:  # most of it does not count any more
                temporary = self._file.with_suffix(f".{os.getpid()}")
                private_file(temporary).write_text(f"{json.dumps(self._known)}\n")
                temporary.replace(self._file)
                self._learn()
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
                there = os.fstat(opened.fileno())
            if there.st_size - len(line) == self._read[1]:  # else others have written, too
                self._read = there.st_ino, there.st_size
            self._entries += len(self._new)
            self._new = {}

    def _learn(self) -> None:
        """Read what others have written down since."""
        with self._lock, suppress(OSError):
            there = self._file.stat()
            if self._read == (there.st_ino, there.st_size):
                return
            self._read, self._entries = (there.st_ino, there.st_size), 0
            for line in self._file.read_bytes().splitlines():
                # It spares time, and what is no line of ours spares none.
                with suppress(ValueError, TypeError, AttributeError):
                    said = {path: (each, at) for path, (each, at) in json.loads(line).items()}
                    self._known |= said
                    self._entries += len(said)


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def state_of(path: Path, file: File, placed: Placed, *, any_content: bool = False) -> State:
    """Return how what lies at a path, or would, stands against a file of the lock.

    With `any_content`, whatever is there is right.
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
    """What is on its way to a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hidden = folder / FOLDER

    def part(self, file: File) -> Path:
        """Return where a file waits, in a folder that is there."""
        self._hidden.mkdir(parents=True, exist_ok=True)
        return self._part(file)

    def come(self, file: File) -> int:
        """Return how many bytes of a file wait on the disk already."""
        part = self._part(file)
        return part.stat().st_size if part.exists() else 0

    def _part(self, file: File) -> Path:
        # Of another version, it would be another.
        identity = f"{file.name}\0{file.version}\0{file.checksum}".encode()
        return self._hidden / hashlib.sha256(identity).hexdigest()[:20]

    def place(self, file: File, part: Path) -> Path:
        """Give what is whole in a part the file's name, and return its path."""
        path = self.folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        part.replace(path)
        return path

    def clear(self) -> None:
        """Forget everything that is on its way."""
        shutil.rmtree(self._hidden, ignore_errors=True)

    def leave(self) -> None:
        """Leave the hidden folder only where something waits in it."""
        with suppress(OSError):
            self._hidden.rmdir()


@contextmanager
def full_disk_leaves_nothing(staging: Staging) -> Iterator[None]:
    """Turn what a disk raises into one line; if it is full, leave nothing half-written on it."""
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
