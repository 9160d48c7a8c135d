"""When a process talks to its bucket about a run: functions of the run's age. All in seconds.

Each request costs money, or a share of a free allowance: a write 20 times as much as a look. So
what changes often is sent often while a run is young, when people watch it, and less often later;
and a run that logs nothing for an hour still beats and still notices that it was cancelled.
"""

import os

from kaggleops.errors import UsageError

MINUTE = 60.0

IDLE_LOOK = 5 * MINUTE
"""How often a server that nobody looks at asks what has changed."""

WATCHED_LOOK = 5.0
"""How often it does while somebody looks."""


def flush_interval(age: float) -> float:
    """How long a logged value may stay away from the bucket: what a `kill -9` can cost.

    10 s at first, growing to a minute within the first hour; KAGGLEOPS_FLUSH_SECONDS fixes it.
    """
    return _fixed() or _between(10, age / 60, MINUTE)


def watch_interval(age: float) -> float:
    """After how long without any write to look whether somebody else changed the run.

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


def _fixed() -> float | None:
    given = os.environ.get("KAGGLEOPS_FLUSH_SECONDS")
    if not given:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        problem = f"{given!r} is not a number of seconds"
        hint = "Set it to the longest time that a value may stay away from the bucket, such as 30."
        raise UsageError("reading KAGGLEOPS_FLUSH_SECONDS", problem, hint)
    return seconds
