"""What runs say of their commits: those count that were set as the runs at both ends were.

What was set is what the entry point declares; the rest of a run's params may follow from the code,
whose changes are what is looked into. Nobody knows that of runs that no entry point started: there
it is what both ends have in common.
"""

import math
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kaggleops.project.overrides import OVERRIDES
from kaggleops.reports.history import HOUSEKEEPING, REPEATED, Run
from kaggleops.reports.statistics import mean

ENTRY_POINT_TAG = "mlflow.project.entryPoint"
TAGS = ("uncommitted", "lost", "job_ended", ENTRY_POINT_TAG)
"""The tags of a run that are looked at here."""

_WAITING = ("RUNNING", "SCHEDULED")

Repetition = tuple[str, ...]
"""A fold and a seed, "" each where there is none."""


@dataclass(frozen=True)
class EntryPoint:
    """What starts the runs.

    Args:
        name: its name, "" for runs that none started.
        declared: its params with their defaults at the bad end; None where nobody knows.
    """

    name: str
    declared: Mapping[str, Any] | None = None

    @property
    def names(self) -> frozenset[str] | None:
        """The names of the params that can be set; None where nobody knows."""
        return None if self.declared is None else frozenset((*self.declared, OVERRIDES))


@dataclass(frozen=True)
class Trial:
    """What one start of an entry point came to.

    Args:
        run: its run.
        values: the metric by fold and seed: its own, and those of its parts.
    """

    run: Run
    values: Mapping[Repetition, float]


@dataclass(frozen=True)
class Training:
    """How both ends were trained, and the commits between are to be.

    Args:
        entry_point: what started them.
        trials: those at the bad end.
        set_params: the names of the params that were set.
        repetitions: the folds and seeds that both ends have.
    """

    entry_point: EntryPoint
    trials: tuple[Trial, ...]
    set_params: frozenset[str]
    repetitions: frozenset[Repetition]

    @property
    def like(self) -> Run:
        """One of its runs; they differ in fold and seed only."""
        return self.trials[0].run


@dataclass(frozen=True)
class Evidence:
    """What there is of a commit.

    Args:
        score: its mean over the training's folds and seeds; None while one is missing.
        pending: runs that are under way.
        missing: runs at the bad end that nothing here corresponds to.
        trouble: why it will not get a score, or "".
    """

    score: float | None = None
    pending: tuple[Run, ...] = ()
    missing: tuple[Run, ...] = ()
    trouble: str = ""


def trials(runs: Iterable[Run], entry_point: EntryPoint, metric: str) -> list[Trial]:
    """Return what an entry point started, the newest first, without what was not of a commit alone.

    Args:
        runs: of one commit, with their parts.
        entry_point: which.
        metric: whose values to take.
    """
    by_id = {run.id: run for run in runs}
    values: defaultdict[str, dict[Repetition, float]] = defaultdict(dict)
    for run in by_id.values():
        value = run.metrics.get(metric, math.nan)
        if run.status == "FINISHED" and not math.isnan(value):
            start = by_id.get(run.parent, run)
            part = start is not run
            fold = run.params.get("fold", "") if part else _set(run, "fold", entry_point)
            values[start.id][fold, _set(start, "seed", entry_point)] = value
    started = [
        run
        for run in by_id.values()
        if run.parent not in by_id
        and run.tags.get(ENTRY_POINT_TAG, "") == entry_point.name
        and "uncommitted" not in run.tags
    ]
    return [Trial(run, values[run.id]) for run in sorted(started, key=lambda run: -run.started_ms)]


def training(
    good: Sequence[Trial], bad: Sequence[Trial], entry_point: EntryPoint
) -> Training | None:
    """Return the newest training at the bad end that the good end has too; None if there is none.

    Args:
        good: of the good end.
        bad: of the bad end.
        entry_point: what started them.
    """
    for some, others, names in _pairs(good, bad, entry_point):
        first, second = _newest(some), _newest(others)
        common = frozenset(first.keys() & second.keys())
        if common:
            made = {second[each].run.id: second[each] for each in sorted(common)}
            return Training(entry_point, tuple(made.values()), names, common)
    return None


def evidence(of: Training, some: Sequence[Trial], metric: str) -> Evidence:
    """Return what the trials of one commit say."""
    alike = [trial for trial in some if _alike(trial.run, of.like, of.set_params)]
    for group in [alike] if of.entry_point.names else _by_params(alike):
        found = _newest(group)
        if of.repetitions <= found.keys():
            return Evidence(score(of, group))
    found = _newest(alike)
    pending, missing = [], []
    for model in of.trials:
        if of.repetitions & model.values.keys() <= found.keys():
            continue
        last = next((trial.run for trial in alike if _stands_for(trial.run, model.run, of)), None)
        if last is None:
            missing.append(model.run)
        elif last.status in _WAITING:
            pending.append(last)
        else:
            what = "failed" if last.status == "FAILED" else f"has no {metric}"
            return Evidence(trouble=f"its run {last.id} {what}")
    return Evidence(pending=tuple(pending), missing=tuple(missing))


def score(of: Training, some: Sequence[Trial]) -> float:
    """Return the mean over the folds and seeds of a training, all of which are there."""
    found = _newest([trial for trial in some if _alike(trial.run, of.like, of.set_params)])
    return mean([found[each].values[each] for each in of.repetitions])


def differing(first: Run, second: Run, entry_point: EntryPoint) -> dict[str, list[str]]:
    """Return what two runs were set to that is not the same."""
    names = entry_point.names or first.params
    one, other = _settings(first, names), _settings(second, names)
    return {key: [each, other[key]] for key, each in one.items() if other.get(key, each) != each}


# -- which go together -------------------------------------------------------------------------


def _pairs(
    good: Sequence[Trial], bad: Sequence[Trial], entry_point: EntryPoint
) -> Iterable[tuple[list[Trial], list[Trial], frozenset[str]]]:
    if names := entry_point.names:
        for like in bad:
            some, others = (
                [trial for trial in end if _alike(trial.run, like.run, names)]
                for end in (good, bad)
            )
            yield some, others, names
        return
    for others in _by_params(bad):
        for some in _by_params(good):
            one, other = some[0].run.params, others[0].run.params
            shared = {key for key, value in one.items() if other.get(key) == value}
            yield some, others, frozenset(shared)


def _by_params(some: Sequence[Trial]) -> list[list[Trial]]:
    groups: defaultdict[tuple[tuple[str, str], ...], list[Trial]] = defaultdict(list)
    for trial in some:
        kept = (item for item in trial.run.params.items() if item[0] not in HOUSEKEEPING)
        groups[tuple(sorted(kept))].append(trial)
    return list(groups.values())


def _newest(some: Sequence[Trial]) -> dict[Repetition, Trial]:
    found: dict[Repetition, Trial] = {}
    for trial in some:
        for each in trial.values:
            found.setdefault(each, trial)
    return found


def _alike(run: Run, like: Run, names: Collection[str]) -> bool:
    """Tell whether two were set to the same; what one's commit does not know is left aside."""
    mine, theirs = _settings(run, names), _settings(like, names)
    return all(theirs.get(key, value) == value for key, value in mine.items())


def _stands_for(run: Run, like: Run, of: Training) -> bool:
    """Tell whether a run is another's fold and seed, and is or was more than an attempt."""
    # A machine's end and a platform's refusal say nothing of the commit.
    if run.status == "KILLED" or "lost" in run.tags:
        return False
    if run.status == "FAILED" and run.tags.get("job_ended", "").startswith("refused"):
        return False
    names = of.entry_point.names or {*of.set_params, *REPEATED}
    return all(
        like.params.get(name, value) == value for name, value in run.params.items() if name in names
    )


def _settings(run: Run, names: Collection[str]) -> dict[str, str]:
    kept = {key: value for key, value in run.params.items() if key in names and key not in REPEATED}
    if OVERRIDES in kept:
        kept[OVERRIDES] = _without_repetition(kept[OVERRIDES])
    return kept


def _without_repetition(overrides: str) -> str:
    return shlex.join(sorted(word for word in _words(overrides) if _key(word) not in REPEATED))


def _set(run: Run, name: str, entry_point: EntryPoint) -> str:
    """Return what somebody set a param to; "" where it is the code's own."""
    if entry_point.names is None or name in entry_point.names:
        return run.params.get(name, "")
    words = [word for word in _words(run.params.get(OVERRIDES, "")) if _key(word) == name]
    return words[-1].partition("=")[2] if words else ""


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _words(overrides: str) -> list[str]:
    try:
        return shlex.split(overrides)
    except ValueError:  # somebody's own param of that name
        return [overrides]
