"""Which process of this machine a run belongs to: that one alone ends it.

A training has helpers: pools, data loaders, ranks, subprocesses. Some start its run again, by its
id, and MLflow ends it with each of them, whatever ends them. So the first process to start a run
locks a file for it, and the kernel unlocks that however the process dies. The status that others
want to give the run meanwhile is written to the file: it counts once it is clear that the owner is
not training in the run itself, as a script is not that creates runs for other processes.
"""

import fcntl
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from kaggleops.platforms.folders import private_folder, state_folder

_held: dict[Path, int] = {}

_LONGEST = 100  # bytes of a status and a time: always as many, so that none is read in half


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
            os.close(handle)  # it was released, and removed, since it was opened
        os.ftruncate(handle, 0)
        _held[path] = handle


def _lock(handle: int) -> bool:
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    os.close(handle)
    return False


def release(bucket_uri: str, run_id: str) -> tuple[int, int | None] | None:
    """Release a run, if it is this process's; return the last status that another one left."""
    path = _path(bucket_uri, run_id)
    handle = _held.pop(path, None)
    if handle is None:
        return None
    path.unlink(missing_ok=True)
    word = _word(handle)  # whoever leaves one from here on finds the file gone
    os.close(handle)
    return word


def leave_word(bucket_uri: str, run_id: str, status: int, end_time: int | None) -> bool:
    """Leave a run's last status to the living process that owns it; False if there is none."""
    path = _path(bucket_uri, run_id)
    if path in _held:
        return False
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        with suppress(OSError):
            os.pwrite(handle, json.dumps([status, end_time]).ljust(_LONGEST).encode(), 0)
        return os.fstat(handle).st_nlink > 0  # else it was released meanwhile, unread
    finally:
        os.close(handle)
    return False


def word_left(bucket_uri: str, run_id: str) -> tuple[int, int | None] | None:
    """Return the last status that another process left, if this one owns the run."""
    handle = _held.get(_path(bucket_uri, run_id))
    return None if handle is None else _word(handle)


def _word(handle: int) -> tuple[int, int | None] | None:
    with suppress(OSError, ValueError):  # nobody has left one
        status, end_time = json.loads(os.pread(handle, _LONGEST, 0))
        return status, end_time
    return None


def forget_in_child() -> None:
    """After a fork: the locks are the parent's."""
    while _held:
        os.close(_held.popitem()[1])
