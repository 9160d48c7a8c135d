"""When the index is next brought up to date: often while somebody looks, seldom otherwise."""

import time
from collections.abc import Callable

from kaggleops.index.marks import LISTING_EVERY
from kaggleops.tracking.schedule import IDLE_LOOK, WATCHED_LOOK

WATCHED_FOR_SECONDS = 120.0
"""For how long after a request somebody is taken to look; an open page of the UI asks each 30 s."""

_LONGEST_RETRY = 60.0


class Schedule:
    """Says when to look at the bucket. `somebody_looks` may be called from any thread.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._listed = self._last
        self._looked = self._last - WATCHED_FOR_SECONDS
        self._retry = 0.0

    def somebody_looks(self) -> None:
        """Take note of a request."""
        self._looked = self._clock()

    @property
    def watched(self) -> bool:
        """Whether somebody looks."""
        return self._clock() < self._looked + WATCHED_FOR_SECONDS

    @property
    def pace(self) -> float:
        """Seconds from one look to the next."""
        return self._retry or (WATCHED_LOOK if self.watched else IDLE_LOOK)

    @property
    def due(self) -> bool:
        """Whether it is time to look."""
        return self._clock() >= self._last + self.pace

    @property
    def waiting_to_retry(self) -> bool:
        """Whether the last look failed, and it is too early for another one."""
        return bool(self._retry) and not self.due

    @property
    def listing_due(self) -> bool:
        """Whether it is time to list the bucket, for what was written and not announced."""
        return self._clock() >= self._listed + LISTING_EVERY

    def succeeded(self, *, listed: bool) -> None:
        """Take note of a look."""
        self._last = self._clock()
        self._retry = 0.0
        if listed:
            self._listed = self._last

    def failed(self) -> None:
        """Take note of a look that failed; the next ones come ever more slowly."""
        self._last = self._clock()
        self._retry = min(max(2 * self._retry, WATCHED_LOOK), _LONGEST_RETRY)
