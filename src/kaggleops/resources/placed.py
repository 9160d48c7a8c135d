"""What was put on this disk, so that what somebody changed is told from what is merely old.

For each path: the last content that was right there, and the file's times and size then. While
those are the same, so is the content, and nobody reads it again: a file's change time cannot be set
by whoever edits it.
"""

import hashlib
import json
import os
import threading
from pathlib import Path

from kaggleops.platforms.folders import private_file, private_folder, state_folder
from kaggleops.resources.files import checksum_of, kind_of

_Stamp = list[int]


class Placed:
    """The record of one project's files on this machine. Safe to use from several threads.

    Args:
        root: the folder below which its destinations lie.
    """

    def __init__(self, root: Path) -> None:
        digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
        self._file = state_folder() / "resources" / f"{digest}.json"
        self._lock = threading.Lock()
        self._changed = False
        try:
            self._known: dict[str, tuple[str, _Stamp]] = {
                path: (checksum, stamp)
                for path, (checksum, stamp) in json.loads(self._file.read_text()).items()
            }
        except (OSError, ValueError, TypeError, AttributeError):
            self._known = {}  # it spares time, and says of nothing that it is right

    @property
    def lock_file(self) -> Path:
        """What whoever puts files on this disk holds meanwhile."""
        return self._file.with_suffix(".lock")

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
                self._known[str(path)] = entry
                self._changed = True

    def save(self) -> None:
        """Write the record, if it has changed."""
        with self._lock:
            if not self._changed:
                return
            private_folder(self._file.parent)
            temporary = self._file.with_suffix(f".{os.getpid()}")
            private_file(temporary).write_text(json.dumps(self._known))
            temporary.replace(self._file)
            self._changed = False


def _stamp(path: Path) -> _Stamp:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
