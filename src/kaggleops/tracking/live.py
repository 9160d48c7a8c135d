"""The runs that this process is the runner of, and when it contacts the bucket about each.

A process is a run's runner from when it creates or resumes it, or logs a metric to it while it
runs, until it ends it. It sends heartbeats for the run, and stops when the run is killed.

Each request costs money, or a share of a free allowance: a write 20 times as much as a read. So
what changes often is sent often while a run is young, when people watch it, and less often later;
and a run that logs nothing for an hour still sends heartbeats and still notices that it was
cancelled. All times are in seconds.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kaggleops.errors import UsageError

if TYPE_CHECKING:  # `kaggleops cost` wants the intervals alone, and each command imports that one
    from kaggleops.mlruns import EntityId

MINUTE = 60.0

listeners: list[Callable[[str, Callable[..., None]], None]] = []
"""Called with the id of each run that opens in this process, and with `log_inputs` as MLflow's
stores have it: rooms above this one add themselves."""

IDLE_LOOK = 5 * MINUTE
"""How often a server that nobody looks at asks what has changed."""

WATCHED_LOOK = 5.0
"""How often it does while somebody looks."""


def flush_interval(age: float) -> float:
    """How long a logged value may stay away from the bucket: what a `kill -9` can cost.

    10 s at first, growing to a minute within the first hour; KAGGLEOPS_FLUSH_SECONDS fixes it.
    `age` and what is returned are in seconds. Raises UsageError if that variable is no number.
    """
    given = os.environ.get("KAGGLEOPS_FLUSH_SECONDS")
    if not given:
        return _between(10, age / 60, MINUTE)
    with suppress(ValueError):
        if 0 < (seconds := float(given)) < float("inf"):
            return seconds
    problem = f"{given!r} is not a number of seconds"
    hint = "Set it to the longest time that a value may stay away from the bucket, such as 30."
    raise UsageError("reading KAGGLEOPS_FLUSH_SECONDS", problem, hint)


def output_interval(age: float) -> float:
    """After how long to send what a training has printed since: it is sent as a whole."""
    return 5 * flush_interval(age)


def watch_interval(age: float) -> float:
    """After how long without any write to check whether somebody else changed the run.

    A write that meets no conflict says the same, so a run that logs all the time never looks; one
    that logs nothing looks at each flush, to be stopped within the flush interval if it was killed.
    """
    # A little less, or a look just before a flush would put the next one off by a whole interval.
    return 0.9 * flush_interval(age)


def beat_interval(age: float) -> float:
    """After how long without any other write to say that the run is alive."""
    # Nothing is sent between two flushes.
    return max(flush_interval(age), _between(5 * MINUTE, age / 2, 40 * MINUTE))


def _between(least: float, wanted: float, most: float) -> float:
    return min(most, max(least, wanted))


@dataclass
class _Live:
    since: float
    beat: float  # when it was last written, so that others know that it is alive
    # when it was last written or looked at, so that this process knows what others made of it
    seen: float


class LiveRuns:
    """Which runs are live here, and when each is due for a write or a check."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._runs: dict[EntityId, _Live] = {}

    def __contains__(self, run: "EntityId") -> bool:
        return run in self._runs

    @property
    def runs(self) -> "list[EntityId]":
        """All of them."""
        with self._lock:
            return list(self._runs)

    def begin(self, run: "EntityId") -> None:
        """Record that this process is the run's runner now."""
        with self._lock:
            now = self._clock()
            self._runs.setdefault(run, _Live(now, now, now))

    def end(self, run: "EntityId") -> None:
        """Record that it is not the run's runner any more."""
        with self._lock:
            self._runs.pop(run, None)

    def written(self, run: "EntityId") -> None:
        """Record that the run was written just now."""
        with self._lock:
            if live := self._runs.get(run):
                live.beat = live.seen = self._clock()

    def looked_at(self, run: "EntityId") -> None:
        """Record that the bucket's version of the run was checked just now."""
        with self._lock:
            if live := self._runs.get(run):
                live.seen = self._clock()

    def promise(self, run: "EntityId") -> float:
        """Within how many seconds a live run is going to be written again, come what may."""
        with self._lock:
            live = self._runs.get(run)
            return beat_interval(self._clock() - live.since) if live else 0.0

    def to_beat(self) -> "list[EntityId]":
        """The runs that have to be written by now, although nothing was logged."""
        with self._lock:
            now, runs = self._clock(), self._runs.items()
            return [run for run, at in runs if now - at.beat >= beat_interval(now - at.since)]

    def to_look_at(self) -> "list[EntityId]":
        """The runs that somebody else may have changed meanwhile."""
        with self._lock:
            now, runs = self._clock(), self._runs.items()
            return [run for run, at in runs if now - at.seen >= watch_interval(now - at.since)]
