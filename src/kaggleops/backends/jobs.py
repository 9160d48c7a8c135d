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
    """

    status: str
    said: str
    reason: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing will come of it any more."""
        return is_ended(self.status)

    def __str__(self) -> str:
        return f"{self.said}: {self.reason}" if self.reason else self.said


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
