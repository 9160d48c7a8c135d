"""What this machine still has to send: each process's folder in the outbox.

A folder holds a working copy (`mlruns`), copies of artifacts that their bucket could not take, or
both. It gets its name only once its process has locked it, and loses it before anything in it is
removed, so nobody takes a folder that is being made or removed for one left behind. The kernel
unlocks it however its process ends; then `push` sends what is in it. A copied artifact gets its
name once it is whole, so a kill leaves all of it or nothing.
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
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

from kaggleops.bucket import BucketError, Version
from kaggleops.platforms.folders import private_file, private_folder, state_folder

OUTBOX, RANKS = "outbox", "ranks"
"""Where the folders lie of what is to be sent, and of the ranks whose work never is."""

_OWNER = "owner.lock"
_CONTENT, _MANIFEST = "content", "manifest.json"
_NEW, _GONE = ".new-", ".gone-"
"""What the names of folders start with that are not complete yet, or not any more."""

_SECOND = len("20260101-120000")  # how much of a folder's name is the second it was made in

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


def outboxes(bucket_uri: str, name: str = OUTBOX) -> list[Path]:
    """Return where the folders for a bucket lie: the usual place first, then for a full disk."""
    # One of each state folder's own, so that no user and no test meets another's.
    ours = f"kaggleops-{hashlib.sha256(str(state_folder()).encode()).hexdigest()[:12]}"
    memory = Path("/dev/shm")  # noqa: S108 - Linux's file system in memory
    spare = [place / ours for place in (memory, Path(tempfile.gettempdir())) if place.is_dir()]
    below = bucket_uri.replace("://", "-").replace("/", "-")
    return [root / name / below for root in (state_folder(), *spare)]


@contextmanager
def new_folder(outbox: Path) -> Iterator[tuple[Path, TextIO]]:
    """Make a folder in an outbox, this process's for as long as the file with it is open.

    If what is done with it raises an error, nothing of it stays.
    """
    for each in (outbox, *outbox.parents):
        if each.name.startswith("kaggleops-"):  # of ours, where everybody may write
            each.mkdir(mode=0o700, exist_ok=True)
            if each.stat().st_uid != os.getuid():
                raise PermissionError(errno.EPERM, "it belongs to somebody else", str(each))
    started = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    name = f"{started}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    unlocked = private_folder(outbox) / (_NEW + name)
    unlocked.mkdir(mode=0o700)
    with ExitStack() as undo:
        undo.callback(remove, unlocked)
        owner = undo.enter_context(private_file(unlocked / _OWNER).open("w"))
        fcntl.flock(owner, fcntl.LOCK_EX)
        folder = unlocked.rename(outbox / name)
        undo.callback(remove, folder)
        yield folder, owner
        undo.pop_all()


def remove(folder: Path) -> None:
    """Remove a folder of an outbox, or one in it, if it is there; the outbox with its last one."""
    gone = folder.with_name(_GONE + folder.name)
    with suppress(OSError):
        shutil.rmtree(folder.rename(gone), ignore_errors=True)
        folder.parent.rmdir()


def disk_is_full(error: BaseException | None) -> bool:
    """Tell whether an error, or what led to it, is that nothing more can be written to a disk.

    A bucket's disk is none of them: no other folder here would help.
    """
    while error is not None and not isinstance(error, BucketError):
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def left_behind(
    bucket_uri: str, in_use: list[Path], held: ExitStack, name: str = OUTBOX, *, since: str = ""
) -> Iterator[Path]:
    """Yield a bucket's folders that no process owns, each locked as long as `held` is open.

    Those that a process owns are added to `in_use`. Folders' names begin with when they were made:
    none from before the second of the one named `since` is looked at.
    """
    for home in outboxes(bucket_uri, name):
        for folder in _inside(home):
            if folder.name.startswith(_GONE):
                shutil.rmtree(folder, ignore_errors=True)  # a kill broke that off
            if folder.name.startswith(".") or folder.name[:_SECOND] < since[:_SECOND]:
                continue
            try:
                owner = held.enter_context((folder / _OWNER).open("a"))
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (FileNotFoundError, NotADirectoryError):
                continue  # its process has just sent it
            except BlockingIOError:
                in_use.append(folder)
                continue
            if folder.is_dir():  # else somebody else has just sent it
                yield folder


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []  # its process has just removed it


class Place(NamedTuple):
    """Where an artifact belongs: the bucket's address, and the key in it."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}"


@dataclass(frozen=True)
class Kept:
    """A copy of an artifact that waits to be sent."""

    folder: Path  # what holds the copy and the manifest
    place: Place  # where it belongs
    replaces: Version  # the version there that its process wrote last; `ABSENT` if it wrote none
    logged_ms: int  # when it was logged, in milliseconds since the epoch, by this machine's clock

    @property
    def content(self) -> Path:
        """The copy."""
        return self.folder / _CONTENT


def keep(file: Path, folder: Path, place: Place, replaces: Version) -> Kept:
    """Copy an artifact into a folder of this process; after an OSError nothing of it is left."""
    name, logged_ms = uuid.uuid4().hex, time.time_ns() // 1_000_000
    unfinished = folder / (_NEW + name)
    try:
        unfinished.mkdir(mode=0o700)
        with file.open("rb") as content, _private(unfinished / _CONTENT) as copy:
            shutil.copyfileobj(content, copy, 1 << 20)
        manifest = {**place._asdict(), "replaces": replaces, "logged_ms": logged_ms}
        with _private(unfinished / _MANIFEST) as written:
            written.write(json.dumps(manifest).encode())
        return Kept(unfinished.rename(folder / name), place, replaces, logged_ms)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _private(file: Path) -> BinaryIO:
    return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def kept_in(folder: Path) -> list[Kept]:
    """Return the artifacts that wait in a folder, the oldest first."""
    kept = []
    for each in _inside(folder):
        with suppress(FileNotFoundError, NotADirectoryError):  # its process has just sent it
            if not each.name.startswith("."):
                manifest = json.loads((each / _MANIFEST).read_text())
                place = Place(manifest["bucket"], manifest["key"])
                kept.append(Kept(each, place, manifest["replaces"], manifest["logged_ms"]))
    return sorted(kept, key=lambda each: each.logged_ms)
