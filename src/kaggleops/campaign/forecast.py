"""How long a job should take, told from those of its sweep that have finished."""

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kaggleops.campaign.money import sessions_of
from kaggleops.tags import BACKEND

if TYPE_CHECKING:
    from kaggleops.campaign.sweep import Job, Point

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
    sessions = sessions_of(job.tags, datetime.fromtimestamp(ended, UTC))
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
