"""Whether a run that was made again came to the same."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from kaggleops.reports.history import HOUSEKEEPING, Run
from kaggleops.reports.metrics import words
from kaggleops.tags import ACCELERATOR, BACKEND

_TIMES = {"time", "times", "runtime", "walltime", "duration", "latency", "elapsed", "throughput"}
_TIMES |= {"timestamp", "second", "seconds", "sec", "secs", "flos"}  # samples_per_second
_SYSTEM = "system/"


@dataclass(frozen=True)
class Agreement:
    """Two runs, side by side.

    Args:
        metrics: those that differ by more than the tolerance: first, second; NaN for none.
        equal: how many metrics agree.
        params: the params that differ: first, second.
        data: the datasets whose digests differ.
        environment: what differs of where they ran.
    """

    metrics: Mapping[str, tuple[float, float]]
    equal: int
    params: Mapping[str, tuple[str, str]]
    data: Mapping[str, tuple[str, str]]
    environment: Mapping[str, tuple[str, str]]

    @property
    def agree(self) -> bool:
        """Whether all metrics do."""
        return not self.metrics and self.equal > 0


def agreement(first: Run, second: Run, tolerance: float = 0.0) -> Agreement:
    """Return where two runs agree, how fast they were left aside.

    Args:
        first: a run.
        second: the same made again.
        tolerance: how far apart two values may be, relative to the larger one.
    """
    names = sorted(name for name in {*first.metrics, *second.metrics} if _is_result(name))
    pairs = {
        name: (first.metrics.get(name, math.nan), second.metrics.get(name, math.nan))
        for name in names
    }
    apart = {
        name: pair
        for name, pair in pairs.items()
        if not _same(*pair, tolerance) or (name in first.metrics) != (name in second.metrics)
    }
    return Agreement(
        metrics=apart,
        equal=len(pairs) - len(apart),
        params=_differing(_settings(first), _settings(second)),
        data=_differing(first.data, second.data),
        environment=_differing(environment(first), environment(second)),
    )


def environment(run: Run) -> dict[str, str]:
    """Return where a run ran: platform, accelerator, versions of libraries."""
    return {
        key: value
        for key, value in run.tags.items()
        if key in (ACCELERATOR, BACKEND) or key.startswith("version.")
    }


def _is_result(name: str) -> bool:
    return not name.startswith(_SYSTEM) and _TIMES.isdisjoint(words(name))


def _same(one: float, other: float, tolerance: float) -> bool:
    both_nan = math.isnan(one) and math.isnan(other)
    return both_nan or math.isclose(one, other, rel_tol=tolerance, abs_tol=0.0)


def _settings(run: Run) -> dict[str, str]:
    hidden = set(HOUSEKEEPING) - {"fold", "seed"}
    return {key: value for key, value in run.params.items() if key not in hidden}


def _differing(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    names = sorted({*first, *second})
    pairs = {name: (first.get(name, ""), second.get(name, "")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
