"""Files on their way: each has its whole content, verified, before it gets its name.

They wait in a hidden folder beside where they will be, so that the last step is a rename. What a
killed process left of a large file is gone on with; of a full disk nothing is left.
"""

import errno
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kaggleops.errors import KaggleOpsError
from kaggleops.resources.files import File

FOLDER = ".kaggleops-fetching"
"""Beside what is being fetched; gone when that is there."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
            return self._part(file).stat().st_blocks * 512
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
        part = self.part(file)
        part.replace(path)
        finished_slices(part).unlink(missing_ok=True)
        return path

    def drop(self, file: File) -> None:
        """Forget what has come of a file."""
        part = self.part(file)
        part.unlink(missing_ok=True)
        finished_slices(part).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget everything that is on its way."""
        shutil.rmtree(self._hidden, ignore_errors=True)

    def leave(self) -> None:
        """Leave the hidden folder only where something waits in it."""
        with suppress(OSError):
            self._hidden.rmdir()


def finished_slices(part: Path) -> Path:
    """Return the file that lists which slices of a part have come, one number a line."""
    return part.with_suffix(".slices")


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
            hint = "Make room, or let the destination be on another disk, and fetch again."
            raise KaggleOpsError(doing, f"the disk is full ({error.strerror})", hint) from error
        name = f" ({error.filename})" if error.filename else ""
        raise KaggleOpsError(doing, f"{error.strerror or error}{name}") from error
