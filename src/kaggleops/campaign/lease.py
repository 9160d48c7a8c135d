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
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
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
class Holder:
    """Who holds the lease."""

    id: str  # drawn at random by each watcher
    host: str
    pid: int
    version: str  # of its program
    place: str = ""  # of the state folder whose lock it holds
    seconds: float = SECONDS
    format: int = FORMAT

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (KaggleOps {self.version})"


class NotLeadingError(KaggleOpsError):
    """The lease is another's by now: nothing more is done in this turn."""


class Lease:
    """One watcher's hold on a bucket. Not thread-safe.

    Args:
        bucket: which.
        clock: this machine's clocks in seconds, as `change_log` has them: one that cannot be set,
            and the time since the epoch. The one stands still while the machine sleeps, the other
            can be set.
    """

    def __init__(self, bucket: Bucket, clock: Callable[[], Moment]) -> None:
        self._bucket = bucket
        self._clock = clock
        place = hashlib.sha256(bucket.uri.encode()).hexdigest()[:12]
        self._lock_path = state_folder() / "watch" / f"{place}.lock"
        self._lock: IO[str] | None = None
        self._id = secrets.token_hex(8)
        self._since: Moment | None = None  # when the last write that succeeded was begun
        self._version: Version = ABSENT
        # what was last seen of another's, and since when it is at that version
        self._seen: tuple[Version, Moment, int] = (ABSENT, (), 0)
        self.holder: Holder | None = None
        """Who else holds it, as far as is known."""
        self.problem = ""
        """Why it cannot be had, where nobody of this program's version holds it."""

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
            return self._renew() if self._since is not None else self._take()
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
        """Who else holds it, or why it cannot be had."""
        return self.problem or (str(self.holder) if self.holder else "")

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

    def _renew(self) -> bool:
        try:
            return self._write(self._version)
        except ConflictError:  # it ran out, or somebody deleted it
            self._since = None
            return self._take()

    def _take(self) -> bool:
        found, taken = self._look()
        if taken:
            return False
        try:
            return self._write(found)
        except ConflictError:  # somebody else was faster
            self._look()
            return False

    def _write(self, expected: Version) -> bool:
        began = self._clock()
        host, pid = socket.gethostname(), os.getpid()
        mine = Holder(self._id, host, pid, version("kaggleops"), self._place())
        # No two writes are alike: on S3 what has the same content keeps its version.
        content = json.dumps({**asdict(mine), "at": began[-1]}).encode()
        self._version = self._bucket.write(WATCHER_KEY, content, expected=expected)
        self._since, self.holder, self.problem = began, None, ""
        return True

    def _look(self) -> tuple[Version, bool]:
        """Return at which version it is, and whether somebody else holds it at that."""
        version, since, written_ms = self._seen
        known = self.holder or self.problem
        try:
            found = self._bucket.read(
                WATCHER_KEY, unless=version if known else None, at_most=_MAX_BYTES
            )
        except ObjectNotFoundError:
            self.holder, self.problem = None, ""
            return ABSENT, False
        except ObjectTooLargeError as error:
            self.holder, self.problem = None, ""
            return error.version, False
        if found is not None:
            entry = self._bucket.stat(WATCHER_KEY)
            written_ms = entry.updated_ms if entry and entry.version == found.version else 0
            version, since = found.version, self._clock()
            self._seen = version, since, written_ms
            self._read(found.data)
        if self.problem:
            return version, True
        if self.holder is None:
            return version, False
        if self.holder.id == self._id:  # a write of ours whose answer was lost
            return version, False
        if self._lock and self.holder.place and self.holder.place == self._place():
            return version, False  # it would hold this machine's lock: it is dead
        seconds = self.holder.seconds
        old = written_ms and self._clock()[-1] - written_ms / 1000 > 2 * seconds
        return version, not (old or self._age(since) > seconds)

    def _read(self, data: bytes) -> None:
        self.holder, self.problem = None, ""
        try:
            told = json.loads(data)
            if told["format"] != FORMAT:
                self.problem = (
                    f"{str(told.get('host', 'a machine'))[:60]} holds the lease {WATCHER_KEY} with "
                    f"another version of KaggleOps, {str(told.get('version', 'unknown'))[:20]}"
                )
                return
            self.holder = Holder(
                id=str(told["id"])[:64],
                host=str(told["host"])[:60],
                pid=int(told["pid"]),
                version=str(told["version"])[:20],
                place=str(told["place"])[:64],
                seconds=min(max(1.0, float(told["seconds"])), _LONGEST),
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return  # it is no lease: the next one is written over it

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
        if not lock.read().strip():
            lock.write(secrets.token_hex(16))
            lock.flush()
        self._lock = lock
        return True

    def _place(self) -> str:
        with suppress(OSError):
            return self._lock_path.read_text().strip()
        return ""
