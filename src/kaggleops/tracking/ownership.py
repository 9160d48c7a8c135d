"""Which process of this machine a run belongs to: that one alone ends it.

A training has helpers: pools, data loaders, ranks, subprocesses. Some begin its run once more, by
its id, and MLflow ends it with each of them, whatever ends them. So whoever begins a run first
locks a file for it, and the kernel unlocks that however the process dies. What others want the run
to end as meanwhile is left in the file: it counts once it is clear that the owner is not training
in the run itself, as a script is not that creates runs for other processes.

Where on this machine working copies lie: in the outbox, or in memory where the disk is full.
"""

import errno
import fcntl
import hashlib
import json
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


_held: dict[Path, int] = {}


def _path(bucket_uri: str, run_id: str) -> Path:
    bucket = hashlib.sha256(bucket_uri.encode()).hexdigest()[:12]
    return state_folder() / "running" / f"{bucket}-{run_id}"


def claim(bucket_uri: str, run_id: str) -> None:
    """Make a run this process's, unless it is another living one's.

    Where the file cannot be made, on a full disk say, nobody owns the run.
    """
    path = _path(bucket_uri, run_id)
    if path in _held or os.environ.get("RANK") not in (None, "", "0"):
        return  # torch numbers the processes of one training; the first one owns its run
    with suppress(OSError):
        private_folder(path.parent)
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            if not _lock(handle):
                return
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    break
            os.close(handle)  # it was let go of, and removed, since it was opened
        os.ftruncate(handle, 0)
        _held[path] = handle


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return False
    return True


def release(bucket_uri: str, run_id: str) -> None:
    """Let go of a run, if it is this process's."""
    path = _path(bucket_uri, run_id)
    handle = _held.pop(path, None)
    if handle is not None:
        path.unlink(missing_ok=True)
        os.close(handle)


def leave_word(bucket_uri: str, run_id: str, status: int, end_time: int | None) -> bool:
    """Leave word of how a run ended to the living process that owns it; False if there is none."""
    path = _path(bucket_uri, run_id)
    if path in _held:
        return False
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    if _lock(handle):
        os.close(handle)
        return False
    with suppress(OSError):
        path.write_text(json.dumps([status, end_time]))
    return True


def word_left(bucket_uri: str, run_id: str) -> tuple[int, int | None] | None:
    """Return what another process left word of, if this one owns the run."""
    handle = _held.get(_path(bucket_uri, run_id))
    if handle is None:
        return None
    try:
        status, end_time = json.loads(os.pread(handle, 100, 0))
    except (OSError, ValueError):
        return None  # nobody has, or not yet to its end
    return status, end_time


def forget_in_child() -> None:
    """After a fork: the locks are the parent's."""
    for handle in _held.values():
        os.close(handle)
    _held.clear()
