"""What placement is told of a sweep's jobs, from what their runs tell; and what it leaves on them.

How long a job should take is told from those of its sweep that have finished (`Forecast`).
What is decided is noted on a job before it is handed over (`granted`): whatever dies then, its
money is counted. `Backend.for_session` keeps its machine within the hours and dollars that were
decided; where the platform refuses, `money.refused` takes the session back.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kaggleops.backends.answers import number, text
from kaggleops.campaign import money
from kaggleops.campaign.placement import Budget, Busy, Decision, Waiting
from kaggleops.tags import BACKEND, DECISION, LEGS, SUBMITTED_TO, TO_BE_CONTINUED

if TYPE_CHECKING:
    from kaggleops.campaign.sweep import Job, Sweep

_LONGEST_LINE = 1000
_QUANTILE = 0.9  # of the hours of those that have finished
_MARGIN = 1.1  # by which a job may take longer than those before it


class Forecast:
    """How long a job of a sweep should have machines: what most of those took that have finished.

    `hours` are of all together, None before any has finished; `by_backend` of each backend on which
    any has.
    """

    def __init__(self, jobs: "Collection[Job]") -> None:
        done: dict[str, list[float]] = defaultdict(list)
        for job in jobs:
            if (hours := _hours(job)) is not None:
                done[job.tags.get(BACKEND, "")].append(hours)
        self.hours = _most([each for some in done.values() for each in some]) if done else None
        self.by_backend = {name: _most(some) for name, some in sorted(done.items()) if name}


def _hours(job: "Job") -> float | None:
    """Return for how long a finished job had machines, None for any other."""
    if job.status != "FINISHED" or job.ended_ms is None:
        return None
    ended = job.ended_ms / 1000
    sessions = money.sessions_of(job.tags, datetime.fromtimestamp(ended, UTC))
    # A run's own beginning is when it was made: it may have waited for days.
    spans = [(each.at, min(each.until or ended, ended)) for each in sessions]
    spans = spans or [(job.begun_ms / 1000, ended)]
    return sum(max(0.0, end - begin) for begin, end in spans) / 3600


def _most(hours: Sequence[float]) -> float:
    return _MARGIN * sorted(hours)[math.ceil(_QUANTILE * len(hours)) - 1]


def asked(sweep: "Sweep", jobs: "Sequence[Job]", waiting: "Sequence[Job]") -> list[Waiting]:
    """Return what the jobs of a sweep that wait ask for.

    `jobs` are all of it: what has finished tells how long the others should take.
    """
    forecast = Forecast(jobs)
    wished = [each.strip() for each in text(sweep.needs, "gpu").split(",") if each.strip()]
    return [
        Waiting(
            job.run_id,
            forecast.hours,
            forecast.by_backend,
            wished,
            number(sweep.needs, "memory_gb"),
            # known to go on where a session has ended
            bool(job.tags.get(TO_BE_CONTINUED) or job.tags.get(LEGS)),
        )
        for job in waiting
    ]


def budget_of(
    sweep: "Sweep",
    jobs: "Sequence[Job]",
    waiting: "Sequence[Job]",
    now: datetime,
    granted: float = 0.0,
) -> Budget:
    """Return what there is of a sweep's budget for those that wait, of all its jobs.

    `granted` are US dollars of sessions that `jobs` do not tell yet.
    """
    # One that is handed over once more gives back what it was granted and has not cost.
    ids = {job.run_id for job in waiting}
    others = [job for job in jobs if job.run_id not in ids]
    return Budget(sweep.budget, money.spent(jobs, now), money.committed(others, now) + granted)


def at_work(jobs: "Sequence[Job]", sent: "Sequence[Job]", now: datetime) -> list[Busy]:
    """Return what those `jobs` of a sweep keep at work that a platform has, or may have."""
    forecast = Forecast(jobs)
    found = []
    for job in sent:
        backend = job.tags.get(SUBMITTED_TO, "")
        hours = forecast.by_backend.get(backend, forecast.hours)
        sessions = money.sessions_of(job.tags, now)
        began = sessions[-1].at if sessions else job.begun_ms / 1000
        # What is in a platform's queue has used nothing yet.
        since = None if job.status == "SCHEDULED" else datetime.fromtimestamp(began, UTC)
        found.append(Busy(job.run_id, backend, since, hours))
    return found


def granted(decision: Decision, tags: Mapping[str, str], now: datetime) -> dict[str, str]:
    """Return the tags of a job that is placed, to be written before it is handed over."""
    offer, why = decision.offer, {DECISION: decision.why[:_LONGEST_LINE]}
    if offer is None:
        return why
    hours = None if decision.hours is None else decision.hours + offer.ending_hours
    return {**why, **money.opened(tags, offer.price, hours, now)}
