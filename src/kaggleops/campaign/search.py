"""Which points a sweep tries next.

There is no database: each time, the study is made anew from the trials, which are runs in the
bucket. What is proposed follows from the sweep, the trials there are and the number of the next one
alone, so two watchers that meet propose the same. No point is tried twice.

A grid is in order, whatever comes of it. The other samplers are Optuna's, by ask-and-tell. To those
that learn, a trial that is under way counts as one (else those that run together would be alike), a
pruned one with the values that it reported, one that failed, was cancelled or lost as failed.
"""

import hashlib
import importlib.util
import math
import random
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kaggleops.campaign.pruning import Pruner
from kaggleops.campaign.space import MOST, Space, split_of
from kaggleops.campaign.sweep import Point, Sweep, Trial, next_number
from kaggleops.errors import UsageError
from kaggleops.launch.overrides import did_you_mean
from kaggleops.printable import counted

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

GIVEN = "given"
"""The sampler of a sweep whose points somebody else proposes, such as a sweeper of Hydra's."""
LEARNERS = ("tpe", "gp")
"""The samplers that go by what the trials come to."""
SAMPLERS = ("grid", "random", *LEARNERS)
_PACKAGES = {"gp": ("torch", "scipy")}
"""What samplers of Optuna's import besides it."""

_RUNNING = ("SCHEDULED", "RUNNING")
_ATTEMPTS = 10  # at a point that has not been tried
_BLIND = 3  # trials without a value, and none with one
_NAMED = 8  # metrics in a message


class Search:
    """Proposes points for a sweep, and says when there are no more."""

    @classmethod
    def of(cls, sweep: Sweep) -> "Search":
        """Return what proposes the points of a sweep; UsageError if it cannot be searched."""
        return _Given(sweep) if sweep.sampler == GIVEN else cls(sweep)

    def __init__(self, sweep: Sweep) -> None:
        """Check that the sweep can be searched; UsageError with one line if not."""
        self.sweep = sweep
        self.space, folds = split_of(sweep)
        self.pruner = Pruner(sweep.pruner) if sweep.pruner else None
        _check(sweep, self.space, folds)
        counts = [count for count in (sweep.trials, self.space.count) if count is not None]
        self.total = min(counts)
        """How many trials there will be."""
        optunas = sweep.sampler != "grid"
        self._distributions = {axis.key: axis.distribution() for axis in self.space.axes if optunas}

    def exhausted(self, trials: Sequence[Trial]) -> bool:
        """Tell whether there is nothing more to propose, whatever the trials come to."""
        return next_number(trials) >= self.total

    def ask(self, trials: Sequence[Trial], count: int) -> list[Point]:
        """Return up to `count` points to try next; the first is that of `next_number(trials)`."""
        begin = next_number(trials)
        numbers = range(begin, min(self.total, begin + count))
        if self.sweep.sampler == "grid":
            return list(map(self.space.point, numbers))
        return self._asked(trials, numbers) if numbers else []

    def hopeless(self, trials: Sequence[Trial]) -> list[tuple[Trial, str]]:
        """Return the trials under way that should be ended, each with why, in one line."""
        if self.pruner is None:
            return []
        metric, direction = self.sweep.metrics[0], self.sweep.directions[0]
        return self.pruner.hopeless(trials, metric, direction)

    def _asked(self, trials: Sequence[Trial], numbers: Sequence[int]) -> list[Point]:
        import optuna
        from optuna.trial import TrialState

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(directions=list(self.sweep.directions) or ["maximize"])
        if self.sweep.sampler in LEARNERS:
            by_number = sorted(trials, key=lambda trial: trial.number)
            study.add_trials([each for trial in by_number if (each := self._told(trial))])
        # A tag does not keep the order of the axes.
        seen = {frozenset(trial.point.items()) for trial in trials}
        found: list[Point] = []
        for number in numbers:
            for attempt in range(_ATTEMPTS):
                study.sampler = self._sampler(_seed(self.sweep.seed, number, attempt))
                asked = study.ask(self._distributions)
                point = self._point(asked.params)
                if frozenset(point.items()) not in seen:
                    break
                study.tell(asked, state=TrialState.FAIL)
            else:
                if self.space.count is not None:
                    left = (p for p in self._shuffled() if frozenset(p.items()) not in seen)
                    point = next(left, point)
            seen.add(frozenset(point.items()))
            found.append(point)
        return found

    def _shuffled(self) -> Iterator[Point]:
        """Yield the points of a space that has a `count`, in an order of the seed's."""
        count = self.space.count or 0
        order = random.Random(self.sweep.seed)  # noqa: S311 - an order, and no secret
        if count <= sys.maxsize:
            yield from map(self.space.point, order.sample(range(count), min(count, MOST)))
        else:  # more than a range can have: no number of so many comes twice
            yield from (self.space.point(order.randrange(count)) for _ in range(MOST))

    def _told(self, trial: Trial) -> "FrozenTrial | None":
        """Return a trial as Optuna has it; None for one that is no point of this space."""
        from optuna.trial import TrialState, create_trial

        state, values = TrialState.FAIL, list(trial.values or ())
        scored = len(values) == len(self.sweep.metrics) and all(map(math.isfinite, values))
        if trial.status in _RUNNING:
            state = TrialState.RUNNING
        elif trial.status == "PRUNED" and len(self.sweep.metrics) == 1:
            state = TrialState.PRUNED
        elif trial.status == "FINISHED" and scored:
            state = TrialState.COMPLETE
        try:
            return create_trial(
                state=state,
                values=values if state == TrialState.COMPLETE else None,
                params={axis.key: axis.value(trial.point[axis.key]) for axis in self.space.axes},
                distributions=self._distributions,
                intermediate_values=dict(trial.reports) if state == TrialState.PRUNED else None,
            )
        except (ValueError, KeyError):  # what is in the bucket is not trusted
            return None

    def _point(self, params: Mapping[str, Any]) -> Point:
        return {axis.key: axis.text(params[axis.key]) for axis in self.space.axes}

    def _sampler(self, seed: int) -> "BaseSampler":
        from optuna import samplers
        from optuna.exceptions import ExperimentalWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            match self.sweep.sampler:
                case "random":
                    return samplers.RandomSampler(seed)
                case "tpe":
                    return samplers.TPESampler(seed=seed, constant_liar=True)
                case _:
                    return samplers.GPSampler(seed=seed)


class _Given(Search):
    """Proposes nothing: whoever proposes the points makes the trials, and ends the sweep."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.pruner = sweep, None

    def exhausted(self, trials: Sequence[Trial]) -> bool:
        return False

    def ask(self, trials: Sequence[Trial], count: int) -> list[Point]:
        return []


def blind(sweep: Sweep, trials: Sequence[Trial], since_ms: float = 0.0) -> str:
    """Return why a search learns nothing: its trials finish without its metrics; "" if not so.

    What ended before `since_ms`, in milliseconds since the epoch, does not count.
    """
    if not (sweep.pruner or sweep.sampler in LEARNERS):
        return ""
    finished = [trial for trial in trials if trial.status == "FINISHED"]
    ended = [max((job.ended_ms or 0 for job in trial.jobs), default=0) for trial in finished]
    return without(sweep, trials) if sum(each > since_ms for each in ended) >= _BLIND else ""


def without(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """Return which of its metrics no trial of a sweep has that finished; "" if one has them all."""
    finished = [trial for trial in trials if trial.status == "FINISHED"]
    if not sweep.metrics or not finished or any(trial.values for trial in finished):
        return ""
    logged = [set(job.metrics) for trial in finished for job in trial.jobs]
    missing = [name for name in sweep.metrics if not all(name in each for each in logged)]
    known = ", ".join(sorted(set().union(*logged) - set(missing))[:_NAMED]) or "no metric"
    what = " and ".join(missing) or "a finite value"
    return f"{counted(len(finished), 'trial')} finished without {what}; they logged {known}"


def _seed(*of: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(of).encode()).digest()[:4]) >> 1


def _check(sweep: Sweep, space: Space, folds: Sequence[str]) -> None:
    def refuse(problem: str, hint: str) -> None:
        raise UsageError("planning the sweep", problem, hint)

    sampler, metrics = sweep.sampler, sweep.metrics
    if sampler not in SAMPLERS:
        hint = f"{did_you_mean(sampler, SAMPLERS)} There are: {', '.join(SAMPLERS)}.".lstrip()
        refuse(f"there is no sampler {sampler!r}", hint)
    if space.count == 1 and not folds:
        problem = "the space has one point" if space.axes else "nothing is swept"
        refuse(problem, "Give a key several values: model=a,b; one point is a `kaggleops run`.")
    endless = [axis.expression for axis in space.axes if not axis.values]
    if sampler == "grid" and endless:
        hint = "Add --sampler tpe --trials N, or list values: range(FROM, BEFORE, STEP)."
        refuse(f"{endless[0]} is an interval, and has no grid", hint)
    if sampler != "grid" and sweep.trials is None and space.axes:
        refuse(f"--sampler {sampler} needs a number of trials", "Add --trials N.")
    wanted = space.count if sweep.trials is None else sweep.trials
    jobs = (wanted or 0) * max(1, len(folds))
    if wanted is not None and not 0 < jobs <= MOST:
        problem = f"{jobs:,} runs would be made, and {MOST:,} are the most"
        refuse(problem, "Add --trials N, or fewer values.")
    if len(set(metrics)) < len(metrics) or not all(each.strip() for each in metrics):
        refuse("a --metric is given twice, or has no name", "Name each once.")
    if len(metrics) != len(sweep.directions):
        problem = f"{len(sweep.directions)} directions are given for {len(metrics)} metrics"
        refuse(problem, "Add a --direction for each --metric, or none.")
    if not metrics and (sampler in LEARNERS or sweep.pruner):
        what = f"--sampler {sampler}" if sampler in LEARNERS else "--pruner"
        refuse(f"{what} needs a metric", "Add --metric NAME.")
    if len(metrics) > 1 and sweep.pruner:
        refuse("--pruner takes one metric", "Leave out --pruner.")
    for package in ("optuna", *_PACKAGES.get(sampler, ())) if sampler != "grid" else ():
        if importlib.util.find_spec(package) is None:
            named = "'kaggleops[sweep]'" if package == "optuna" else package
            problem = f"--sampler {sampler} needs {package}, which is not installed"
            refuse(problem, f"Install it: pip install {named}.")
