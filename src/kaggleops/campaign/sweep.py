"""A sweep: what its parent run says of it, and what its children say of themselves.

A sweep is a parent run with children. Each point that is tried is a trial; with an axis of folds, a
trial is a fold set, a run of its own with one child for each fold. What runs on a machine is a job:
a trial without folds, or one fold of a trial. All of it is in the bucket, in tags of these runs, so
any machine can go on with it, and the ids follow from the parent's: whoever makes the same job
again finds it.

    parent                     tag SWEEP: this module's `Sweep`, as JSON
      trial 0                  tags PARENT, TRIAL=0, POINT: {"model": "minilm"}
      trial 1 (a fold set)     tags PARENT, TRIAL=1, POINT: {"model": "tiny"}
        fold 0                 tags PARENT (trial 1), TRIAL=1, FOLD=0,
                                    POINT: {"model": "tiny", "fold": "0"}
        fold 1
    a sweep over folds alone: the parent is the fold set, and the folds are its children
"""

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from kaggleops.errors import KaggleOpsError
from kaggleops.reports.statistics import higher_is_better, mean

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Direction = Literal["maximize", "minimize"]
Point = Mapping[str, str]
"""What is set for one trial, by the key of its override: `{"trainer.learning_rate": "3e-05"}`."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep tries, and how: all that has to be known to go on with it on another machine."""

    # what is swept, as typed: `fold=0,1,2`, `model=glob(*)`, `lr=tag(log, interval(1e-5, 1e-3))`
    axes: Sequence[str]
    # `key=value` that every job gets
    overrides: Sequence[str] = ()
    # keys of parameters that are not Hydra's: their values are taken without quotes
    literal: Sequence[str] = ()
    entry_point: str = "main"
    # the axis whose values are folds of one training, "" for none
    fold_axis: str = ""
    folds: Sequence[str] = ()  # its values
    sampler: str = "grid"  # grid, random, or a sampler of Optuna's: tpe, gp
    trials: int | None = None  # how many points are tried; None for all of a grid
    # what is optimized, one direction each: several for a multi-objective search
    metrics: Sequence[str] = ()
    directions: Sequence[Direction] = ()
    seed: int = 0
    pruner: str = ""  # "", median, asha, patient; with arguments: `median(startup=5)`
    backends: Sequence[str] = ("local",)  # or ("auto",): all that are configured
    budget: float | None = (
        None  # US dollars that all jobs together may cost; None for none to spend
    )
    at_once: int | None = None  # jobs at the same time, None for as many as the platforms take
    # the fields of a backend's configuration by its name, as they were when the sweep began
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # what a job has to have, as the person who started it says: {"memory_gb": 16, "gpu": "T4,P100"}
    needs: Mapping[str, Any] = field(default_factory=dict)
    # whether the project has an entry point `gather`, which scores its folds together
    gather: bool = False
    # what `children.begin` finds out, where the repository is: the entry point's parameters with
    # their defaults, None for one that has none; and where a machine fetches the commit
    declared: Mapping[str, str | None] = field(default_factory=dict)
    code: str = ""
    # of this format: a watcher that does not know it leaves the sweep alone, and says so
    version: Literal[1] = 1
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    @property
    def only_folds(self) -> bool:
        """Whether it sweeps over folds alone: its parent is the fold set."""
        keys = {each.partition("=")[0] for each in self.axes}
        return bool(self.fold_axis) and keys == {self.fold_axis}

    def more_is_better(self, metric: str) -> bool:
        """Return whether a trial with more of a metric is better: as told, else by its name."""
        told = dict(zip(self.metrics, self.directions, strict=False)).get(metric)
        return told == "maximize" if told else higher_is_better(metric)

    def progress(self, statuses: Iterable[str]) -> str:
        """Return how far it is, told by the status of each trial that there is (or fold)."""
        if self.only_folds:
            return progress(statuses, len(self.folds) or None, "folds")
        return progress(statuses, self.trials)

    def to_tag(self) -> str:
        """Return the text of the tag SWEEP."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_tag(cls, text: str) -> "Sweep":
        """Return the sweep that a tag tells; KaggleOpsError where it tells none."""
        try:
            return _adapter().validate_json(text)
        except ValueError as error:
            doing, problem = "reading a sweep's tag", "it is not what this version writes"
            hint = "Use the version of KaggleOps that began the sweep."
            raise KaggleOpsError(doing, problem, hint) from error


@cache
def _adapter() -> "TypeAdapter[Sweep]":
    from pydantic import TypeAdapter  # `status` is not to pay for it where there is no sweep

    return TypeAdapter(Sweep)


STATUS_WORDS = {
    "RUNNING": "running", "LOST": "lost", "SCHEDULED": "waiting", "FAILED": "failed",
    "PRUNED": "pruned", "KILLED": "killed",
}  # fmt: skip
"""What people are told of a trial or job that is not finished, by its status."""


def progress(statuses: Iterable[str], total: int | None = None, what: str = "trials") -> str:
    """Return how far trials or folds are in a few words: "12 of 40 trials, 2 running".

    Args:
        statuses: of each that there is; "" for one without a run.
        total: how many there are going to be, if that is known.
        what: what they are called.
    """
    counted = Counter(statuses)
    done = counted["FINISHED"]
    others = [f"{counted[each]} {word}" for each, word in STATUS_WORDS.items() if counted[each]]
    return ", ".join([f"{done} {what}" if total is None else f"{done} of {total} {what}", *others])


def trial_id(sweep_id: str, number: int) -> str:
    """Return the run id of a trial: 32 hexadecimal digits that follow from its parent."""
    return _derived(sweep_id, "trial", str(number))


def fold_id(trial: str, fold: str) -> str:
    """Return the run id of one fold of a trial (or of a sweep over folds alone)."""
    return _derived(trial, "fold", fold)


def _derived(*of: str) -> str:
    return hashlib.sha256("\0".join(of).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Job:
    """One run of a sweep that a machine runs."""

    run_id: str
    number: int  # its trial's
    point: Point  # what is set for it alone, its fold included
    fold: str = ""
    # MLflow's, LOST, or "" while there is no such run yet
    status: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)  # the last value of each
    begun_ms: int = 0
    ended_ms: int | None = None
    step: int | None = None  # the last one that it logged


@dataclass(frozen=True)
class Trial:
    """One point that is tried: a job, or a fold set of several."""

    number: int
    run_id: str
    point: Point  # without its fold
    jobs: Sequence[Job]
    # what it came to, one for each of the sweep's metrics (of a fold set: the means of all folds);
    # None while that is not known, or where a job did not log it
    values: Sequence[float] | None = None
    # MLflow's word for the trial as a whole; PRUNED where it was ended as hopeless; LOST while a
    # job is lost
    status: str = "SCHEDULED"
    # what its jobs logged of the first metric so far: (step, value), by step; the mean over those
    # folds that have reached the step
    reports: Sequence[tuple[int, float]] = ()
    # those of its run: of a fold set it is none of the jobs
    tags: Mapping[str, str] = field(default_factory=dict)


def front(scores: Mapping[int, Sequence[float]]) -> set[int]:
    """Return the numbers of those that no other is as good as in everything and better in one.

    `scores` are of each trial by its number, one for each metric; more is better.
    """

    def beats(one: Sequence[float], other: Sequence[float]) -> bool:
        return one != other and all(a >= b for a, b in zip(one, other, strict=True))

    return {
        number
        for number, mine in scores.items()
        if not any(beats(other, mine) for other in scores.values())
    }


def means_by_step(curves: Iterable[Iterable[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Return the steps of some curves, each with the mean of those that have a number there."""
    by_step: defaultdict[int, list[float]] = defaultdict(list)
    for curve in curves:
        for step, value in dict(curve).items():
            if not math.isnan(value):
                by_step[step].append(value)
    return [(step, mean(values)) for step, values in sorted(by_step.items())]


def means_of(jobs: Sequence[Job], metrics: Sequence[str]) -> list[float] | None:
    """Return the mean of each metric over jobs; None where one has no finite value of it."""
    each = [[job.metrics.get(name, math.nan) for job in jobs] for name in metrics]
    means = [mean(some) for some in each if some]
    return means if jobs and all(map(math.isfinite, means)) else None


def next_number(trials: Iterable[Trial]) -> int:
    """Return the number of the trial after those there are."""
    return max((trial.number for trial in trials), default=-1) + 1
