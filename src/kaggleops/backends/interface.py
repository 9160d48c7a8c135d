"""What only a platform can tell of its jobs, and the types in which it tells it."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Generic, Literal

from mlflow.entities import RunStatus

from kaggleops.backends.config import AnyConfig, KeyConfig
from kaggleops.backends.downloads import Downloaded
from kaggleops.bucket.location import is_remote
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms import keys_of
from kaggleops.platforms.keys import key_in

UNKNOWN = "UNKNOWN"
"""The status of a job whose platform uses a word that is unknown here."""

BUCKET = "kaggleops.bucket"
"""What a host finds among a run's tags beside them: the address of the run's bucket."""


class RefusedError(KaggleOpsError):
    """The platform said no: nothing runs there."""


@dataclass(frozen=True)
class JobState:
    """How far a job is."""

    status: str  # MLflow's word for it (`SCHEDULED`, `RUNNING`, …), or UNKNOWN
    said: str  # the platform's own word
    reason: str = ""  # why it ended so, where the platform says why
    price: float | None = None  # US dollars an hour now; None where nobody pays
    units: float | None = None  # compute units an hour now; None where nobody counts them
    access: str = ""  # the command that leads into the machine, where there is one
    # what is wrong with it if its run has not begun; the platform cannot know
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


def unsent(run_id: str) -> str:
    """Return what to do about a run that waits, and of which its platform shows no job."""
    return f"if it is yours and its submit failed, kaggleops resume {run_id[:8]}"


def is_ended(status: str) -> bool:
    """Tell whether a status is one that a run ends with."""
    return status != UNKNOWN and RunStatus.is_terminated(RunStatus.from_string(status))


@dataclass(frozen=True)
class Quota:
    """How many hours of an accelerator (`GPU`, `TPU`) may still be used."""

    backend: str
    resource: str
    used_hours: float  # since the quota was last refreshed
    total_hours: float  # of which
    refreshes: datetime | None  # when there is all of it again (UTC), if that is known

    @property
    def left_hours(self) -> float:
        """What is left of it."""
        return max(0.0, self.total_hours - self.used_hours)


@dataclass(frozen=True)
class Offer:
    """What one kind of machine of a backend can do now for jobs that wait."""

    backend: str
    sessions: int  # how many could begin now, beside those that are under way
    price: float = 0.0  # US dollars an hour of one; 0 where nothing is spent
    # how many hours of a quota are left for all of them together; None where none is counted
    hours: float | None = None
    total_hours: float | None = None  # of that quota, when there is all of it; None if not known
    refreshes: datetime | None = None  # when there is all of the quota again (UTC), if known
    session_hours: float | None = None  # how long one lasts at most; None for no limit
    ending_hours: float = 0.0  # for how long one may be billed beyond that, while it ends
    accelerator: str = ""  # as the platform calls it; "" for none
    memory_gb: float | None = None  # of the accelerator, or of the machine where it has none
    # which offers share their sessions and hours: those of one pool; "" for this one alone
    pool: str = ""
    problem: str = ""  # why it gives none now, in one line; "" where it does


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
    """What a platform takes for an accelerator."""

    backend: str
    resource: str  # the accelerator, as the platform calls it
    per_hour: float  # for one of it, in US dollars
    free: str  # how much of it can be had now, in the platform's words; "" for nothing


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
    """A machine that costs money although its run is over."""

    backend: str
    machine: str  # its id there
    run_id: str  # which run it was made for
    why: str  # why nothing will come of it
    per_hour: float  # what it costs, in US dollars
    problem: str = ""  # why it could not be deleted; "" if it was, or was not to be


Verdict = Literal["ok", "warning", "error", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What `kaggleops doctor` found with one check."""

    about: str  # what was checked
    verdict: Verdict
    said: str  # what was found, or what is wrong
    hint: str = ""  # what to do about it


class Host(ABC, Generic[AnyConfig]):
    """One platform, asked about the jobs of runs that it has; `tags` are always a run's.

    What asks the platform raises UsageError if this machine cannot ask, KaggleOpsError if it does
    not answer.
    """

    name: ClassVar[str]
    config_type: type[AnyConfig]
    runs_here: ClassVar[bool] = False
    """Whether its jobs find what lies in the repository here, and git does not have."""
    ask_every: ClassVar[float] = 60.0
    """Seconds within which it is not asked the same again; 0 where a question costs nothing."""
    waiting: ClassVar[str] = "waiting for a machine"
    """What a job does that has not begun."""

    @abstractmethod
    def check(self, tracking_uri: str, config: AnyConfig) -> None:
        """Raise KaggleOpsError, before anything is made, if a submit has no chance."""

    @abstractmethod
    def place(self, run_id: str, config: AnyConfig) -> dict[str, str]:
        """Return the tags by which a run's job is found, before it is there."""

    @abstractmethod
    def send(
        self, tags: Mapping[str, str], notebook: str, config: AnyConfig
    ) -> Mapping[str, str] | None:
        """Hand a notebook (its JSON) to the platform, unless it has it.

        Returns tags for what is known of the job only now. Raises RefusedError if the platform does
        not take it, KaggleOpsError if it does not answer.
        """

    @abstractmethod
    def state(self, tags: Mapping[str, str]) -> JobState | None:
        """Return how far the job is, None where nobody can be asked."""

    @abstractmethod
    def logs(self, tags: Mapping[str, str], follow: bool) -> Iterator[str]:
        """Yield the lines that the job printed, each once."""

    def bring_home(self, tracking_uri: str) -> None:
        """Send the bucket what ended jobs could not; by default their machines are gone."""

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
        """Yield what `doctor` says of this account; KaggleOpsError if set up but not working."""
        yield from ()

    def session_hours(self, config: AnyConfig) -> float | None:
        """Return after how many hours the platform ends a session; None where it says so there."""
        return None

    def announce(self, config: AnyConfig) -> str:
        """Return what a submit would cost and whom, "" for no money; KaggleOpsError if too much."""
        return ""

    def offers(self, tracking_uri: str, config: AnyConfig, running: int) -> list[Offer]:
        """Return what it can give now, nothing where nobody can place a job by itself.

        `running` jobs of this bucket are there already.
        """
        return []

    def for_session(
        self, config: AnyConfig, offer: Offer, hours: float | None, dollars: float
    ) -> AnyConfig:
        """Return the configuration for one session of an offer.

        It lasts `hours` at most (None for as long as there is no limit), and costs no more than
        `dollars`. By default, no longer than the offer's own, where a field says how long.
        """
        longest = offer.session_hours
        if not config.lasts or hours is None or longest is None or hours >= longest:
            return config
        return replace(config, **{config.lasts: hours})  # type: ignore[arg-type]

    def quota(self) -> list[Quota]:
        """Return what may still be used, nothing where nothing is counted."""
        return []

    def units(self, config: AnyConfig) -> Units | None:
        """Return the compute units that there are, None where none are counted."""
        return None

    def prices(self) -> list[Price]:
        """Return what accelerators cost, nothing where nobody pays."""
        return []

    def machines(self) -> Machines | None:
        """Return what is billed now, None where nobody pays or nothing is there."""
        return None

    def reap(self, tracking_uri: str, *, delete: bool) -> list[Reaped] | None:
        """Delete (or only look for) the machines that cost money although their run is over.

        Returns None where nobody was asked, as nothing that it knows of costs money.
        """
        return None

    def _found(self, verdict: Verdict, said: str, hint: str = "") -> Finding:
        return Finding(self.name, verdict, said, hint)

    def _not_set_up(self, error: KaggleOpsError) -> Finding:
        # Nobody needs all platforms.
        return Finding(self.name, "skipped", error.problem, error.hint)

    def _require_cloud(self, doing: str, tracking_uri: str) -> None:
        if not is_remote(tracking_uri):
            hint = "Take a bucket that they reach: --bucket gs://BUCKET; or run without -b."
            raise UsageError(doing, f"its machines cannot reach {tracking_uri}", hint)

    def _require_key(self, doing: str, config: KeyConfig, tracking_uri: str) -> None:
        """Make sure that its machines reach the bucket, and this one has a key for them."""
        self._require_cloud(doing, tracking_uri)
        keys, file = keys_of(tracking_uri), config.key_file
        if not file.is_file():
            hint = f"Make it: `kaggleops credentials create {self.name}`."
            raise UsageError(doing, f"there is no key of the bucket, {file}", hint)
        text = file.read_text(errors="replace")
        key = key_in(text)
        if key and not keys.takes(key):
            problem = f"{file} holds a key of another service, and no {keys.title}"
            hint = f"Replace it: kaggleops credentials rotate {self.name} --bucket …"
            raise UsageError(doing, problem, hint)
        if not key or not re.search(keys.form, text):
            problem = f"{file} holds no {keys.title} as its clients read one"
            hint = (
                f"It has to be {keys.form_in_words}: kaggleops credentials create {self.name} "
                "writes it so, where `credentials` is left empty."
            )
            raise UsageError(doing, problem, hint)
