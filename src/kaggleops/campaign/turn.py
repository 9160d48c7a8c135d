"""One turn of a watcher: when it began, what it found and did, and what went wrong."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kaggleops.bucket import Bucket, BucketError
from kaggleops.campaign.lease import Lease, NotLeadingError
from kaggleops.errors import explained

if TYPE_CHECKING:
    from kaggleops.campaign.placement import Decision
    from kaggleops.campaign.state import SweepState

QUICK, QUIET, IDLE = 5.0, 60.0, 120.0
"""Seconds between two turns: where jobs begin and end, where nothing happens, without a sweep."""

_LONGEST_LINE = 1000


class Clock:
    """The time, as a watcher reads it."""

    def now(self) -> datetime:
        """Return the time of day."""
        return datetime.now(UTC)

    def steady(self) -> float:
        """Return seconds by a clock that nobody sets."""
        return time.monotonic()

    def moment(self) -> tuple[float, ...]:
        """Return both, as the lease wants them."""
        return self.steady(), self.now().timestamp()


@dataclass(frozen=True)
class Context:
    """What each part of a watcher works with."""

    uri: str  # the bucket's tracking URI
    bucket: Bucket
    lease: Lease  # asked for before each act; NotLeadingError says that it is another's
    clock: Clock


@dataclass
class Turn:
    """What one turn found and did."""

    read: bool = False  # whether the bucket could be read
    leading: bool = False  # whether this watcher may act
    holder: str = ""  # who else may, or why nobody
    sweeps: "list[SweepState]" = field(default_factory=list)
    decisions: "dict[str, Decision]" = field(default_factory=dict)  # of the jobs that waited
    granted: dict[str, float] = field(default_factory=dict)  # dollars at most, by sweep
    acted: bool = False  # whether anything was written
    stale: bool = False  # whether what was read is not how it is any more
    done: list[str] = field(default_factory=list)  # a line for each act that people want to see
    problems: list[str] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)  # what each sweep waits for
    over_budget: set[str] = field(default_factory=set)  # the sweeps whose budget is reached
    over: dict[str, str] = field(default_factory=dict)  # the sweeps that end, and how
    pause: float = QUIET  # seconds until the next one

    @contextmanager
    def isolated(self, state: "SweepState | None" = None) -> Iterator[None]:
        """Name what is wrong with a sweep, and go on with the others."""
        try:
            yield
        except (NotLeadingError, BucketError):
            raise
        except Exception as raised:
            error = explained(raised)
            if isinstance(error, NotLeadingError | BucketError):
                raise error from raised
            self.problems.append(f"sweep {state.id}: {told(raised)}" if state else told(raised))
            self.stale = True


def told(raised: Exception) -> str:
    """Return one line about what was raised."""
    error = explained(raised)
    said = str(error) if error else f"{type(raised).__name__}: {raised}"
    return " ".join(said.split())[:_LONGEST_LINE]
