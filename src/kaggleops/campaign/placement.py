"""Which waiting job goes where: pure, so that hundreds of weeks of it can be simulated.

Free sessions first, each job on the cheapest that fits it. Money is spent only inside the budget,
counted at what a session may cost at most, and only on a job for which no free session is expected
within `SOON`, nor room in a quota whose refresh is known. docs/placement.md has an example.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kaggleops.backends.interface import Offer

SOON = 1.0
"""Hours for which a job waits for a free session that is at work now, rather than spend."""

LEAST_LEG = 0.5
"""Hours that a session has to have for a job that another can continue: installing takes minutes
of each."""

_HOUR = timedelta(hours=1)
_LATE = timedelta(hours=1)  # by which a platform may be late with a refresh that it announced
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Waiting:
    """A job that waits for a machine."""

    run_id: str
    hours: float | None = None  # that it is expected to need; None where nobody knows
    hours_at: Mapping[str, float] = field(default_factory=dict)  # the same by backend, if known
    # of which it takes any, as people call them: `T4`, `gpu`, `tpu`, `none`; () for whatever
    accelerators: Sequence[str] = ()
    memory_gb: float | None = None  # that it needs, see Offer
    continuable: bool = False  # whether another session goes on where one has ended

    def at(self, backend: str) -> float | None:
        """Return the hours that it is expected to need there."""
        return self.hours_at.get(backend, self.hours)


@dataclass(frozen=True)
class Busy:
    """A job that has a machine, or was handed over and will get one."""

    run_id: str
    backend: str
    started_at: datetime | None  # its session; None where it has not begun
    hours: float | None = None  # that the session is expected to take; None where nobody knows


@dataclass(frozen=True)
class Budget:
    """US dollars that a sweep may cost, and what of them is gone."""

    limit: float | None = None  # None for nothing to spend
    spent: float = 0.0  # that was billed
    committed: float = 0.0  # that what runs may still cost at most

    @property
    def left(self) -> float:
        """What may still be spent."""
        return max(0.0, (self.limit or 0.0) - self.spent - self.committed)


@dataclass(frozen=True)
class Decision:
    """What becomes of a waiting job now."""

    run_id: str
    offer: "Offer | None"  # where it goes; None while it waits
    why: str  # one line
    hours: float | None = None  # how long its session may last; None for no limit
    cost: float = 0.0  # US dollars that the session may cost at most
    expected: float = 0.0  # hours that the job should take in it; 0 where nobody knows
    over_budget: bool = False  # whether it waits, and what is left of the budget would not pay it

    @property
    def busy(self) -> "Busy | None":
        """What it keeps at work from now on, for whoever places others in the same moment."""
        if self.offer is None:
            return None
        return Busy(self.run_id, self.offer.backend, None, self.expected or None)


def place(
    waiting: Sequence[Waiting],
    offers: Sequence["Offer"],
    busy: Sequence[Busy],
    budget: Budget,
    now: datetime,
) -> list[Decision]:
    """Decide for each waiting job, in this order.

    The sessions of `offers` are free ones, beside what is `busy` there, whoever's it is: of a
    quota, the hours are held back for it that it is still expected to need. All times have a time
    zone.
    """
    plan = _Plan(offers, busy, budget, now)
    free = [plan.free(job) for job in waiting]
    # Only then what is left waits or costs: a later job may fit where an earlier one does not.
    return [one or plan.spend_or_wait(job) for one, job in zip(free, waiting, strict=True)]


def waits(decisions: Sequence[Decision]) -> str:
    """Return what is to be told of the jobs that wait, in one line; "" if none does."""
    whys = Counter(each.why.removeprefix("waits: ") for each in decisions if each.offer is None)
    return "; ".join(
        f"{count} job{' waits' if count == 1 else 's wait'}: {why}" for why, count in whys.items()
    )


def fits(accelerator: str, wish: str) -> bool:
    """Tell whether a platform's accelerator (`NvidiaTeslaT4`, "") is the one that people mean."""
    wish, tpu = wish.strip().casefold(), bool(re.match(r"tpu|v\d+e", accelerator, re.IGNORECASE))
    if wish in ("", "none", "cpu"):
        return not accelerator
    if wish in ("gpu", "tpu"):
        return bool(accelerator) and tpu == (wish == "tpu")
    words = r"[\W_]*".join(map(re.escape, re.findall(r"[^\W\d_]+|\d+", wish)))
    # An L4 is no L40S; but the T4 of a NvidiaTeslaT4 is one.
    return bool(words) and bool(re.search(rf"{words}(?![^\W_])", accelerator, re.IGNORECASE))


@dataclass
class _Pool:
    """What the offers that share it have left."""

    sessions: int  # that can begin now
    at_work: int  # sessions there
    hours: float | None  # of the quota, without those that are held back
    afresh: float | None  # of the quota after its refresh, without those that others wait for
    ends: list[datetime]  # when what is at work should be over, but for what others wait for


@dataclass(frozen=True)
class _Chance:
    """Whether a job can go to an offer now, and how."""

    number: int  # the offer's
    offer: "Offer"
    # hours that the job should take there, or what one session can do of it; 0 if nobody knows
    leg: float = 0.0
    hours: float | None = None  # that its session may last
    cost: float = 0.0  # US dollars at most
    # what is lacking: "" for nothing, "kind" for what no time gives, "quota", "session", "money",
    # "budget" where not even what runs and costs less than it may leaves enough, "answer" where the
    # platform gives none
    lacks: str = ""
    why_not: str = ""


class _Plan:
    """What there is, less what has been decided."""

    def __init__(
        self, offers: Sequence["Offer"], busy: Sequence[Busy], budget: Budget, now: datetime
    ) -> None:
        self._offers = offers
        self._limit = budget.limit
        self._money = budget.left
        self._unspent = (budget.limit or 0.0) - budget.spent
        self._now = now
        pools: dict[object, _Pool] = {}
        self._pools = [
            pools.setdefault((offer.backend, offer.pool or number), self._pool(offer, busy))
            for number, offer in enumerate(offers)
        ]

    def _pool(self, offer: "Offer", busy: Sequence[Busy]) -> _Pool:
        there = [each for each in busy if each.backend == offer.backend]
        still = [left for each in there if math.isfinite(left := self._still(each, offer))]
        hours = None if offer.hours is None else max(0.0, offer.hours - sum(still))
        ends = sorted(self._now + timedelta(hours=each) for each in still)
        return _Pool(max(0, offer.sessions), len(there), hours, offer.total_hours, ends)

    def _still(self, busy: Busy, offer: "Offer") -> float:
        """Return for how many hours a job should go on; up to its session's end if not known."""
        since = (self._now - busy.started_at) / _HOUR if busy.started_at else 0.0
        longest = max(0.0, _longest(offer) - since)
        if busy.hours is None or busy.hours < since:  # it takes longer than was thought
            return longest
        return min(busy.hours - since, longest)

    def free(self, job: Waiting) -> Decision | None:
        """Return where a job goes for nothing now, None for nowhere."""
        able = [each for each in self._chances(job) if not (each.offer.price or each.lacks)]
        if not able:
            return None
        chance = min(able, key=_thrift)
        pool, backend = self._pools[chance.number], chance.offer.backend
        left = "" if pool.hours is None else f"{pool.hours:.1f} h of quota left, "
        nth = f"session {pool.at_work + 1} of {pool.at_work + pool.sessions}"
        why = f"{backend}: free, {left}{_needed(job.at(backend), chance.leg)}, {nth}"
        return self._taken(job, chance, why)

    def spend_or_wait(self, job: Waiting) -> Decision:
        """Return what becomes of a job that goes nowhere for nothing now."""
        chances = self._chances(job)
        paid = [each for each in chances if each.offer.price and not each.lacks]
        free = [each for each in chances if not each.offer.price]
        later = [found for each in free if (found := self._later(each))]
        soon = self._now + timedelta(hours=SOON)
        worth = [found for found in later if found[1].lacks == "quota" or found[0] <= soon]
        if paid and not worth:
            return self._spent(job, min(paid, key=_price))
        if later:
            self._claim(min(later, key=lambda found: found[0])[1])
        whys = list(dict.fromkeys(each.why_not for each in chances if each.why_not))
        if paid:
            least = min(paid, key=_price)
            whys.append(
                f"it waits rather than pay about ${_price(least):.2f} on {least.offer.backend}"
            )
        said = "; ".join(whys) or "no platform offers anything now"
        never = bool(chances) and all(each.lacks == "kind" for each in chances)
        why = f"no platform can take it: {said}" if never else f"waits: {said}"
        over = any(each.lacks == "budget" for each in chances)
        return Decision(job.run_id, None, why, over_budget=over)

    # -- one job and one offer -----------------------------------------------------------------

    def _chances(self, job: Waiting) -> list[_Chance]:
        return [self._chance(job, number) for number in range(len(self._offers))]

    def _chance(self, job: Waiting, number: int) -> _Chance:
        offer, pool = self._offers[number], self._pools[number]
        if why_not := _unfit(job, offer):
            return _Chance(number, offer, lacks="kind", why_not=why_not)
        longest = _longest(offer)
        known = job.at(offer.backend)
        leg = min(longest if known is None else known, longest)
        leg = leg if math.isfinite(leg) else 0.0
        least = min(leg, LEAST_LEG) if job.continuable else leg

        def lacking(what: str, why_not: str) -> _Chance:
            return _Chance(number, offer, leg, lacks=what, why_not=why_not)

        if offer.problem:
            return lacking("quota" if offer.refreshes else "answer", offer.problem)
        if pool.hours is not None and pool.hours + _ROUNDING < least:
            again = f", all of it again on {_shown(offer.refreshes)}" if offer.refreshes else ""
            left = f"{offer.backend} has {pool.hours:.1f} h of quota left beside what runs"
            return lacking("quota", f"{left}, {_needed(known, leg)}{again}")
        if pool.sessions < 1:
            are = "session is" if pool.at_work == 1 else f"{pool.at_work} sessions are"
            busy = f"{offer.backend}'s {are} at work"
            none = f"{offer.backend} has no session free"
            return lacking("session", busy if pool.at_work else none)
        limits = [each for each in (offer.session_hours, pool.hours) if each is not None]
        hours = min(limits, default=None)
        if offer.price:
            if hours is None:
                unlimited = f"a session of {offer.backend} has no limit, so its cost has none"
                return lacking("money", unlimited)
            paid = self._money / offer.price - offer.ending_hours
            if paid + _ROUNDING < least:
                # Only what is spent is gone for good: what runs may give something back.
                most = self._unspent / offer.price - offer.ending_hours
                gone = self._limit is not None and most + _ROUNDING < least
                return lacking("budget" if gone else "money", self._too_dear(offer, least))
            # It may take all that a session can last, as long as the budget pays for that.
            hours = min(hours, paid)
        cost = offer.price * ((hours or 0.0) + offer.ending_hours)
        return _Chance(number, offer, min(leg, hours or leg), hours, cost)

    def _too_dear(self, offer: "Offer", hours: float) -> str:
        what = f"{offer.accelerator} on " if offer.accelerator else ""
        cost = f"{what}{offer.backend} would cost ${offer.price * (hours + offer.ending_hours):.2f}"
        if self._limit is None:
            return f"{cost}, and there is no budget"
        if self._money + _ROUNDING < self._limit:
            return f"{cost}, over the ${self._money:.2f} left of the budget"
        return f"{cost}, over the budget of ${self._limit:.2f}"

    def _taken(self, job: Waiting, chance: _Chance, why: str) -> Decision:
        pool = self._pools[chance.number]
        pool.sessions -= 1
        pool.at_work += 1
        if chance.leg:  # else nobody knows, and no job can wait for its end
            pool.ends = sorted([*pool.ends, self._now + timedelta(hours=chance.leg)])
        if pool.hours is not None:
            pool.hours = max(0.0, pool.hours - chance.leg)
        self._money -= chance.cost
        return Decision(job.run_id, chance.offer, why, chance.hours, chance.cost, chance.leg)

    def _spent(self, job: Waiting, chance: _Chance) -> Decision:
        offer, left = chance.offer, self._money
        what = f"{offer.backend}: {offer.accelerator or 'a machine'} for ${offer.price:.2f} an hour"
        most = f"at most ${chance.cost:.2f} of the ${left:.2f} left of the budget"
        why = f"{what}, {_needed(job.at(offer.backend), chance.leg)}, {most}"
        return self._taken(job, chance, why)

    # -- what comes later ----------------------------------------------------------------------

    def _later(self, chance: _Chance) -> tuple[datetime, _Chance] | None:
        """Return when a job can have what it lacks now, if that is known and not another's."""
        pool = self._pools[chance.number]
        if chance.lacks == "session":
            return (pool.ends[0], chance) if pool.ends else None
        when = chance.offer.refreshes if chance.lacks == "quota" else None
        if when is None or when < self._now - _LATE:
            return None
        enough = pool.afresh is None or pool.afresh + _ROUNDING >= chance.leg
        return (max(when, self._now), chance) if enough else None

    def _claim(self, chance: _Chance) -> None:
        """Keep what a job waits for from those behind it."""
        pool = self._pools[chance.number]
        if chance.lacks == "session":
            pool.ends = pool.ends[1:]
        elif pool.afresh is not None:
            pool.afresh -= chance.leg


def _longest(offer: "Offer") -> float:
    """Return the hours that one session may have at most."""
    limits = (offer.session_hours, offer.total_hours)
    return min((each for each in limits if each is not None), default=math.inf)


def _unfit(job: Waiting, offer: "Offer") -> str:
    """Return why a job can never go to an offer, "" if it can."""
    if job.accelerators and not any(fits(offer.accelerator, each) for each in job.accelerators):
        has = offer.accelerator or "no accelerator"
        return f"{offer.backend} has {has}, {' or '.join(job.accelerators)} wanted"
    if job.memory_gb is not None and (offer.memory_gb or 0.0) < job.memory_gb:
        has = "is unknown" if offer.memory_gb is None else f"is {offer.memory_gb:g} GB"
        return f"the memory of {offer.backend} {has}, {job.memory_gb:g} GB wanted"
    limit = offer.session_hours
    # Where others have finished, it can as well: what is expected is more than what they took.
    needed = 0.0 if offer.backend in job.hours_at else job.hours or 0.0
    if not job.continuable and limit is not None and needed > limit + _ROUNDING:
        return f"about {_long(needed)} needed, {offer.backend} ends a session after {limit:g} h"
    return ""


def _thrift(chance: _Chance) -> tuple[bool, bool, float, int]:
    """Order the free: first what is not counted, then the quota that is refreshed first."""
    when = chance.offer.refreshes
    first = when.timestamp() if when else 0.0
    return chance.offer.hours is not None, when is None, first, chance.number


def _price(chance: _Chance) -> float:
    return chance.offer.price * (chance.leg + chance.offer.ending_hours)


def _needed(hours: float | None, leg: float) -> str:
    if hours is None:
        return f"up to {_long(leg)} needed" if leg else "how long is not known"
    rest = ", the rest in another session" if hours > leg + _ROUNDING else ""
    return f"about {_long(leg)} needed{rest}"


def _long(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 - _ROUNDING else f"{max(1, round(60 * hours))} min"


def _shown(when: datetime) -> str:
    return f"{when.day} {when:%B %H:%M} UTC"
