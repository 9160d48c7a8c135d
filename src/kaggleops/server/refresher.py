"""Keeps an index up to date: every 5 s while somebody is looking, every 5 minutes otherwise.

1. A request after a pause makes it poll at once.
2. A bucket or a database out of reach is reported once, retried ever more slowly, and ends nothing.
3. Any other failure ends the process, so that it is started again: an index that silently stays as
   it was is worse than a server that is away for seconds.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from kaggleops.bucket import BucketUnavailableError, open_bucket
from kaggleops.errors import KaggleOpsError
from kaggleops.index.refresh import LISTING_EVERY, Index
from kaggleops.mlruns import EntityStore
from kaggleops.reports.history import History
from kaggleops.server.address import progress_line
from kaggleops.server.settings import Settings
from kaggleops.tracking.live import IDLE_LOOK, WATCHED_LOOK

WATCHED_FOR_SECONDS = 120.0
"""How long after a request somebody is looking; an open page of the UI asks every 30 s."""

_LONGEST_RETRY = 60.0


class Schedule:
    """When to poll the bucket, by a monotonic clock in seconds. `somebody_looks` is thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = self._looked = -math.inf
        self._listed = clock()
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
        """Whether it is time to poll: at first, at once."""
        return self._clock() >= self._last + self.pace

    @property
    def listing_due(self) -> bool:
        """Whether it is time to list the bucket, for what was not announced."""
        return self._clock() >= self._listed + LISTING_EVERY

    def succeeded(self, *, listed: bool) -> None:
        """Note a poll."""
        self._last, self._retry = self._clock(), 0.0
        if listed:
            self._listed = self._last

    def failed(self) -> None:
        """Note a failed poll; the next ones come ever more slowly."""
        self._last = self._clock()
        self._retry = min(max(2 * self._retry, WATCHED_LOOK), _LONGEST_RETRY)


@dataclass(frozen=True)
class Notice:
    """How refreshing the index goes."""

    fresh: float = 0.0  # when it was last up to date, in seconds since the epoch; 0 for never
    heard: float = 0.0  # when the bucket last answered, likewise
    trouble: str = ""  # what has kept it from being up to date since then, or ""
    pace: float = 0.0  # seconds between two polls
    # while it is being brought up to date, how many runs, experiments and models were looked at
    done: int = 0
    total: int = 0  # … of how many; 0 when it is up to date

    @property
    def progress(self) -> str:
        """What is there and what is still to come, as a sentence; "" when all is there."""
        return progress_line(self.done, self.total) if self.total else ""


_TICK = 1.0  # seconds
_PATIENCE = 30.0  # seconds; then the bucket is out of reach
_TO_STOP = 10.0  # seconds for a poll that is under way
_BETWEEN_REPORTS = 0.25  # seconds

_log = logging.getLogger("kaggleops")


class Refresher:
    """A thread that makes an index and refreshes it.

    Args:
        settings: the index and the bucket.
        tell: called with what it has found until all is in, as `supervisor.Found` has it.
        on_failure: called if the thread dies: with why nothing can be served, if that is known.
    """

    def __init__(
        self,
        settings: Settings,
        tell: Callable[..., object],
        on_failure: Callable[[KaggleOpsError | None], object],
    ) -> None:
        self._settings = settings
        self._tell = tell
        self._on_failure = on_failure
        self._schedule = Schedule()
        self._complete = False
        self._next_report = 0.0
        self._thread = threading.Thread(target=self._run, name="refresher", daemon=True)
        self._ending = False
        self._wake = threading.Event()
        self.begun = threading.Event()
        """Set when there is an index, as far as it goes."""
        self.notice = Notice()
        """How it goes."""

    def start(self) -> None:
        """Start."""
        self._thread.start()

    def stop(self) -> None:
        """End after the current poll, unless that takes long."""
        self._ending = True
        self._wake.set()
        self._thread.join(_TO_STOP)

    def somebody_looks(self) -> None:
        """Note a request, at once and from any thread."""
        was_idle = not self._schedule.watched
        self._schedule.somebody_looks()
        if was_idle:
            self._wake.set()

    def _run(self) -> None:
        try:
            self._begin()
            while not self._ending:
                if self._schedule.due:
                    try:
                        self._refresh()
                    except (KaggleOpsError, SQLAlchemyError) as error:
                        self._in_trouble(error)
                self._wake.wait(_TICK)
                self._wake.clear()
        except BaseException as error:
            known = error if isinstance(error, KaggleOpsError) and not self._complete else None
            if known is None:
                _log.exception("The thread that refreshes the index has died")
            self._on_failure(known)
            raise

    def _begin(self) -> None:
        store = EntityStore(open_bucket(self._settings.bucket, patience=_PATIENCE))
        away: KaggleOpsError | None = None
        try:
            if self._settings.again:
                store.bucket.expect()
            else:
                store.check()  # a mistyped address is an error before anything is made for it
        except BucketUnavailableError as error:
            away = error
        self._index = Index(self._settings.index, store)
        engine = sa.create_engine(self._settings.index, pool_pre_ping=True, pool_size=1)
        self._history = History(engine, lambda: store)
        if away and self._history.last_experiment() is None:
            raise away
        self.begun.set()

    def _refresh(self) -> None:
        refreshed = self._index.refresh(self._heard, full=self._schedule.listing_due)
        self._schedule.succeeded(listed=refreshed.listed)
        if self.notice.trouble:
            _log.warning("The index is up to date again.")
        pace = self._schedule.pace
        self.notice = replace(self.notice, fresh=time.time(), trouble="", pace=pace, total=0)
        self._has_looked()

    def _has_looked(self, warning: str = "") -> None:
        """Say once what all that is there comes to."""
        if not self._complete:
            self._complete = True
            experiment, problems = self._history.last_experiment(), len(self._index.problems())
            self._tell(complete=True, warning=warning, experiment=experiment, problems=problems)

    def _heard(self, done: int, total: int) -> None:
        left = total if done < total else 0
        self.notice = replace(self.notice, heard=time.time(), done=done, total=left)
        now = time.monotonic()
        if not self._complete and (not left or now >= self._next_report):
            self._next_report = now + _BETWEEN_REPORTS
            experiment = self._history.last_experiment() if done else None
            self._tell(done=done, total=total, experiment=experiment)

    def _in_trouble(self, error: Exception) -> None:
        if not self._complete:
            if self._history.last_experiment() is None and not self._settings.again:
                raise error  # nothing can be served, now or before
            warning = f"{error} What the index has is served, and the bucket is asked again."
            self._has_looked(warning)
        elif not self.notice.trouble:
            _log.warning("The index cannot be updated for now: %s", error)
        self._schedule.failed()
        self.notice = replace(self.notice, trouble=str(error), pace=self._schedule.pace)
