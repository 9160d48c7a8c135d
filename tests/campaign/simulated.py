"""Platforms on a stepped clock, the jobs that they run, and a watcher's turn over them.

Hours are counted from the beginning of a simulated week. The platforms tell the truth, when they
tell anything; what they do to jobs is theirs: they refuse, lose, end what has no quota left.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from kaggleops.backends.interface import Offer, RefusedError
from kaggleops.campaign import money
from kaggleops.campaign.hosts import Offers
from kaggleops.campaign.placement import Decision, fits, place
from kaggleops.campaign.plan import Forecast, asked, at_work, budget_of, granted
from kaggleops.campaign.sweep import Job, Sweep
from kaggleops.errors import KaggleOpsError

START = datetime(2026, 11, 30, tzinfo=UTC)  # a Monday
EVER = 1e9
ENDED = ("FINISHED", "FAILED")


def moment(hour: float) -> datetime:
    return START + timedelta(hours=hour)


@dataclass
class Truth:
    """A job as it really is."""

    run_id: str
    hours: float  # that it takes on a machine of speed 1
    fails: bool = False  # by itself, at its end
    left: float = 0.0  # of the hours, with what was saved of earlier sessions


@dataclass
class Session:
    """A machine that a platform gave to a job."""

    run_id: str
    begun: float
    until: float  # when the platform ends it
    ends: float  # when its job would be done
    lost_at: float  # when the machine stops answering
    expected: float  # how long its job should take, by what was known when it began
    gone: bool = False  # whether the machine is: a lost one is billed until it is


@dataclass
class Platform:
    """What all jobs on it see; a `Host` as far as `Offers` asks one."""

    name: str
    sessions: int
    session_hours: float | None
    accelerator: str = "T4"
    memory_gb: float = 16.0
    price: float = 0.0
    ending_hours: float = 0.0
    total: float | None = None  # hours of quota
    refreshes_at: float = EVER
    every: float = 168.0
    speed: float = 1.0
    known_refresh: bool = True
    refuses: float = 0.0  # how often a job
    loses: float = 0.0  # how often a machine
    chance: random.Random = field(default_factory=random.Random)
    used: float = 0.0
    overrun: bool = False  # whether a job took longer than was thought, since the last refresh
    away_until: float = 0.0  # it does not answer
    now: float = 0.0
    ask_every: float = 60.0
    asked_too_much: bool = False
    active: list[Session] = field(default_factory=list)

    @property
    def left(self) -> float:
        return EVER if self.total is None else self.total - self.used

    def has(self, run_id: str) -> bool:
        return any(each.run_id == run_id for each in self.active)

    def offers(self, tracking_uri: str, config: object, running: int) -> list[Offer]:
        if self.now < self.away_until:
            raise KaggleOpsError(f"asking {self.name}", "no answer")
        known = self.total is not None and self.known_refresh
        return [
            Offer(
                self.name,
                max(0, self.sessions - running),
                self.price,
                hours=None if self.total is None else self.left,
                total_hours=self.total,
                refreshes=moment(self.refreshes_at) if known else None,
                session_hours=self.session_hours,
                ending_hours=self.ending_hours,
                accelerator=self.accelerator,
                memory_gb=self.memory_gb,
                problem="" if self.left > 0 else f"{self.name}: its quota is used",
            )
        ]

    def send(self, job: Truth, hours: float | None, expected: float) -> None:
        """Take a job, unless it has it."""
        if self.now < self.away_until:
            raise KaggleOpsError(f"asking {self.name}", "no answer")
        if self.has(job.run_id):
            return
        full = len(self.active) >= self.sessions or self.left <= 0
        self.asked_too_much |= full
        if full or self.chance.random() < self.refuses:
            raise RefusedError("handing over", "no session is free")
        limit = min(hours or EVER, self.session_hours or EVER)
        lost = self.now + self.chance.uniform(0, job.left / self.speed)
        self.active.append(
            Session(
                job.run_id,
                self.now,
                self.now + limit,
                self.now + job.left / self.speed,
                lost if self.chance.random() < self.loses else EVER,
                expected,
            )
        )

    def next_event(self) -> float:
        """Return when something happens by itself."""
        known = [min(e.until + (self.ending_hours if e.gone else 0.0), EVER) for e in self.active]
        known += [e.ends for e in self.active if not e.gone]
        known += [e.lost_at for e in self.active if not e.gone]
        known += [self.refreshes_at] if self.total is not None else []
        if self.total is not None and self.active:
            known.append(self.now + self.left / len(self.active))
        known += [self.away_until] if self.away_until > self.now else []
        return max(self.now + 1e-6, min(known, default=EVER))

    def advance(self, to: float) -> Iterator[tuple[str, Session]]:
        """Let time pass, up to the next event at most; yield what becomes of sessions."""
        passed, self.now = to - self.now, to
        self.overrun |= any(to - each.begun > each.expected - 1e-6 for each in self.active)
        if self.total is not None:
            self.used += passed * len(self.active)
            if to >= self.refreshes_at - 1e-9:
                self.used, self.refreshes_at = 0.0, self.refreshes_at + self.every
                self.overrun = False
        for each in list(self.active):
            if each.gone:  # nobody deleted its machine, so it did that itself
                if to >= each.until + self.ending_hours - 1e-9:
                    self.active.remove(each)
                continue
            for when, what in ((each.ends, "done"), (each.lost_at, "lost"), (each.until, "over")):
                if to >= when - 1e-9:
                    if what == "lost":
                        each.gone = True
                    if what != "lost" or not self.price:
                        self.active.remove(each)
                    yield what, each
                    break
        if self.left <= 1e-9:
            for each in list(self.active):
                self.active.remove(each)
                yield "quota", each

    def remove(self, run_id: str) -> None:
        """Delete what is left of a job's machine."""
        if self.now < self.away_until:
            raise KaggleOpsError(f"asking {self.name}", "no answer")
        self.active = [each for each in self.active if each.run_id != run_id]

    # What `Offers` keys its answers by.
    def __hash__(self) -> int:
        return id(self)


@dataclass
class Campaign:
    """One sweep in the bucket, and what its jobs really are."""

    sweep: Sweep
    truths: dict[str, Truth]
    continuable: bool
    runs: dict[str, Job] = field(default_factory=dict)
    decided: list[Decision] = field(default_factory=list)
    billed: float = 0.0
    _forecast: tuple[object, Forecast] | None = None

    def __post_init__(self) -> None:
        for number, (run_id, truth) in enumerate(self.truths.items()):
            truth.left = truth.hours
            self.runs[run_id] = Job(run_id, number, {}, status="SCHEDULED")

    def change(self, run_id: str, status: str = "", **fields: Any) -> None:
        job = self.runs[run_id]
        self.runs[run_id] = replace(job, status=status or job.status, **fields)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        self.change(run_id, tags={**self.runs[run_id].tags, **tags})

    @property
    def forecast(self) -> Forecast:
        done = tuple(id(each) for each in self.jobs if each.status == "FINISHED")
        if self._forecast is None or self._forecast[0] != done:
            self._forecast = done, Forecast(self.jobs)
        return self._forecast[1]

    @property
    def jobs(self) -> list[Job]:
        return list(self.runs.values())

    @property
    def waiting(self) -> list[Job]:
        return [
            each
            for each in self.jobs
            if each.status == "SCHEDULED" and not each.tags.get("submitted_to")
        ]

    @property
    def sent(self) -> list[Job]:
        handed = [each for each in self.jobs if each.tags.get("submitted_to")]
        return [each for each in handed if each.status not in ENDED]

    @property
    def over(self) -> bool:
        return all(each.status in ENDED for each in self.jobs)


class Killed(Exception):  # noqa: N818 - none of ours goes wrong
    """The watcher was."""


@dataclass
class World:
    """All of it; what happens is noted for whoever judges it."""

    platforms: dict[str, Platform]
    campaigns: list[Campaign]
    chance: random.Random
    now: float = 0.0
    dies: float = 0.0  # how often the watcher, at any of its writes
    offers: Offers = field(init=False)
    refused: dict[str, float] = field(default_factory=dict)  # when, by platform
    ended_early: list[str] = field(default_factory=list)  # by a quota that should have been enough

    def __post_init__(self) -> None:
        self.begin_watcher()

    def begin_watcher(self) -> None:
        """Begin a watcher that knows only what is in the bucket."""
        self.offers = Offers(lambda: moment(self.now))

    def of(self, run_id: str) -> Campaign:
        return next(each for each in self.campaigns if run_id in each.runs)

    # -- time ------------------------------------------------------------------------------------

    def advance(self, to: float) -> None:
        """Let the platforms work until then."""
        while self.now < to:
            step = min(to, *(each.next_event() for each in self.platforms.values()))
            for platform in self.platforms.values():
                for each in platform.active:
                    self.of(each.run_id).billed += platform.price * (step - platform.now)
                for what, session in list(platform.advance(step)):
                    self._ended(platform, what, session)
            self.now = step

    def _ended(self, platform: Platform, what: str, session: Session) -> None:
        campaign = self.of(session.run_id)
        truth, now_ms = (
            campaign.truths[session.run_id],
            int(moment(platform.now).timestamp() * 1000),
        )
        worked = (platform.now - session.begun) * platform.speed
        if what == "quota" and not platform.overrun:
            self.ended_early.append(f"{platform.name} ended {session} for want of quota")
        short = platform.now - session.begun < session.expected - 1e-3
        if what == "over" and short and not campaign.continuable:
            self.ended_early.append(f"{session} had fewer hours on {platform.name} than it needed")
        if what != "done" and campaign.continuable:
            truth.left = max(0.05, truth.left - worked)
        if what == "lost" or (what == "quota" and not campaign.continuable):
            campaign.change(session.run_id, "LOST")
            return
        told = {}
        if platform.price:
            told = {"cost_usd": f"{(platform.now - session.begun) * platform.price:.4f}"}
        campaign.tag(session.run_id, told)
        if what == "done":
            campaign.change(
                session.run_id, "FAILED" if truth.fails else "FINISHED", ended_ms=now_ms
            )
        elif campaign.continuable:
            campaign.change(session.run_id, "SCHEDULED")
            campaign.tag(session.run_id, {"to_be_continued": "yes"})
        else:
            campaign.change(session.run_id, "FAILED", ended_ms=now_ms)

    # -- the watcher -----------------------------------------------------------------------------

    def turn(self) -> None:
        """Do what a turn of the watcher does; Killed if that happens."""
        for platform in self.platforms.values():
            for each in platform.active:
                # Who thinks so of what runs, places others beside it.
                now = expected(self.of(each.run_id), each.run_id, platform)
                each.expected = min(each.expected, now)
        for campaign in self.campaigns:
            self._settle(campaign)
        # Then only: what one sweep has lost, another one's job may take the place of.
        for campaign in self.campaigns:
            self._place(campaign)

    def _write(self, campaign: Campaign, run_id: str, tags: Mapping[str, str]) -> None:
        campaign.tag(run_id, tags)
        if self.chance.random() < self.dies:
            raise Killed

    def _settle(self, campaign: Campaign) -> None:
        """Go on with what was lost, is to be continued, or was being handed over."""
        for job in campaign.jobs:
            where = job.tags.get("submitted_to")
            if not where:
                continue
            platform = self.platforms[where]
            try:
                if job.status in (*ENDED, "LOST"):
                    platform.remove(job.run_id)
                elif platform.has(job.run_id):
                    continue
            except KaggleOpsError:
                continue
            over = money.closed(job.tags, moment(self.now))
            if job.status not in ENDED:
                campaign.change(job.run_id, "SCHEDULED")
            self._write(campaign, job.run_id, {**over, "submitted_to": ""})

    def _place(self, campaign: Campaign) -> None:
        campaign.decided = []
        if not campaign.waiting:
            return
        now, offers = moment(self.now), []
        busy = [one for each in self.campaigns for one in at_work(each.jobs, each.sent, now)]
        for name in campaign.sweep.backends:
            running = sum(each.backend == name for each in busy)
            offers += self.offers.of(self.platforms[name], "gs://b", None, running)  # type: ignore[arg-type]
        wanted = [
            replace(each, continuable=campaign.continuable)
            for each in asked(campaign.sweep, campaign.jobs, campaign.waiting)
        ]
        budget = budget_of(campaign.sweep, campaign.jobs, campaign.waiting, now)
        campaign.decided = place(wanted, offers, busy, budget, now)
        for decision in campaign.decided:
            self._hand_over(campaign, decision, now)

    def _hand_over(self, campaign: Campaign, decision: Decision, now: datetime) -> None:
        run_id, offer = decision.run_id, decision.offer
        job = campaign.runs[run_id]
        tags = granted(decision, job.tags, now)
        if offer is None:
            campaign.tag(run_id, tags)
            return
        self._write(campaign, run_id, {**tags, "submitted_to": offer.backend})
        truth = campaign.truths[run_id]
        try:
            platform = self.platforms[offer.backend]
            platform.send(truth, decision.hours, expected(campaign, run_id, platform))
        except RefusedError as error:
            self.offers.refused(offer.backend, error.problem)
            self.refused[offer.backend] = self.now
            self._write(campaign, run_id, {**money.refused(tags), "submitted_to": ""})
            return
        except KaggleOpsError:
            return  # it may have it: seen when it answers again
        # The run does that itself.
        campaign.change(run_id, "RUNNING", begun_ms=int(now.timestamp() * 1000))
        campaign.tag(run_id, {"backend": offer.backend})
        if self.chance.random() < self.dies:
            raise Killed


def expected(campaign: Campaign, run_id: str, platform: Platform) -> float:
    """Return the hours that a job should need of one session there, as far as anybody knows."""
    forecast = campaign.forecast
    known = forecast.by_backend.get(platform.name, forecast.hours)
    longest = min(platform.session_hours or EVER, platform.total or EVER)
    return min(longest if known is None else known, longest)


def can(sweep: Sweep, platform: Platform) -> bool:
    """Tell whether a platform's machines are what a sweep's jobs have to have."""
    wished = [each for each in str(sweep.needs.get("gpu", "")).split(",") if each]
    kind = not wished or any(fits(platform.accelerator, each) for each in wished)
    return kind and platform.memory_gb >= float(sweep.needs.get("memory_gb", 0))
