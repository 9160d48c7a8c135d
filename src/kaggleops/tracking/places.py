"""Where on this machine working copies lie: in the outbox, or in memory where the disk is full."""

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from kaggleops.platforms.folders import private_file, private_folder, state_folder

OWNER = "owner.lock"
"""Locked for as long as the process that a folder belongs to lives: an orphan's is free."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


def outboxes(bucket_uri: str | None = None) -> list[Path]:
    """Return the folders under which working copies lie, all or a bucket's, the usual one first."""
    below = "" if bucket_uri is None else bucket_uri.replace("://", "-").replace("/", "-")
    return [root / "outbox" / below for root in (state_folder(), *spare_roots())]


def spare_roots() -> list[Path]:
    """Return the folders for where the disk of the state folder is full, one may be in memory."""
    # One of each state folder's own, so that no user and no test meets another's.
    name = f"kaggleops-{hashlib.sha256(str(state_folder()).encode()).hexdigest()[:12]}"
    memory = Path("/dev/shm")  # noqa: S108 - Linux's file system in memory
    places = [memory, Path(tempfile.gettempdir())]
    return [place / name for place in places if place.is_dir()]


@contextmanager
def new_folder(outbox: Path) -> Iterator[tuple[Path, TextIO]]:
    """Make a folder in the outbox, this process's for as long as the file with it is open.

    It holds nothing yet: nobody takes what comes into it for something left behind. If what is
    done with it raises an error, nothing of it stays.
    """
    started = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    folder = make_private(outbox) / f"{started}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    folder.mkdir(mode=0o700)
    with ExitStack() as undo:
        undo.callback(remove, folder)
        owner = undo.enter_context(private_file(folder / OWNER).open("w"))
        fcntl.flock(owner, fcntl.LOCK_EX)
        yield folder, owner
        undo.pop_all()


def make_private(folder: Path) -> Path:
    """Make a folder that only this user can enter, those of ours above it too."""
    for each in (folder, *folder.parents):
        if each.name.startswith("kaggleops-"):
            each.mkdir(mode=0o700, exist_ok=True)
            if each.stat().st_uid != os.getuid():
                raise PermissionError(errno.EPERM, "it belongs to somebody else", str(each))
    return private_folder(folder)


def remove(folder: Path) -> None:
    """Remove a working copy, and its bucket's outbox if it was the last."""
    # What is locked before the lock: who finds it without one takes it for left behind.
    shutil.rmtree(folder / "mlruns", ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()


def disk_is_full(error: BaseException | None) -> bool:
    """Tell whether an error, or what led to it, is that nothing more can be written to a disk."""
    return any(isinstance(each, OSError) and each.errno in _FULL for each in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
