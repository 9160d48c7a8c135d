"""What a backend knows of a job that it handed to a platform."""

from dataclasses import dataclass
from datetime import datetime

from mlflow.entities import RunStatus


@dataclass(frozen=True)
class JobState:
    """How far a job is.

    Args:
        status: MLflow's word for it (`SCHEDULED`, `RUNNING`, …), or UNKNOWN.
        said: the platform's own word.
        reason: why it ended so, where the platform says why.
        price: what its machine costs now, in US dollars for an hour; None where nobody pays.
        units: compute units that it uses up in an hour now; None where nobody counts them.
        access: the command that leads into the machine, where there is one.
        unless_begun: what is wrong with it if its run has not begun; the platform cannot know.
    """

    status: str
    said: str
    reason: str = ""
    price: float | None = None
    units: float | None = None
    access: str = ""
    unless_begun: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing will come of it any more."""
        return is_ended(self.status)

    def __str__(self) -> str:
        said = f"{self.said}: {self.reason}" if self.reason else self.said
        price = f"${self.price:.2f}/h" if self.price else ""
        units = f"{self.units:.2f} units/h" if self.units else ""
        return ", ".join(filter(None, (said, price, units, self.access)))


UNKNOWN = "UNKNOWN"
"""The status of a job whose platform says what nobody here has heard of."""


def is_ended(status: str) -> bool:
    """Tell whether a status is one that a run ends with."""
    return status != UNKNOWN and RunStatus.is_terminated(RunStatus.from_string(status))


@dataclass(frozen=True)
class Quota:
    """How much of a platform's accelerator may still be used.

    Args:
        backend: whose.
        resource: `GPU` or `TPU`.
        used_hours: since the quota was last refreshed.
        total_hours: of which.
        refreshes: when there is all of it again (UTC), if that is known.
    """

    backend: str
    resource: str
    used_hours: float
    total_hours: float
    refreshes: datetime | None

    @property
    def left_hours(self) -> float:
        """What is left of it."""
        return max(0.0, self.total_hours - self.used_hours)


@dataclass(frozen=True)
class Units:
    """What an account has and uses up where compute units are counted.

    Args:
        backend: whose.
        left: how many are left, None if that is not told.
        per_hour: how many its machines use up in an hour now.
    """

    backend: str
    left: float | None
    per_hour: float

    def __str__(self) -> str:
        left = "" if self.left is None else f"{self.left:.2f} compute units are left; "
        return f"{left}{self.per_hour:.2f} an hour are used up now"


@dataclass(frozen=True)
class Price:
    """What a platform takes for an accelerator.

    Args:
        backend: which platform.
        resource: the accelerator, as the platform calls it.
        per_hour: for one of it, in US dollars.
        free: how much of it can be had now, in the platform's words; "" for nothing.
    """

    backend: str
    resource: str
    per_hour: float
    free: str


@dataclass(frozen=True)
class Machines:
    """The machines of ours that a platform bills now.

    Args:
        backend: whose.
        count: how many.
        per_hour: what they cost together, in US dollars.
    """

    backend: str
    count: int
    per_hour: float

    def __str__(self) -> str:
        cost = "1 machine costs" if self.count == 1 else f"{self.count} machines cost"
        return (
            f"{cost} ${self.per_hour:.2f} an hour now: "
            f"`kaggleops reap -b {self.backend}` deletes what is over"
        )


@dataclass(frozen=True)
class Reaped:
    """A machine that costs money although its run is over.

    Args:
        backend: whose.
        machine: its id there.
        run_id: which run it was made for.
        why: why nothing will come of it.
        per_hour: what it costs, in US dollars.
        problem: why it could not be deleted; "" if it was, or was not to be.
    """

    backend: str
    machine: str
    run_id: str
    why: str
    per_hour: float
    problem: str = ""
