"""Keeps an index up to date: every 5 s while somebody is looking, every 5 minutes otherwise.

1. A request after a pause makes it poll at once.
2. A bucket or a database out of reach is reported once, retried ever more slowly, and ends nothing.
3. Any other failure ends the process, so that it is started again: an index that silently stays as
   it was is worse than a server that is away for seconds.
4. Of the processes that serve an index, the one that holds its lock refreshes it. The operating
   system, or the database, takes that back from a process that dies.
"""

import contextlib
import fcntl
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from kaggleops.bucket import open_bucket
from kaggleops.errors import KaggleOpsError
from kaggleops.index.refresh import LISTING_EVERY, Index
from kaggleops.mlruns import EntityStore
from kaggleops.platforms.folders import private_file
from kaggleops.server.health import NoticeBoard
from kaggleops.server.settings import Settings
from kaggleops.tracking.live import IDLE_LOOK, WATCHED_LOOK

WATCHED_FOR_SECONDS = 120.0
"""How long after a request somebody is looking; an open page of the UI asks every 30 s."""

_LONGEST_RETRY = 60.0


class Schedule:
    """When to poll the bucket, by a monotonic clock in seconds. `somebody_looks` is thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._listed = self._last
        self._looked = self._last - WATCHED_FOR_SECONDS
        self._retry = 0.0

    def somebody_looks(self) -> None:
        """Note a request."""
        self._looked = self._clock()

    @property
    def watched(self) -> bool:
        """Whether somebody is looking."""
        return self._clock() < self._looked + WATCHED_FOR_SECONDS

    @property
    def pace(self) -> float:
        """Seconds between two polls."""
        return self._retry or (WATCHED_LOOK if self.watched else IDLE_LOOK)

    @property
    def due(self) -> bool:
        """Whether it is time to poll."""
        return self._clock() >= self._last + self.pace

    @property
    def waiting_to_retry(self) -> bool:
        """Whether the last poll failed, and it is too early for another one."""
        return bool(self._retry) and not self.due

    @property
    def listing_due(self) -> bool:
        """Whether it is time to list the bucket, for what was not announced."""
        return self._clock() >= self._listed + LISTING_EVERY

    def succeeded(self, *, listed: bool) -> None:
        """Note a poll."""
        self._last = self._clock()
        self._retry = 0.0
        if listed:
            self._listed = self._last

    def failed(self) -> None:
        """Note a failed poll; the next ones come ever more slowly."""
        self._last = self._clock()
        self._retry = min(max(2 * self._retry, WATCHED_LOOK), _LONGEST_RETRY)


_LOCK = 0x6B6167676C656F70  # "kaggleop": a database's advisory locks are numbers


def refresh_lock(url: str) -> "_FileLock | _DatabaseLock":
    """Return the lock for refreshing an index: `held()` takes it if nobody has it."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _FileLock(Path(f"{parsed.database}.lock"))
    return _DatabaseLock(parsed)


class _FileLock:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def held(self) -> bool:
        if self._file is None:
            file = private_file(self._path).open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return False
            self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _DatabaseLock:
    def __init__(self, url: sa.URL) -> None:
        # The lock belongs to a connection, which is kept.
        self._engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        self._connection: sa.Connection | None = None

    def held(self) -> bool:
        if self._connection is None:
            connection = self._engine.connect()
            if not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_LOCK))):
                connection.close()
                return False
            self._connection = connection
        try:
            self._connection.scalar(sa.select(1))
        except SQLAlchemyError:  # the connection broke, and the lock with it
            self.release()
            return False
        return True

    def release(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None


_TICK = 1.0  # seconds
_PATIENCE = 10.0  # seconds; then the bucket is out of reach

_log = logging.getLogger("kaggleops")


class Refresher:
    """A thread that refreshes an index while no other process does.

    Args:
        settings: the index and the bucket.
        board: where to post how that goes.
        on_failure: called if the thread dies.
    """

    def __init__(
        self, settings: Settings, board: NoticeBoard, on_failure: Callable[[], object]
    ) -> None:
        self._settings = settings
        self._board = board
        self._on_failure = on_failure
        self._lock = refresh_lock(settings.index)
        self._index: Index | None = None
        self._schedule = Schedule()
        self._looks = board.looks()
        self._told = -WATCHED_FOR_SECONDS
        self._posted = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="refresher", daemon=True)
        self._ending = False
        self._wake = threading.Event()
        self.notice = board.read()
        """How it goes, as far as this process knows."""

    def start(self) -> None:
        """Start."""
        self._thread.start()

    def stop(self) -> None:
        """End after the current poll, unless that takes long."""
        self._ending = True
        self._wake.set()
        self._thread.join(_PATIENCE)

    def somebody_looks(self) -> None:
        """Note a request, at once and from any thread."""
        was_idle = not self._schedule.watched
        self._schedule.somebody_looks()
        if was_idle:
            self._wake.set()

    def _run(self) -> None:
        try:
            while not self._ending:
                try:
                    self._turn()
                except (KaggleOpsError, SQLAlchemyError) as error:
                    self._in_trouble(error)
                self._wake.wait(_TICK)
                self._wake.clear()
            self._lock.release()
        except BaseException:
            _log.exception("The thread that refreshes the index has died")
            self._on_failure()
            raise

    def _turn(self) -> None:
        if self._schedule.waiting_to_retry:
            return
        if not self._lock.held():
            self._follow()
            return
        looks = self._board.looks()
        if looks != self._looks:
            self._looks = looks
            self._schedule.somebody_looks()
        if self._schedule.due or (self._index is None and self._left_behind()):
            self._refresh()

    def _left_behind(self) -> bool:
        """Return whether whoever refreshed the index before was not done with it."""
        left = self._board.read()
        if left.fresh and not (left.total or left.trouble):
            return False
        self.notice = left
        return True

    def _follow(self) -> None:
        """Post visits to the process that refreshes the index, and read how that goes."""
        now = time.monotonic()
        if self._schedule.watched and now > self._told + WATCHED_FOR_SECONDS / 4:
            self._told = now
            self._board.post_look()
        self.notice = self._board.read()

    def _refresh(self) -> None:
        if self._index is None:
            bucket = open_bucket(self._settings.bucket, patience=_PATIENCE)
            self._index = Index(self._settings.index, EntityStore(bucket))
        refreshed = self._index.refresh(self._heard, full=self._schedule.listing_due)
        self._schedule.succeeded(listed=refreshed.listed)
        if self.notice.trouble:
            _log.warning("The index is up to date again.")
        pace = self._schedule.pace
        self.notice = replace(self.notice, fresh=time.time(), trouble="", pace=pace, total=0)
        self._board.post(self.notice)

    def _heard(self, done: int, total: int) -> None:
        left = total if done < total else 0
        self.notice = replace(self.notice, heard=time.time(), done=done, total=left)
        if left and time.monotonic() > self._posted + _TICK:
            self._posted = time.monotonic()
            self._board.post_at_once(self.notice)

    def _in_trouble(self, error: Exception) -> None:
        if not self.notice.trouble:
            _log.warning("The index cannot be updated for now: %s", error)
        self._schedule.failed()
        # Kept here first: the trouble may be the database itself.
        self.notice = replace(self.notice, trouble=str(error), pace=self._schedule.pace)
        with contextlib.suppress(SQLAlchemyError):
            self._board.post(self.notice)
