"""How many operations a run and a server ask of a bucket: a model of what tracking does.

It steps through the same schedule (tracking/schedule.py) that a live run follows. That it counts
what really happens is what benchmarks/bench_operations.py shows.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from kaggleops.mlruns.changes import seconds_open
from kaggleops.mlruns.layout import Kind
from kaggleops.tracking.schedule import beat_interval, flush_interval

IDLE_LOOK_SECONDS = 300.0
"""How often a server that nobody looks at asks for changes."""

WATCHED_LOOK_SECONDS = 5.0
"""How often it does while somebody looks."""

LISTED_AT_ONCE = 1000
"""Objects that one operation lists."""

MONTH = 30 * 24 * 3600.0


_TOGETHER = 10.0
"""Seconds; what is logged so soon after a flush goes with it in this model."""


@dataclass(frozen=True)
class Operations:
    """Operations of class A (writes, listings) and B (reads)."""

    class_a: float = 0
    class_b: float = 0

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(self.class_a + other.class_a, self.class_b + other.class_b)

    def __mul__(self, times: float) -> "Operations":
        return Operations(self.class_a * times, self.class_b * times)


def of_run(seconds: float, logged: Iterable[float]) -> Operations:
    """Return what a run's own process asks of the bucket.

    Args:
        seconds: how long it takes.
        logged: when something is logged, in seconds since its start.
    """
    # Announced, created, its final status, closed; its experiment looked at.
    writes, looks = 4, 2
    waiting = deque(sorted(logged))
    written = seen = 0.0
    while True:
        flush = max(waiting[0], written + flush_interval(written)) if waiting else math.inf
        write = min(flush, written + beat_interval(written))
        look = seen + flush_interval(seen)  # at a flush that sends nothing
        now = write if write <= look + _TOGETHER else look
        if now >= seconds:
            break
        seen = now
        if now < write:
            looks += 1
            continue
        writes += 1
        written = now
        while waiting and waiting[0] <= now:
            waiting.popleft()
    renewals = int(seconds // (seconds_open(Kind.RUN) / 2))
    # Before each write of the run the change log is looked at.
    return Operations(writes + renewals, looks + writes)


def of_idle_server(seconds: float = MONTH, live_run_seconds: float = 0.0) -> Operations:
    """Return what a server asks that nobody looks at: the change log, and each live run.

    Args:
        seconds: for how long.
        live_run_seconds: how long runs were live meanwhile, all together.
    """
    daily_listings = seconds / (24 * 3600)
    return Operations(daily_listings, (seconds + live_run_seconds) / IDLE_LOOK_SECONDS)
