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
from kaggleops.reports.operations import IDLE_LOOK_SECONDS
from kaggleops.server.leading import Leadership
from kaggleops.server.notices import Notice, NoticeBoard
from kaggleops.server.settings import Settings

WATCHED_LOOK_SECONDS = 5.0
"""How often the server asks for changes while somebody looks."""

WATCHED_FOR_SECONDS = 120.0
"""For how long after a request somebody is taken to look (the UI itself asks every 30 s)."""

_LONGEST_RETRY = 60.0
_TICK = 1.0
_LISTING_EVERY = 24 * 3600.0  # seconds; finds what other programs wrote and did not announce
_PATIENCE = 10.0  # seconds; then it is said that the bucket is out of reach

_log = logging.getLogger(__name__)


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
        self._thread = threading.Thread(target=self._run, name="refresher", daemon=True)
        self._ending = False
        self._wake = threading.Event()
        self._looked_at = self._told_at = time.monotonic() - WATCHED_FOR_SECONDS
        self._looks = board.looks()
        self._last = time.monotonic()
        self._next_listing = self._last + _LISTING_EVERY
        self._retry = 0.0
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
        was_idle = not self._watched
        self._looked_at = time.monotonic()
        if was_idle:
            self._wake.set()

    @property
    def _watched(self) -> bool:
        return time.monotonic() < self._looked_at + WATCHED_FOR_SECONDS

    @property
    def _pace(self) -> float:
        return WATCHED_LOOK_SECONDS if self._watched else IDLE_LOOK_SECONDS

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
        if time.monotonic() < self._last + self._retry:
            return
        if not self._leadership.held():
            self._follow()
            return
        looks = self._board.looks()
        if looks != self._looks:
            self._looks, self._looked_at = looks, time.monotonic()
        if time.monotonic() >= self._last + self._pace:
            self._refresh()

    def _follow(self) -> None:
        """Tell whoever refreshes the index that somebody looks here, and hear how that goes."""
        if self._looked_at > self._told_at + WATCHED_FOR_SECONDS / 4:
            self._told_at = self._looked_at
            self._board.post_look()
        self.notice = self._board.read()

    def _refresh(self) -> None:
        if self._index is None:
            bucket = open_bucket(self._settings.bucket, patience=_PATIENCE)
            self._index = Index(self._settings.index, EntityStore(bucket))
        full = time.monotonic() >= self._next_listing
        self._index.refresh(self._heard, full=full)
        self._last = time.monotonic()
        if full:
            self._next_listing = self._last + _LISTING_EVERY
        if self.notice.trouble:
            _log.warning("The index is fresh again.")
        self._retry = 0.0
        self._post(replace(self.notice, fresh=time.time(), trouble="", pace=self._pace))

    def _heard(self, *_: int) -> None:
        self.notice = replace(self.notice, heard=time.time())

    def _in_trouble(self, error: Exception) -> None:
        if not self.notice.trouble:
            _log.warning("The index stays as it is for now: %s", error)
        self._last = time.monotonic()
        self._retry = min(max(2 * self._retry, WATCHED_LOOK_SECONDS), _LONGEST_RETRY)
        with contextlib.suppress(SQLAlchemyError):  # the trouble may be the database itself
            self._post(replace(self.notice, trouble=str(error), pace=self._retry))

    def _post(self, notice: Notice) -> None:
        self.notice = notice
        self._board.post(notice)
