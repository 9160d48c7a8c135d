"""Artifacts that a bucket could not take yet, on this machine's disk.

Each process has a folder of its own, locked for as long as it lives, so that nobody else sends what
is in it meanwhile. A kept file is a folder in there with a copy and where the copy belongs; it is
made aside and renamed, so whenever the process is killed, the file is kept whole or not at all.
"""

import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

from kaggleops.bucket import Version
from kaggleops.platforms.folders import private_file, state_folder
from kaggleops.tracking.ownership import make_private, spare_roots

_CONTENT = "content"
_MANIFEST = "manifest.json"
_OWNER = "owner.lock"
_UNFINISHED = "."
"""What the names of folders start with that are not complete yet."""


class Place(NamedTuple):
    """Where an artifact belongs: the bucket's address, and the key in it."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}"


@dataclass(frozen=True)
class Kept:
    """A file that waits to be sent.

    Args:
        folder: what holds the copy and the manifest.
        place: where it belongs.
        replaces: the version there that its process wrote last; `ABSENT` if it wrote none.
        logged_ms: when it was logged, in milliseconds since the epoch, by this machine's clock.
    """

    folder: Path
    place: Place
    replaces: Version
    logged_ms: int

    @property
    def content(self) -> Path:
        """The copy."""
        return self.folder / _CONTENT

    def remove(self) -> None:
        """Remove it from the disk; it is no error if it is gone already."""
        # Renamed first: half a removed one must not be taken for one that waits.
        doomed = self.folder.with_name(_UNFINISHED + self.folder.name)
        try:
            self.folder.rename(doomed)
        except FileNotFoundError:
            return
        shutil.rmtree(doomed, ignore_errors=True)


class Spool:
    """One process's folder of kept files.

    Args:
        home: the folder of the spools of one bucket; made here if need be.
    """

    def __init__(self, home: Path) -> None:
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}"
        unlocked = make_private(home) / (_UNFINISHED + name)
        unlocked.mkdir(mode=0o700)
        self._owner = private_file(unlocked / _OWNER).open("w")
        fcntl.flock(self._owner, fcntl.LOCK_EX)
        self.folder = unlocked.rename(home / name)

    def keep(self, file: Path, place: Place, replaces: Version) -> Kept:
        """Copy a file into the folder.

        Raises:
            OSError: it cannot be copied (the disk is full, say); nothing is left of the attempt.
        """
        name = uuid.uuid4().hex
        unfinished = self.folder / (_UNFINISHED + name)
        logged_ms = time.time_ns() // 1_000_000
        try:
            unfinished.mkdir(mode=0o700)
            with file.open("rb") as content, _private(unfinished / _CONTENT) as copy:
                shutil.copyfileobj(content, copy, 1 << 20)
            manifest = {**place._asdict(), "replaces": replaces, "logged_ms": logged_ms}
            with _private(unfinished / _MANIFEST) as written:
                written.write(json.dumps(manifest).encode())
            folder = unfinished.rename(self.folder / name)
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        return Kept(folder, place, replaces, logged_ms)

    def let_go(self) -> None:
        """Give up the folder, as a forked child must: it is its parent's."""
        self._owner.close()

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        self._owner.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _private(file: Path) -> BinaryIO:
    return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def spools_of(bucket_uri: str) -> list[Path]:
    """Return the folders of the spools of the runs that are tracked in a bucket, the usual first.

    The others are for where its disk is full.
    """
    below = bucket_uri.replace("://", "-").replace("/", "-")
    return [root / "artifacts" / below for root in (state_folder(), *spare_roots())]


@dataclass(frozen=True)
class Found:
    """The spool of some process, with what is kept in it, oldest first."""

    folder: Path
    kept: list[Kept]
    in_use: bool
    """Its process is alive and sends what is in it."""


@contextmanager
def found_spools(bucket_uri: str) -> Iterator[list[Found]]:
    """Yield the spools of a bucket, locked meanwhile where no process has them in use.

    Args:
        bucket_uri: the bucket that the runs are tracked in.
    """
    with ExitStack() as locks:
        homes = [home for home in spools_of(bucket_uri) if home.is_dir()]
        folders = sorted(folder for home in homes for folder in _finished(home))
        spools = [found for folder in folders if (found := _found(folder, locks))]
        yield spools
        for spool in spools:
            if not spool.in_use and not any(_finished(spool.folder)):
                shutil.rmtree(spool.folder, ignore_errors=True)


def _found(folder: Path, locks: ExitStack) -> Found | None:
    try:
        in_use = not _locked(locks.enter_context((folder / _OWNER).open("a")))
        return Found(folder, _kept_in(folder), in_use)
    except FileNotFoundError:
        return None  # its process has just sent everything


def _locked(owner: TextIO) -> bool:
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _kept_in(folder: Path) -> list[Kept]:
    kept = []
    for each in _finished(folder):
        try:
            manifest = json.loads((each / _MANIFEST).read_text())
        except FileNotFoundError:
            continue  # its process has just sent it
        place = Place(manifest["bucket"], manifest["key"])
        kept.append(Kept(each, place, manifest["replaces"], manifest["logged_ms"]))
    return sorted(kept, key=lambda each: each.logged_ms)


def _finished(folder: Path) -> Iterator[Path]:
    return (
        each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(_UNFINISHED)
    )
