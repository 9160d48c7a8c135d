"""One process's uploads of artifacts: done at once, or kept on the disk and tried again.

An upload never stops the training. If the bucket cannot take a file now, one warning is given, the
file is copied to this machine's outbox, and a thread tries again with growing pauses, and once more
at exit. What could not be sent by then is named, with where it lies and which command sends it.

Uploads to the same place count in the order in which they were made, whenever they arrive. Between
processes, an object that was written after a kept file was logged is not replaced by that file.
"""

import logging
import multiprocessing
import multiprocessing.util
import os
import shutil
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from kaggleops.bucket import (
    ABSENT,
    AccessDeniedError,
    Bucket,
    BucketError,
    BucketNotFoundError,
    BucketUnavailableError,
    ConflictError,
    Version,
    open_bucket,
)
from kaggleops.printable import printable
from kaggleops.tracking.outbox import Kept, Place, keep, new_folder, outboxes, remove

_log = logging.getLogger("kaggleops")

PATIENCE = 30.0
"""Seconds for which the training waits for a bucket that takes nothing (an attempt that has begun
is let finish). Each request has 10 s to connect and 30 s for an answer, and carries 16 MiB at most,
so it is the bucket that has to be slow, not the line: 5 Mbit/s will do."""

FIRST_PAUSE = 10.0
"""Seconds until the first new attempt; they double while none succeeds."""

LONGEST_PAUSE = 300.0

MENDABLE = (BucketUnavailableError, AccessDeniedError, BucketNotFoundError)
"""What may pass or be mended while the training goes on, or after it."""

_all: dict[str, "Uploads"] = {}
_all_lock = threading.Lock()


def uploads(bucket_uri: str) -> "Uploads":
    """Return this process's uploads for the runs that are tracked in a bucket."""
    with _all_lock:
        if bucket_uri not in _all:
            _all[bucket_uri] = Uploads(bucket_uri)
        return _all[bucket_uri]


def write_artifact(
    bucket: Bucket, key: str, file: Path, replaces: Version, kept: Kept | None = None
) -> Version:
    """Write an artifact; one request if what is there is at the version `replaces`.

    Whatever is there is replaced, unless `kept`, of which the file is the copy, was logged before
    that was written: then BucketError.
    """
    while True:
        try:
            return bucket.write(key, file, expected=replaces)
        except ConflictError as error:
            there = bucket.stat(key)
            if kept and there and _not_before(there.updated_ms) > kept.logged_ms:
                # Kept all the same: should one of the two clocks be wrong, nothing is lost.
                problem = "somebody else has written it since this copy was made"
                hint = f"Delete {kept.folder}, or put its {kept.content.name} there yourself."
                raise BucketError(f"sending {kept.place}", problem, hint) from error
            replaces = there.version if there else ABSENT


def _not_before(updated_ms: int) -> int:
    """Return the last moment that may be meant: services of S3 tell whole seconds."""
    return updated_ms if updated_ms % 1000 else updated_ms + 999


class Uploads:
    """Uploads this process's artifacts, wherever to; its runs are tracked in `bucket_uri`."""

    def __init__(self, bucket_uri: str) -> None:
        self.bucket_uri = bucket_uri
        self._buckets: dict[tuple[str, float], Bucket] = {}
        self._lock = threading.Lock()
        self._waiting: dict[Place, Kept] = {}
        self._written: dict[Place, Version] = {}
        self._unreachable: set[str] = set()
        """Buckets that the training does not wait for again until a retry has got through."""
        self._folders: dict[Path, tuple[Path, TextIO]] = {}
        """This process's folder in each outbox that it needed, and the file that marks it so."""
        self._sending = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closing = False

    def bucket(self, uri: str, patience: float = 120.0) -> Bucket:
        """Return a bucket that artifacts are in; `patience` is in seconds."""
        known = self._buckets.get((uri, patience))
        opened = known or open_bucket(uri, patience=patience)
        return self._buckets.setdefault((uri, patience), opened)

    def waiting(self, bucket: str, prefix: str) -> list[Kept]:
        """Return what is not in a bucket yet, of what belongs under a prefix."""
        with self._lock:
            return [
                kept
                for place, kept in self._waiting.items()
                if place.bucket == bucket and place.key.startswith(prefix)
            ]

    def upload(self, file: Path, place: Place, later: bool) -> None:
        """Upload a file, or keep it to be sent later if that is allowed.

        Raises OSError if the file cannot be read; BucketError if it may not be kept, or the bucket
        refuses it for a reason that no waiting mends.
        """
        with file.open("rb"):
            pass  # what is wrong with the file itself is not the bucket's fault
        if not later:
            write_artifact(self.bucket(place.bucket, PATIENCE), place.key, file, ABSENT)
            return
        why = f"{place.bucket} cannot be reached."
        if place.bucket not in self._unreachable:
            try:
                self._put(file, place)
                return
            except MENDABLE as error:
                if isinstance(error, BucketUnavailableError):
                    self._unreachable.add(place.bucket)
                why = str(error)
        self._keep(file, place, why)

    def forget(self, kept: Kept) -> None:
        """Give up a kept file."""
        with self._lock:
            if self._waiting.get(kept.place) is kept:
                del self._waiting[kept.place]
        remove(kept.folder)

    def _put(self, file: Path, place: Place) -> None:
        with self._lock:
            older = self._waiting.pop(place, None)
        try:
            bucket, replaces = self.bucket(place.bucket, PATIENCE), self._written.get(place, ABSENT)
            version = write_artifact(bucket, place.key, file, replaces)
        except BaseException:
            with self._lock:
                if older:
                    self._waiting.setdefault(place, older)
            raise
        with self._lock:
            self._written[place] = version
        if older:
            remove(older.folder)

    # -- keeping ------------------------------------------------------------------------------

    def _keep(self, file: Path, place: Place, why: str) -> None:
        try:
            kept = self._keep_somewhere(file, place)
        except OSError as error:
            self._unreachable.discard(place.bucket)  # nothing waits that would find it out
            _log.warning("%s is lost: %s And it cannot be kept here: %s.", place, why, error)
            return
        with self._lock:
            first = not self._waiting
            older = self._waiting.pop(place, None)
            self._waiting[place] = kept
            if self._thread is None and not self._closing:
                name = "kaggleops-artifacts"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
        if older:
            remove(older.folder)
        if first:
            _log.warning("%s Nothing is lost: artifacts are kept here and sent later.", why)
        if self._closing:
            self.close()

    def _keep_somewhere(self, file: Path, place: Place) -> Kept:
        usual, *spare = outboxes(self.bucket_uri)
        replaces = self._written.get(place, ABSENT)
        try:
            return keep(file, self._folder(usual), place, replaces)
        except OSError:
            for home in spare:
                # Those may be in memory: a quarter of what is free, the training needs the rest.
                if file.stat().st_size * 4 < shutil.disk_usage(home.parents[2]).free:
                    with suppress(OSError):
                        return keep(file, self._folder(home), place, replaces)
            raise

    def _folder(self, home: Path) -> Path:
        with self._lock:
            if not self._folders and multiprocessing.parent_process() is not None:
                # A child of multiprocessing ends without the interpreter's exit handlers.
                multiprocessing.util.Finalize(None, self.close, exitpriority=1)
            if home not in self._folders:
                with new_folder(home) as made:
                    self._folders[home] = made
            return self._folders[home][0]

    # -- sending ------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._wake.wait(pause):
            pause = FIRST_PAUSE if self._send() else min(LONGEST_PAUSE, pause * 2)
            with self._lock:
                if self._waiting:
                    continue
                self._thread = None  # the next file that is kept starts another
            _log.warning("Every artifact that was kept is in its bucket now.")
            return

    def _send(self) -> int:
        """Try each kept file once, the oldest first; return how many were sent."""
        sent = 0
        failed: set[str] = set()
        with self._sending:
            with self._lock:
                every = list(self._waiting.items())
            for place, kept in every:
                if place.bucket in failed:
                    continue  # the others would wait as long, and fail as well
                with self._lock:
                    if self._waiting.get(place) is not kept:
                        continue  # something newer has come
                    # Not what the manifest says: an older file may have arrived meanwhile.
                    replaces = self._written.get(place, ABSENT)
                bucket = self.bucket(place.bucket, PATIENCE)
                try:
                    version = write_artifact(bucket, place.key, kept.content, replaces, kept)
                except BucketUnavailableError:
                    failed.add(place.bucket)
                except BucketError:
                    pass  # said when it was kept, and again at exit or by `kaggleops push`
                else:
                    sent += 1
                    with self._lock:
                        self._unreachable.discard(place.bucket)
                        self._written[place] = version
                    self.forget(kept)
        return sent

    # -- the end ------------------------------------------------------------------------------

    def close(self) -> None:
        """Send what is left, and say what could not be sent."""
        self._closing = True
        self._wake.set()
        self._send()
        if not self._folders:
            return
        unsent = [str(place) for place in self._waiting]
        if not unsent:
            for folder, owner in self._folders.values():
                remove(folder)
                owner.close()
            self._folders.clear()
            return
        more = f" and {len(unsent) - 3} more" if len(unsent) > 3 else ""
        folders = sorted({str(kept.folder.parent) for kept in self._waiting.values()})
        sys.stderr.write(
            f"kaggleops: not uploaded: {printable(', '.join(unsent[:3]))}{more}. Kept in "
            f"{' and '.join(folders)}. Send it with: kaggleops push --bucket {self.bucket_uri}\n"
        )


def close_all() -> None:
    """End the uploads of this process."""
    for each in list(_all.values()):
        each.close()


def _after_fork_in_child() -> None:
    # What is kept is the parent's to send.
    global _all_lock
    _all_lock = threading.Lock()
    for each in _all.values():
        for _, owner in each._folders.values():
            owner.close()
    _all.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
