"""What only a platform can tell of its jobs, and the types in which it tells it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Generic, Literal

from mlflow.entities import RunStatus

from kaggleops.backends.config import AnyConfig
from kaggleops.backends.downloads import Downloaded
from kaggleops.bucket.location import is_remote
from kaggleops.errors import KaggleOpsError, UsageError

UNKNOWN = "UNKNOWN"
"""The status of a job whose platform uses a word that is unknown here."""


class RefusedError(KaggleOpsError):
    """The platform said no: nothing runs there."""


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


def is_ended(status: str) -> bool:
    """Tell whether a status is one that a run ends with."""
    return status != UNKNOWN and RunStatus.is_terminated(RunStatus.from_string(status))


@dataclass(frozen=True)
class Quota:
    """How many hours of an accelerator (`GPU`, `TPU`) may still be used.

    Args:
        backend: whose.
        resource: which.
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
    """The compute units that an account has left (None if not told), and uses up in an hour now."""

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
    """How many machines of ours a platform bills now, and for how many US dollars an hour."""

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


Verdict = Literal["ok", "warning", "error", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What `kaggleops doctor` found with one check.

    Args:
        about: what was checked.
        verdict: how it is.
        said: what was found, or what is wrong.
        hint: what to do about it.
    """

    about: str
    verdict: Verdict
    said: str
    hint: str = ""


class Host(ABC, Generic[AnyConfig]):
    """One platform, asked about the jobs of runs that it has; `tags` are always a run's."""

    name: ClassVar[str]
    config_type: type[AnyConfig]

    # -- what every platform says -------------------------------------------------------------

    @abstractmethod
    def check(self, tracking_uri: str, config: AnyConfig) -> None:
        """Make sure, before anything is made, that a submit has a chance.

        Raises:
            KaggleOpsError: it has none: no credentials, no quota, a bucket out of its reach.
        """

    @abstractmethod
    def place(self, run_id: str, config: AnyConfig) -> dict[str, str]:
        """Return the tags by which a run's job is found, before it is there."""

    @abstractmethod
    def send(
        self, tags: Mapping[str, str], notebook: str, config: AnyConfig
    ) -> Mapping[str, str] | None:
        """Hand a notebook to the platform, unless it has it.

        Args:
            tags: the run's.
            notebook: its JSON.
            config: how to run it.

        Returns:
            Tags for what is known of the job only now, if there are any.

        Raises:
            RefusedError: the platform does not take it.
            KaggleOpsError: the platform does not answer.
        """

    @abstractmethod
    def state(self, tags: Mapping[str, str]) -> JobState | None:
        """Return how far the job is, None where nobody can be asked."""

    @abstractmethod
    def logs(self, tags: Mapping[str, str], follow: bool) -> Iterator[str]:
        """Yield the lines that the job printed, each once."""

    # -- what some platforms say --------------------------------------------------------------

    def download(self, tags: Mapping[str, str], directory: Path) -> Downloaded:
        """Bring the files that the job left on the platform; by default it leaves none."""
        return Downloaded()

    def remove(self, tags: Mapping[str, str]) -> bool:
        """Delete the job from the platform, and tell whether there was anything to delete."""
        return False

    def page(self, tags: Mapping[str, str]) -> str:
        """Return where the job can be seen in a browser, or ""."""
        return ""

    def steps(self, tags: Mapping[str, str]) -> list[str]:
        """Return what somebody has to do for the job to start, one line for each step."""
        return []

    def examine(self, config: AnyConfig) -> Iterator[Finding]:
        """Yield what `kaggleops doctor` says of this machine's account there.

        Raises:
            KaggleOpsError: it is set up, and does not work.
        """
        yield from ()

    def announce(self, config: AnyConfig) -> str:
        """Return what a submit would cost and whom, "" where it costs no money.

        Raises:
            KaggleOpsError: more than it may, or the platform does not answer.
        """
        return ""

    def quota(self) -> list[Quota]:
        """Return what may still be used, nothing where nothing is counted."""
        return []

    def units(self, config: AnyConfig) -> Units | None:
        """Return the compute units that there are, None where none are counted.

        Raises:
            KaggleOpsError: the platform does not tell.
        """
        return None

    def prices(self) -> list[Price]:
        """Return what accelerators cost, nothing where nobody pays."""
        return []

    def machines(self) -> Machines | None:
        """Return what is billed now, None where nobody pays or nothing is there."""
        return None

    def reap(self, tracking_uri: str, *, delete: bool) -> list[Reaped] | None:
        """Delete the machines that cost money although their run is over.

        Args:
            tracking_uri: whose runs.
            delete: whether to; else they are only looked for.

        Returns:
            What there was; None where nobody was asked, as nothing that it knows of costs money.

        Raises:
            UsageError: this machine cannot ask.
            KaggleOpsError: the platform does not answer.
        """
        return None

    # -- what several of them say alike -------------------------------------------------------

    def _found(self, verdict: Verdict, said: str, hint: str = "") -> Finding:
        return Finding(self.name, verdict, said, hint)

    def _not_set_up(self, error: KaggleOpsError) -> Finding:
        # Nobody needs all platforms.
        return Finding(self.name, "skipped", error.problem, error.hint)

    def _require_cloud(self, doing: str, tracking_uri: str) -> None:
        if not is_remote(tracking_uri):
            hint = "Take a bucket of Cloud Storage: --bucket gs://BUCKET; or run without -b."
            raise UsageError(doing, f"its machines cannot reach {tracking_uri}", hint)

    def _require_key(self, doing: str, file: Path) -> None:
        if not file.is_file():
            hint = f"Make it: `kaggleops credentials create {self.name}`."
            raise UsageError(doing, f"there is no key of the bucket, {file}", hint)
