"""What was put on this disk, so that what somebody changed is told from what is merely old.

For each path: the last content that was right there, and the file's times and size then. While
those are the same, so is the content, and nobody reads it again: a file's change time cannot be set
by whoever edits it.

On the disk it is a file of JSON objects, one a line, of which later ones count. What is new is
added to its end, so that it costs as much as it says, and that no process undoes another's.
"""

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kaggleops.platforms.folders import private_file, private_folder, state_folder
from kaggleops.resources.files import checksum_of, kind_of

_Stamp = list[int]

_FEW = 1000  # entries that nobody need tidy up


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
