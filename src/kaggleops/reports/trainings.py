"""Which runs are one training, and which trainings of two commits are compared.

A training is the folds and seeds of the same settings, wherever they ran. A sweep's fold set is one
training. What its folds log differently, their platform for one, is no setting of it. Each trial of
a sweep is a training of its own settings, and the sweep's parent is none. Where a run and those
nested below it log the same metric, that is said once: by the folds, which tell how far it varies,
or else by the parent, whose trials in one process the others are.

Of two commits, like is compared with like: the trainings that log the same settings, or for which
the same was set (`kaggleops run model=minilm`), whatever follows from the commit. `compare`, the
leaderboard and every page ask `Evidence`, so they say the same.
"""

import json
import math
import shlex
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean, variance

from kaggleops.errors import UsageError
from kaggleops.reports.score import FOLD_WORDS, Score, family, fold_of, of_folds
from kaggleops.reports.statistics import (
    Difference,
    Scores,
    Summary,
    difference,
    summarize_scores,
    words,
)
from kaggleops.tags import COMMIT, ENTRY_POINT, FOLD, PARENT, POINT, SETTINGS, SUBJECT, SWEEP, TRIAL

SEEDS = ("seed", "random_seed", "random_state")
REPEATED = ("fold", *SEEDS)
"""The params that distinguish the repetitions of one training."""

HOUSEKEEPING = ("overrides", *REPEATED)
"""The params that are not settings of a training."""

FOLD_COUNTS = ("n_folds", "n_splits", "num_folds", "k_folds", "folds", "kfold", "cv")
"""The params that say how many folds a script has, where it has them all in one process."""

EPOCHS = ("epochs", "n_epochs", "num_epochs", "max_epochs", "num_train_epochs")
"""Where one of these params is as high, a metric's steps are epochs."""

_ALL_FOLDS = ("all", "None", "-1")  # values of the param `fold` that name no single one
APART = "their settings differ"
"""Why a difference has no mark."""

_MOST_FOLDS = 50
_NEAREST = 50  # trainings that are looked through for the one that differs least

Points = Callable[[Sequence[str], str], Mapping[str, Sequence[tuple[int, float]]]]
"""Reads the steps and values of runs' metric, by the run's id (`History.points`)."""


@dataclass(frozen=True)
class Run:
    """One run: its own values and its experiment's name and id, as MLflow has them."""

    id: str
    name: str
    experiment: str
    experiment_id: str
    status: str
    started_ms: int  # in milliseconds since the epoch; 0 if not known
    artifacts: str  # the URI of its artifacts
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)  # the latest value of each
    steps: dict[str, int] = field(default_factory=dict)  # the last step of each
    # the digest of each dataset it was given, by name
    data: dict[str, str] = field(default_factory=dict)
    ended_ms: int | None = None  # in milliseconds since the epoch; None while it has not
    # the score's values by the folds that it had in one process, a step each, once they are read
    folds: Mapping[str, float] = field(default_factory=dict)

    @property
    def step(self) -> int | None:
        """The last step that it logged (not of its machine's load)."""
        own = [step for name, step in self.steps.items() if not name.startswith("system/")]
        return max(own, default=None)

    @property
    def sha(self) -> str:
        """Its commit's full hash, or ""."""
        return self.tags.get(COMMIT, "")

    @property
    def parent(self) -> str:
        """The id of its parent run, or ""."""
        return self.tags.get(PARENT, "")

    @property
    def is_bad_trial(self) -> bool:
        """Whether it is a trial of a sweep that failed or was pruned."""
        is_trial = TRIAL in self.tags and SWEEP not in self.tags
        return is_trial and self.status in ("FAILED", "KILLED")

    @cached_property
    def repetition(self) -> tuple[str, str]:
        """What distinguishes it from the others of its training: its fold and seed."""
        return repetition_of(self.params, self.tags)

    @cached_property
    def settings(self) -> frozenset[str]:
        """All its other params, and what a sweep set for it: `key=value` each."""
        told = {**point_of(self.tags), **self.params}
        # One of ten thousand runs, most of which have the same: each is kept in memory once.
        each = (sys.intern(f"{key}={told[key]}") for key in told if key not in HOUSEKEEPING)
        return frozenset(each)


@dataclass(frozen=True)
class Training:
    """The runs of one training."""

    runs: tuple[Run, ...]  # the newest of each fold and seed, the newest first
    settings: frozenset[str]  # `key=value` each, as they were logged
    scores: Scores  # the values of the metric that it was asked for, if one was

    @property
    def started_ms(self) -> int:
        """When the newest of its runs began, in milliseconds since the epoch."""
        return self.runs[0].started_ms

    @property
    def is_trial(self) -> bool:
        """Whether it is a trial of a sweep."""
        return TRIAL in self.runs[0].tags

    @cached_property
    def launched(self) -> set[frozenset[str]]:
        """What was set for its runs, as far as that is known: once, or several times."""
        found: defaultdict[str, list[frozenset[str]]] = defaultdict(list)
        for run in self.runs:
            if (known := _launched(run)) is not None:
                # The folds of a set have the rest in common, however their axis is called.
                found[run.parent if FOLD in run.tags else run.id].append(known)
        return {frozenset.intersection(*each) for each in found.values()}


def trainings(runs: Sequence[Run], metric: str = "") -> list[Training]:
    """Return the trainings of a commit's runs; of those that have a metric, if one is named."""
    if metric:
        runs = [run for run in runs if family(metric, run.metrics)]
    below: defaultdict[str, list[Run]] = defaultdict(list)
    fold_sets: defaultdict[str, list[frozenset[str]]] = defaultdict(list)
    for run in runs:
        if run.parent:
            below[run.parent].append(run)
            if FOLD in run.tags:
                fold_sets[run.parent].append(run.settings)
    # What differs between the folds of any set tells nothing of another.
    differing = {
        each.partition("=")[0]
        for folds in fold_sets.values()
        for each in frozenset.union(*folds) - frozenset.intersection(*folds)
    }
    shared = {
        parent: frozenset(each for each in folds[0] if each.partition("=")[0] not in differing)
        for parent, folds in fold_sets.items()
    }
    left_out = _said_elsewhere(runs, below, shared, metric)
    found: defaultdict[frozenset[str], dict[tuple[str, str], Run]] = defaultdict(dict)
    for run in sorted(runs, key=lambda run: -run.started_ms):
        if run.id not in left_out:
            own = shared.get(run.id, run.settings)
            key = shared.get(run.parent, own) if FOLD in run.tags else own
            found[key].setdefault(run.repetition, run)
    kept = ((key, tuple(each.values())) for key, each in found.items())
    return [Training(each, key, scores_of(each, metric) if metric else {}) for key, each in kept]


def _said_elsewhere(
    runs: Sequence[Run],
    below: Mapping[str, Sequence[Run]],
    fold_sets: Mapping[str, object],
    metric: str,
) -> set[str]:
    """Return the ids of runs that stand for no training of their own."""
    left_out: set[str] = set()
    for run in runs:
        own = {name for name in run.metrics if not name.startswith("system/")}
        own = set(family(metric, own)) if metric else own
        same = [child for child in below.get(run.id, ()) if own & set(child.metrics)]
        folds = {child.repetition for child in same if child.repetition[0]}
        # Of a fold set's parent, what it logs alone counts, but never for a score of its folds.
        if metric if run.id in fold_sets else SWEEP in run.tags:
            left_out.add(run.id)
        elif same:
            are_folds = len(folds) == len(same)
            left_out.update([run.id] if are_folds else [child.id for child in same])
    return left_out if len(left_out) < len({run.id for run in runs}) else set()


def _launched(run: Run) -> frozenset[str] | None:
    """Return what was set for a run with its entry point; None where that is not known."""
    # Versions that note no settings note no subject, or none of a sweep's runs.
    of_sweep = POINT in run.tags and SETTINGS not in run.tags
    if of_sweep or SWEEP in run.tags or not {ENTRY_POINT, SUBJECT} <= run.tags.keys():
        return None
    try:
        items = shlex.split(run.tags.get(SETTINGS, ""))
    except ValueError:
        return None
    kept = {each for each in items if _last_word(each.partition("=")[0]) not in REPEATED}
    return frozenset({f"\0{run.tags[ENTRY_POINT]}", *kept})


def _last_word(key: str) -> str:
    return key.lstrip("+~").rpartition(".")[2]


def repetition_of(params: Mapping[str, str], tags: Mapping[str, str]) -> tuple[str, str]:
    """Return what distinguishes a run from the others of its training: its fold and its seed."""
    fold = tags.get(FOLD) or params.get("fold", "")
    seed = next((params[name] for name in SEEDS if name in params), "")
    return "" if fold in _ALL_FOLDS else fold, seed


def point_of(tags: Mapping[str, str]) -> dict[str, str]:
    """Return what a sweep set for a run, by key; nothing where its tag tells nothing."""
    return {key.lstrip("+"): value for key, value in (point_told(tags) or {}).items()}


def point_told(tags: Mapping[str, str]) -> dict[str, str] | None:
    """Return what a sweep set for a run, as it set it; None where its tag does not tell."""
    try:
        told = json.loads(tags.get(POINT, ""))
    except (ValueError, RecursionError):
        return None
    whole = isinstance(told, dict) and all(isinstance(each, str) for each in told.values())
    return told if whole else None


# -- the values of a metric -----------------------------------------------------------------------


def scores_of(runs: Sequence[Run], metric: str) -> Scores:
    """Return the values of a metric of a training's runs by fold and seed.

    A run's folds in one process count as folds: those of `with_folds`, or under names of their own.
    """
    found: dict[tuple[str, str], float] = {}
    for run in runs:
        fold, seed = run.repetition
        within = {} if fold else run.folds or of_folds(metric, run.metrics)
        if not within and metric in run.metrics:
            within = {fold: run.metrics[metric]}
        for name, value in within.items():
            found.setdefault((name, seed), value)
    return found


def in_common(values: Sequence[Scores]) -> list[Scores]:
    """Return the values of the folds that all sides have; all values where they share none."""
    shared = set.intersection(*({fold for fold, _ in each} for each in values))
    if not shared:
        return list(values)
    return [{key: each[key] for key in each if key[0] in shared} for each in values]


def with_folds(runs: Sequence[Run], metric: str, points: Points) -> list[Run]:
    """Return runs with the values of a metric that they logged at a step for each fold.

    They are the points of a metric at the steps 0, 1, 2 … (or 1, 2, 3 …), one a step, where its
    name says so (`fold_rmse`, also for `rmse` and `cv_rmse`), or the run's params (`n_splits=5`).
    The index knows each metric's last step: only of runs that can have them, points are read.
    """
    asked: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if not run.repetition[0] and (name := _by_step(run, metric)):
            asked[name].append(run)
    found: dict[str, dict[str, float]] = {}
    counts = {run.id: _fold_counts(run) for having in asked.values() for run in having}
    for name, having in asked.items():
        for run_id, curve in points([run.id for run in having], name).items():
            steps, count = [step for step, _ in curve], len(curve)
            counts_up = steps in (list(range(count)), list(range(1, count + 1)))
            if counts_up and (_is_of_folds(name) or str(count) in counts[run_id]):
                found[run_id] = {str(step): value for step, value in curve}
    return [replace(run, folds=found.get(run.id, {})) for run in runs]


def _is_of_folds(metric: str) -> bool:
    return not FOLD_WORDS.isdisjoint(words(metric))


def _fold_counts(run: Run) -> set[str]:
    counts, epochs = (
        {run.params.get(name, "") for name in names} for names in (FOLD_COUNTS, EPOCHS)
    )
    return counts - epochs


def _by_step(run: Run, metric: str) -> str:
    """Return the metric with a run's values of folds at its steps; "" if there is none."""
    for name in family(metric, run.metrics):
        if fold_of(name):  # its steps are a fold's own: rounds, epochs
            continue
        if 0 < run.steps.get(name, 0) <= _MOST_FOLDS and _is_of_folds(name):
            return name
    last = run.steps.get(metric, 0)
    named = {str(last), str(last + 1)} & _fold_counts(run)
    return metric if 0 < last <= _MOST_FOLDS and named else ""


Spread = Callable[[], float | None]
"""Reads the standard deviation over seeds of an experiment's trainings; None if none has two."""


def spread_over_seeds(scores: Iterable[Scores]) -> float | None:
    """Return the standard deviation over seeds of trainings, within folds; None if none has two."""
    variances = []
    for each in scores:
        by_fold: defaultdict[str, list[float]] = defaultdict(list)
        for (fold, _), value in each.items():
            by_fold[fold].append(value)
        variances += [variance(values) for values in by_fold.values() if len(values) > 1]
    finite = [each for each in variances if math.isfinite(each)]
    return math.sqrt(fmean(finite)) if finite else None


# -- like for like --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evidence:
    """Which trainings of two or more commits say whether it helped."""

    score: Score
    sides: list[list[Training]]  # each commit's trainings that have the score
    # one training of each side, of the same settings; the first item is the answer
    rows: list[list[Training]]
    are_alike: bool  # whether those of the first item have the same settings
    # the standard deviation over seeds: of the sides' own trainings, else of the experiment's; None
    # where none has several, or the sides' own folds or seeds tell more
    spread: float | None

    @classmethod
    def of(
        cls,
        sides: Sequence[Sequence[Training]],
        score: Score,
        spread: Spread = lambda: None,
    ) -> "Evidence":
        """Return the evidence that commits' trainings are.

        The answer is the training for which nothing was set, else that with most folds and seeds,
        else the newest: not the one with the best score, which of several is better by chance.
        Where no settings are on every side, it is the best trial of a side whose newest training is
        a trial, else the trainings that differ in the fewest settings, the newest of those. They
        are alike all the same where no side has another one. Raises UsageError if a side has none.
        """
        found = [[each for each in side if each.scores] for side in sides]
        if not all(found):
            raise UsageError("comparing", f"not every side has a training with {score.name}")
        rows, are_alike = _alike(found, score)
        over_seeds = spread_over_seeds(each.scores for side in found for each in side)
        if over_seeds is None and any(len(each.scores) == 1 for each in rows[0]):
            over_seeds = spread()
        return cls(score, found, rows, are_alike, over_seeds)

    @property
    def has_choice(self) -> bool:
        """Whether a side has trainings of several settings."""
        return any(len(side) > 1 for side in self.sides)

    def difference(
        self,
        first: Scores,
        second: Scores,
        rows: tuple[Sequence[float], Sequence[float]] | None = None,
        metric: str = "",
    ) -> Difference | None:
        """Return `statistics.difference`, without a mark where the settings differ.

        Of a `metric` that is not the score it is not known how much seeds alone change it.
        """
        spread = self.spread if metric in ("", self.score.name) else None
        found = difference(first, second, rows, spread)
        if found is None or self.are_alike:
            return found
        return replace(found, p=None, why=APART)

    def title(self, training: Training) -> str:
        """Return what was set for a training, or how its settings differ from all others' here."""
        if known := training.launched:
            items = sorted(each for each in min(known, key=len) if not each.startswith("\0"))
            return " ".join(items) or "default settings"
        every = [each.settings for side in self.sides for each in side]
        items = sorted(training.settings - frozenset.intersection(*every))
        return " ".join(items[:4]) + (" …" if items[4:] else "") or "other settings"


def worth(found: Summary | None, score: Score) -> float:
    """Return what is larger for better values; NaN and infinities are never the best."""
    if found is None or not math.isfinite(found.mean):
        return -math.inf
    return -found.mean if score.lower else found.mean


def _alike(sides: Sequence[Sequence[Training]], score: Score) -> tuple[list[list[Training]], bool]:
    first, *others = sides
    by_settings = [
        {key: each for each in side[::-1] for key in each.launched}
        | {each.settings: each for each in side}
        for side in others
    ]
    rows = []
    for training in first:
        keys = (training.settings, *training.launched)
        like = [next((known[key] for key in keys if key in known), None) for known in by_settings]
        found = [each for each in like if each is not None]
        if len(found) == len(others):
            rows.append([training, *found])

    def order(row: Sequence[Training]) -> tuple[bool, int, int]:
        is_default = all(any(len(each) == 1 for each in one.launched) for one in row)
        return not is_default, -min(len(each.scores) for each in row), -row[0].started_ms

    if rows:
        return sorted(rows, key=order), True

    def apart(pair: tuple[Training, Training]) -> tuple[int, int, int]:
        changed = {each.partition("=")[0] for each in pair[0].settings ^ pair[1].settings}
        return len(changed), -pair[1].started_ms, -pair[0].started_ms

    newest = [sorted(side, key=lambda each: -each.started_ms)[:_NEAREST] for side in sides]
    choices = [_best_trial(side, score) or near for side, near in zip(sides, newest, strict=True)]
    one, two = min(((a, b) for a in choices[0] for b in choices[1]), key=apart)
    rest = [min(((one, each) for each in side), key=apart)[1] for side in choices[2:]]
    return [[one, two, *rest]], all(len(side) == 1 for side in sides)


def _best_trial(side: Sequence[Training], score: Score) -> list[Training]:
    """Return the best trial of a side whose newest training is one; else nothing.

    Of those with most folds: what a trial came to in some of them is by chance better.
    """

    def rank(training: Training) -> tuple[int, float]:
        return len(training.scores), worth(summarize_scores(training.scores), score)

    newest = max(side, key=lambda each: each.started_ms)
    return [max((each for each in side if each.is_trial), key=rank)] if newest.is_trial else []
