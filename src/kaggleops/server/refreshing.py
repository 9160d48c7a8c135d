"""Keeps an index fresh: often while somebody looks, seldom while nobody does.

1. A request that comes after a pause lets it look at once.
2. A bucket or a database out of reach is said once, retried ever more slowly, and ends nothing.
3. Anything else that goes wrong ends the process, so that it is started again: an index that
   silently stays as it was is worse than a server that is away for seconds.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from kaggleops.bucket import open_bucket
from kaggleops.errors import KaggleOpsError
from kaggleops.index import Index
from kaggleops.mlruns import EntityStore
from kaggleops.server.leading import Leadership
from kaggleops.server.notices import NoticeBoard
from kaggleops.server.schedule import WATCHED_FOR_SECONDS, Schedule
from kaggleops.server.settings import Settings

_TICK = 1.0  # seconds
_PATIENCE = 10.0  # seconds; then it is said that the bucket is out of reach

_log = logging.getLogger("kaggleops")


class Refresher:
    """A thread that refreshes an index, while no other process does.

    Args:
        settings: which index of which bucket.
        board: where it is posted how that goes.
        on_failure: called when the thread has died.
    """

    def __init__(
        self, settings: Settings, board: NoticeBoard, on_failure: Callable[[], object]
    ) -> None:
        self._settings = settings
        self._board = board
        self._on_failure = on_failure
        self._leadership = Leadership(settings.index)
        self._index: Index | None = None
        self._schedule = Schedule()
        self._looks = board.looks()
        self._told = -WATCHED_FOR_SECONDS
        self._thread = threading.Thread(target=self._run, name="refresher", daemon=True)
        self._ending = False
        self._wake = threading.Event()
        self.notice = board.read()
        """How it goes, as far as this process knows."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, after what is being done right now unless that takes long."""
        self._ending = True
        self._wake.set()
        self._thread.join(_PATIENCE)

    def somebody_looks(self) -> None:
        """Take note of a request. Any thread may call this, and it returns at once."""
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
            self._leadership.release()
        except BaseException:
            _log.exception("The thread that refreshes the index has died")
            self._on_failure()
            raise

    def _turn(self) -> None:
        if self._schedule.waiting_to_retry:
            return
        if not self._leadership.held():
            self._follow()
            return
        looks = self._board.looks()
        if looks != self._looks:
            self._looks = looks
            self._schedule.somebody_looks()
        if self._schedule.due:
            self._refresh()

    def _follow(self) -> None:
        """Tell whoever refreshes the index that somebody looks here, and hear how that goes."""
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
            _log.warning("The index is fresh again.")
        pace = self._schedule.pace
        self.notice = replace(self.notice, fresh=time.time(), trouble="", pace=pace)
        self._board.post(self.notice)

    def _heard(self, *_: int) -> None:
        self.notice = replace(self.notice, heard=time.time())

    def _in_trouble(self, error: Exception) -> None:
        if not self.notice.trouble:
            _log.warning("The index stays as it is for now: %s", error)
        self._schedule.failed()
        # First here: the trouble may be the database itself.
        self.notice = replace(self.notice, trouble=str(error), pace=self._schedule.pace)
        with contextlib.suppress(SQLAlchemyError):
            self._board.post(self.notice)
