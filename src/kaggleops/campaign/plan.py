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
    from kaggleops.campaign.sweep import Job, Point, Sweep

_LONGEST_LINE = 1000
_QUANTILE = 0.9  # of the hours of those that have finished
_MARGIN = 1.1  # by which a job may take longer than those before it
# A parameter tells how long a job takes if the longest of all takes more than so many times as long
# as the shortest, and among those of one value that is little.
_FAR_APART, _ALIKE = 2.0, 1.5


class Forecast:
    """What is expected of the jobs of a sweep, by those of them that have finished."""

    def __init__(self, jobs: "Collection[Job]") -> None:
        done: dict[str, list[tuple[Point, float]]] = defaultdict(list)
        for job in jobs:
            if (hours := _hours(job)) is not None:
                done[""].append((job.point, hours))
                if backend := job.tags.get(BACKEND):
                    done[backend].append((job.point, hours))
        self._done = {backend: _Durations(some) for backend, some in done.items()}

    def hours(self, point: "Point") -> float | None:
        """Return for how long a job of a point should have machines; None before any finished.

        That is what most took: of those with the same value of the parameter on which it depends,
        if it clearly depends on one.
        """
        return self._done[""].of(point) if self._done else None

    def by_backend(self, point: "Point") -> dict[str, float]:
        """Return the same for each backend on which any has finished, from those alone."""
        return {name: each.of(point) for name, each in sorted(self._done.items()) if name}


class _Durations:
    """How long jobs took, by their points."""

    def __init__(self, done: "Sequence[tuple[Point, float]]") -> None:
        self._most = _MARGIN * _high([hours for _, hours in done])
        # Of each parameter that tells more than that, the one first that tells most.
        found = [(key, _by_value(key, done)) for key in {key for point, _ in done for key in point}]
        self._by = sorted((max(map(_spread, by.values())), key, by) for key, by in found if by)

    def of(self, point: "Point") -> float:
        for _, key, by in self._by:
            if alike := by.get(point.get(key, "")):
                return _MARGIN * _high(alike)
        return self._most


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


def _by_value(key: str, done: "Sequence[tuple[Point, float]]") -> dict[str, list[float]]:
    """Return the hours by the values of a parameter; {} if it does not clearly matter."""
    groups = defaultdict(list)
    for point, hours in done:
        groups[point.get(key, "")].append(hours)
    told = {value: some for value, some in groups.items() if len(some) > 1}
    clear = len(told) > 1 and all(_spread(some) <= _ALIKE for some in told.values())
    far = clear and _spread([hours for some in told.values() for hours in some]) > _FAR_APART
    return told if far else {}


def _spread(hours: Sequence[float]) -> float:
    return max(hours) / max(min(hours), 1e-3)


def _high(hours: Sequence[float]) -> float:
    return sorted(hours)[math.ceil(_QUANTILE * len(hours)) - 1]


def asked(sweep: "Sweep", jobs: "Sequence[Job]", waiting: "Sequence[Job]") -> list[Waiting]:
    """Return what the jobs of a sweep that wait ask for, in the order in which they go.

    `jobs` are all of it: what has finished tells how long the others should take.
    """
    forecast = Forecast(jobs)
    wished = [each.strip() for each in text(sweep.needs, "gpu").split(",") if each.strip()]
    return [
        Waiting(
            job.run_id,
            forecast.hours(job.point),
            forecast.by_backend(job.point),
            wished,
            number(sweep.needs, "memory_gb"),
            order,
            # known to go on where a session has ended
            bool(job.tags.get(TO_BE_CONTINUED) or job.tags.get(LEGS)),
        )
        for order, job in enumerate(waiting)
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
    """Return what the jobs of a sweep that were handed over keep at work.

    Args:
        jobs: all of it.
        sent: those that a platform has, or may have.
        now: with a time zone.
    """
    forecast = Forecast(jobs)
    found = []
    for job in sent:
        backend = job.tags.get(SUBMITTED_TO, "")
        hours = forecast.by_backend(job.point).get(backend, forecast.hours(job.point))
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
