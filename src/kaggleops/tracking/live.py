"""The runs that this process is the runner of: it beats for them, and stops when they are killed.

A process is a run's runner from when it creates or resumes it, or logs a metric to it while it
runs, until it ends it.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from kaggleops.mlruns import EntityId
from kaggleops.tracking.schedule import beat_interval, watch_interval


@dataclass
class _Live:
    since: float
    beat: float
    """When it was last written, so that others know that it is alive."""
    seen: float
    """When it was last written or looked at, so that this process knows what others made of it."""


class LiveRuns:
    """Which runs are live here, and when each is due for a word with the bucket.

    Args:
        clock: the time in seconds, never set back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._runs: dict[EntityId, _Live] = {}

    def __contains__(self, run: EntityId) -> bool:
        return run in self._runs

    @property
    def runs(self) -> list[EntityId]:
        """All of them."""
        with self._lock:
            return list(self._runs)

    def begin(self, run: EntityId) -> None:
        """Take note that this process is the run's runner now."""
        with self._lock:
            now = self._clock()
            self._runs.setdefault(run, _Live(now, now, now))

    def end(self, run: EntityId) -> None:
        """Take note that it is no more."""
        with self._lock:
            self._runs.pop(run, None)

    def written(self, run: EntityId) -> None:
        """Take note that the run was written just now."""
        with self._lock:
            if live := self._runs.get(run):
                live.beat = live.seen = self._clock()

    def looked_at(self, run: EntityId) -> None:
        """Take note that the bucket's version of the run was looked at just now."""
        with self._lock:
            if live := self._runs.get(run):
                live.seen = self._clock()

    def promise(self, run: EntityId) -> float:
        """Within how many seconds a live run is going to be written again, come what may."""
        with self._lock:
            live = self._runs.get(run)
            return beat_interval(self._clock() - live.since) if live else 0.0

    def to_beat(self) -> list[EntityId]:
        """The runs that have to be written by now, although nothing was logged."""
        with self._lock:
            now = self._clock()
            return [
                run
                for run, live in self._runs.items()
                if now - live.beat >= beat_interval(now - live.since)
            ]

    def to_look_at(self) -> list[EntityId]:
        """The runs that somebody else may have changed meanwhile."""
        with self._lock:
            now = self._clock()
            return [
                run
                for run, live in self._runs.items()
                if now - live.seen >= watch_interval(now - live.since)
            ]
