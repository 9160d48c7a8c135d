"""The hidden folder of a `bucket+file` bucket: its locks and its unfinished writes.

Both survive `kill -9` without anybody's help. The kernel drops a dead process's locks, and an
unfinished write is locked by its writer for as long as it lives: one that nobody holds is litter.
"""

import errno
import fcntl
import os
import secrets
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from kaggleops.bucket.base import BucketUnavailableError

# Keys share the locks, so that there are never more files. They are held for a moment only.
_LOCKS = 64

_held: set[int] = set()
"""Descriptors of the locks that this process holds."""


def _let_go_after_fork() -> None:
    # A child shares its parent's locks, and would keep them if the parent were killed.
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_after_fork)


class Workroom:
    """Locks and unfinished writes in `folder`: made when it is needed, but not what it lies in.

    `patience` is for how many seconds to wait for a lock.
    """

    def __init__(self, folder: Path, patience: float) -> None:
        self._folder = folder
        self._locks = folder / "locks"
        self._unfinished = folder / "unfinished"
        self._patience = patience
        self._swept = False

    @contextmanager
    def spooled(self, content: BinaryIO) -> Iterator[BinaryIO]:
        """Yield a new file with all of `content`, safely on the disk, and remove it in the end.

        It is open for reading, and `name` is where it lies. Renaming it elsewhere keeps it.
        """
        self._make(self._unfinished)
        if not self._swept:
            self._sweep()
            self._swept = True
        path, file = self._create()
        try:
            with file:
                while block := content.read(1 << 20):
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
                yield file
        finally:
            path.unlink(missing_ok=True)

    @contextmanager
    def locked(self, key: str, doing: str) -> Iterator[None]:
        """Keep every other writer of `key` out, in this process and in all others.

        Raises BucketUnavailableError if another has not let go of it within the patience.
        """
        self._make(self._locks)
        path = self._locks / str(zlib.crc32(key.encode()) % _LOCKS)
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        _held.add(descriptor)
        try:
            self._wait_for(descriptor, doing)
            yield
        finally:
            _held.discard(descriptor)
            # Closing is not enough where a child was forked between the first two lines.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _make(self, folder: Path) -> None:
        for each in (self._folder, folder):
            each.mkdir(exist_ok=True)

    def _wait_for(self, descriptor: int, doing: str) -> None:
        deadline = time.monotonic() + self._patience
        pause = 0.0005
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                problem = f"another process has been writing for {self._patience:g} s"
                raise BucketUnavailableError(doing, problem, "Check for one that hangs.")
            time.sleep(pause)
            pause = min(2 * pause, 0.02)

    def _create(self) -> tuple[Path, BinaryIO]:
        while True:
            path = self._unfinished / f"{os.getpid()}-{secrets.token_hex(8)}"
            file = path.open("x+b")
            # Somebody who sweeps may have locked and removed it before we came to lock it.
            if _try_lock(file.fileno()) and os.fstat(file.fileno()).st_nlink:
                return path, file
            file.close()

    def _sweep(self) -> None:
        for path in self._unfinished.iterdir():
            with suppress(FileNotFoundError, PermissionError), path.open("rb") as file:
                if _try_lock(file.fileno()):
                    path.unlink(missing_ok=True)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            return False
        raise
    return True
