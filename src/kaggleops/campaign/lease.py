"""The watcher's lease: of all watchers of a bucket, one acts.

It is one object, `mlruns/watcher.json`, written on a condition and with an expiry, as litestream
keeps two replicas apart. Who holds it renews it well before it runs out; who could not stops acting
before anybody else may begin: `held()` is asked before each act. No two machines' clocks are
compared: who waits for it counts from when it first saw this version. Only what is older than twice
its time by the bucket's own account is taken at once.

A watcher that is killed and started again on the same machine need not wait: a file of this
machine's state folder is locked by whoever holds the lease there, and the kernel unlocks it.

Losing the object loses nothing: what is submitted has an id that follows from its sweep, so two
watchers at once would find each other's jobs.
"""

import fcntl
import hashlib
import json
import math
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import IO

from kaggleops.bucket import (
    ABSENT,
    Bucket,
    BucketError,
    ConflictError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    Version,
)
from kaggleops.errors import KaggleOpsError
from kaggleops.layout import WATCHER_KEY
from kaggleops.platforms.folders import private_file, private_folder, state_folder

FORMAT = 1
SECONDS = 900.0
"""For how long it is held without being renewed."""

RENEW_AFTER = 0.4 * SECONDS
"""Seconds. Each renewal is a write: 240 a day, while there is anything to watch."""

_MARGIN = 0.1 * SECONDS  # before the end nothing new is begun: what is begun takes a while
_LONGEST = 3600.0
_MAX_BYTES = 10_000

Moment = tuple[float, ...]


@dataclass(frozen=True)
class _Holder:
    """Who holds the lease, by its object."""

    said: str
    id: str = ""  # drawn at random by each watcher
    place: str = ""  # of the state folder whose lock it holds
    seconds: float = math.inf  # a program of another format's is never taken


class NotLeadingError(KaggleOpsError):
    """The lease is another's by now: nothing more is done in this turn."""


class Lease:
    """One watcher's hold on a bucket. Not thread-safe.

    `clock` tells seconds by two of this machine's clocks, as `change_log` has them: one stands
    still while the machine sleeps, the other (since the epoch) can be set.
    """

    def __init__(self, bucket: Bucket, clock: Callable[[], Moment]) -> None:
        self._bucket = bucket
        self._clock = clock
        place = hashlib.sha256(bucket.uri.encode()).hexdigest()[:12]
        self._lock_path = state_folder() / "watch" / f"{place}.lock"
        self._lock: IO[str] | None = None
        self._place = ""  # what the locked file holds
        self._id = secrets.token_hex(8)
        self._since: Moment | None = None  # when the last write that succeeded was begun
        self._version: Version = ABSENT
        self._holder: _Holder | None = None  # as it was last seen, if that is another one
        # at which version that was, since when, and when it was written by the bucket's account
        self._seen: tuple[Version, Moment, int] = (ABSENT, (), 0)

    def held(self) -> bool:
        """Tell whether this watcher may act now."""
        return self._since is not None and self._age(self._since) < SECONDS - _MARGIN

    def acquire(self) -> bool:
        """Take the lease, or renew it where that is due; tell whether it is held.

        One write at most, and one cheap request where somebody else holds it. Raises BucketError
        if the bucket does not answer, and this watcher does not hold it (any more).
        """
        if self.held() and self._since and self._age(self._since) < RENEW_AFTER:
            return True
        if not self._lock_place():
            self._look()
            return False
        try:
            return self._take()
        except BucketError:
            if self.held():
                return True  # tried again before the next act
            raise

    def require(self) -> None:
        """Take the lease, or renew it; raises NotLeadingError if it is not held now."""
        if not self.acquire() or not self.held():
            raise NotLeadingError("keeping the sweeps going", self.reason)

    @property
    def reason(self) -> str:
        """Who else holds it, "" for nobody."""
        return self._holder.said if self._holder else ""

    def release(self) -> None:
        """Let others have it at once; without an answer of the bucket they wait until it ends."""
        if self._since is not None:
            with suppress(BucketError):
                self._bucket.delete(WATCHER_KEY, expected=self._version)
        self._since = None
        if self._lock:
            self._lock.close()
            self._lock = None

    # -- in the bucket ------------------------------------------------------------------------

    def _take(self) -> bool:
        """Write it: over our own, or, if that ran out or is gone, where nobody else holds it."""
        if self._since is not None:
            try:
                return self._write(self._version)
            except ConflictError:
                self._since = None
        found, taken = self._look()
        try:
            return not taken and self._write(found)
        except ConflictError:  # somebody else was faster
            self._look()
            return False

    def _write(self, expected: Version) -> bool:
        began = self._clock()
        # No two writes are alike: on S3 what has the same content keeps its version.
        told = {
            "format": FORMAT,
            "id": self._id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": version("kaggleops"),
            "place": self._place,
            "seconds": SECONDS,
            "at": began[-1],
        }
        content = json.dumps(told).encode()
        self._version = self._bucket.write(WATCHER_KEY, content, expected=expected)
        self._since, self._holder = began, None
        return True

    def _look(self) -> tuple[Version, bool]:
        """Return at which version it is, and whether somebody else holds it at that."""
        known = self._seen[0] if self._holder else None
        try:
            found = self._bucket.read(WATCHER_KEY, unless=known, at_most=_MAX_BYTES)
        except ObjectNotFoundError:
            self._holder = None
            return ABSENT, False
        except ObjectTooLargeError as error:
            self._holder = None
            return error.version, False
        if found is not None:
            entry = self._bucket.stat(WATCHER_KEY)
            written_ms = entry.updated_ms if entry and entry.version == found.version else 0
            self._seen = found.version, self._clock(), written_ms
            self._holder = _read(found.data)
        there, since, written_ms = self._seen
        if self._holder is None or self._holder.id == self._id:  # a write whose answer was lost
            return there, False
        if self._lock and self._holder.place == self._place:
            return there, False  # it would hold this machine's lock: it is dead
        seconds = self._holder.seconds
        old = written_ms and self._clock()[-1] - written_ms / 1000 > 2 * seconds
        return there, not (old or self._age(since) > seconds)

    def _age(self, since: Moment) -> float:
        return max(now - then for now, then in zip(self._clock(), since, strict=True))

    # -- on this machine ----------------------------------------------------------------------

    def _lock_place(self) -> bool:
        """Be the only watcher of this bucket with this state folder; False if another one is."""
        if self._lock:
            return True
        private_folder(self._lock_path.parent)
        lock = private_file(self._lock_path).open("r+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return False
        self._lock, self._place = lock, lock.read().strip()
        if not self._place:
            self._place = secrets.token_hex(16)
            lock.write(self._place)
            lock.flush()
        return True


def _read(data: bytes) -> _Holder | None:
    """Return who holds the lease; None for what is no lease: the next one is written over it."""
    try:
        told = json.loads(data)
        host, program = (str(told.get(key, "unknown")) for key in ("host", "version"))
        if told["format"] != FORMAT:
            said = f"{host[:60]} holds the lease {WATCHER_KEY} with another version of KaggleOps"
            return _Holder(f"{said}, {program[:20]}")
        said = f"process {int(told['pid'])} on {host[:60]} (KaggleOps {program[:20]})"
        seconds = min(max(1.0, float(told["seconds"])), _LONGEST)
        return _Holder(said, str(told["id"]), str(told["place"]), seconds)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
