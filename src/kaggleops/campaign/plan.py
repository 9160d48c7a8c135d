"""What placement is told of a sweep's jobs, from what their runs tell; and what it leaves on them.

What is decided is noted on a job before it is handed over (`granted`): whatever dies then, its
money is counted. `Backend.for_session` keeps its machine within the hours and dollars that were
decided; where the platform refuses, `money.refused` takes the session back.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kaggleops.backends.answers import number, text
from kaggleops.campaign import money
from kaggleops.campaign.forecast import Forecast
from kaggleops.campaign.placement import Budget, Busy, Decision, Waiting
from kaggleops.tags import DECISION, LEGS, SUBMITTED_TO, TO_BE_CONTINUED

if TYPE_CHECKING:
    from kaggleops.campaign.sweep import Job, Sweep

_LONGEST_LINE = 1000


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
