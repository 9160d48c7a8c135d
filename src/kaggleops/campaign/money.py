"""What the jobs of a sweep have cost, and may still cost: never less than what is billed.

Each session that a job is given is noted in its tag SESSIONS before the platform hears of it, with
its price and for how many hours it may be billed. It costs what its machine told in the end (tag
COST); until then, and where a machine is lost, its price for as long as nobody has seen that the
machine is gone, and no longer than it may last. So restarts and legs add up.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from kaggleops.backends.answers import number, objects
from kaggleops.tags import COST, KEPT_UNTIL, PRICE, SESSIONS

if TYPE_CHECKING:
    from kaggleops.campaign.sweep import Job

_MOST = 20  # sessions in the tag, which MLflow cuts at 8,000 characters; older ones are added up
_LATEST = datetime.max.replace(microsecond=0, tzinfo=UTC).timestamp()  # that is a date


@dataclass(frozen=True)
class Session:
    """A session that a job was given."""

    at: float  # when it was asked for, in seconds since the epoch
    price: float  # US dollars an hour
    hours: float | None  # for how long it may be billed; None where that has no limit
    before: str = ""  # what the tag COST said before it
    until: float | None = None  # when it was seen to be over, in seconds; None while it is not
    cost: float | None = None  # what it came to, once it is over

    def billed(self, now: float) -> float:
        """Return what it has come to at a time."""
        if self.cost is not None:
            return self.cost
        return self.price * self._longest(max(0.0, now - self.at) / 3600)

    def to_come(self, now: float) -> float:
        """Return what it may come to beyond that."""
        if self.cost is not None or not self.price:
            return 0.0
        return self.price * self._longest(math.inf) - self.billed(now)

    def _longest(self, hours: float) -> float:
        return hours if self.hours is None else min(hours, self.hours)


def sessions_of(tags: Mapping[str, str], now: datetime) -> list[Session]:
    """Return the sessions that a job was given, the first one first; none where that is nonsense.

    Of the last one, the cost is what its machine has told, if it has.
    """
    sessions = _read(tags)
    if sessions and sessions[-1].cost is None:
        last = sessions[-1]
        price, told = number(tags, PRICE), number(tags, COST)
        if price is not None:  # what it really is, once the platform has said it
            last = replace(last, price=price if last.price else 0.0)
        kept = (number(tags, KEPT_UNTIL) or 0.0) > now.timestamp()
        if told is not None and tags[COST] != last.before and not kept:
            last = replace(last, cost=told)
        sessions[-1] = last
    return sessions


def spent(jobs: "Iterable[Job]", now: datetime) -> float:
    """Return what jobs have cost so far in US dollars, all their sessions together."""
    return sum(_billed(job, now) for job in jobs)


def committed(jobs: "Iterable[Job]", now: datetime) -> float:
    """Return what the sessions of jobs may still cost at most, in US dollars, beyond `spent`."""
    moment = now.timestamp()
    return sum(each.to_come(moment) for job in jobs for each in sessions_of(job.tags, now))


def opened(
    tags: Mapping[str, str], price: float, hours: float | None, now: datetime
) -> dict[str, str]:
    """Return the tags to write before a platform is asked for a session of a job.

    A session that nobody has closed is over with that: whatever of it were still billed, the new
    one is. `hours` are those that are billed at most, its end included.
    """
    session = Session(now.timestamp(), price, hours, tags.get(COST, ""))
    # Of the machine before, no longer of this one.
    return {SESSIONS: _text([*_closed(tags, now), session]), PRICE: f"{price:g}" if price else ""}


def closed(tags: Mapping[str, str], now: datetime) -> dict[str, str]:
    """Return the tags to write once a job's last session was seen to be over; {} if it was."""
    sessions = _read(tags)
    is_open = bool(sessions) and sessions[-1].until is None
    return {SESSIONS: _text(_closed(tags, now))} if is_open else {}


def refused(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags to write where the platform did not take a job: it had no such session."""
    return {SESSIONS: _text(_read(tags)[:-1])} if _read(tags) else {}


def _closed(tags: Mapping[str, str], now: datetime) -> list[Session]:
    """Return a job's sessions, none of them open."""
    sessions, moment = sessions_of(tags, now), now.timestamp()
    if sessions and sessions[-1].until is None:
        last = sessions[-1]
        sessions[-1] = replace(last, cost=last.billed(moment), until=moment)
    return sessions


def _billed(job: "Job", now: datetime) -> float:
    moment = now.timestamp()
    noted = sum(each.billed(moment) for each in sessions_of(job.tags, now))
    # Somebody may have handed it over by hand, or spoilt the tag.
    told = number(job.tags, COST) or 0.0
    return max(noted, told)


def _read(tags: Mapping[str, str]) -> list[Session]:
    return list(_parsed(tags.get(SESSIONS) or "[]"))


@lru_cache(maxsize=4096)  # a turn asks several times for each of a thousand jobs
def _parsed(tag: str) -> Sequence[Session]:
    try:
        found = objects({"sessions": json.loads(tag)}, "sessions") or []
    except (ValueError, RecursionError):
        return ()
    sessions = []
    for each in found:
        at, price = number(each, "at"), number(each, "price")
        if at is None or price is None or at > _LATEST:
            return ()
        hours, until, cost = (number(each, name) for name in ("hours", "until", "cost"))
        before = each.get("before")
        sessions.append(Session(at, price, hours, str(before or ""), until, cost))
    return tuple(sessions)


def _text(sessions: Sequence[Session]) -> str:
    """Return the tag's value."""
    kept = list(sessions)
    if len(kept) > _MOST:
        old, kept = kept[: 1 - _MOST], kept[1 - _MOST :]
        until = max(each.until or each.at for each in old)
        cost = sum(each.cost or 0.0 for each in old)
        kept.insert(0, Session(old[0].at, old[0].price, None, "", until, cost))
    known = [asdict(each).items() for each in kept]
    rows = [{name: value for name, value in each if value not in (None, "")} for each in known]
    return json.dumps(rows, separators=(",", ":"))
