"""The commits of an experiment, ranked by their best score, and which made it worse."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kaggleops.errors import UsageError
from kaggleops.reports.history import History, Scored
from kaggleops.reports.statistics import (
    Difference,
    Summary,
    difference,
    higher_is_better,
    mean,
    summarize,
)
from kaggleops.tags import BACKEND, BRANCH

SUBMITTED = ("public_score", "private_score")
"""Metrics in which a submission records Kaggle's scores on its run."""


@dataclass(frozen=True)
class Column:
    """A column of the board, from a tag or a metric of the runs of a training.

    Args:
        name: its title, and its key in JSON.
        tag: the tag; the runs' different values are listed.
        metric: the metric, if it is not a tag; the best of the runs' values is shown.
    """

    name: str
    tag: str = ""
    metric: str = ""


COLUMNS = (
    *(Column(name, metric=name) for name in SUBMITTED),
    Column("backend", tag=BACKEND),
)
"""The columns between the score and the commit's message: a new one is a line here."""


@dataclass(frozen=True)
class Entry:
    """One commit's best training.

    Args:
        sha: the commit.
        runs: the ids of the runs of that training, one a fold and seed.
        score: their values of the metric.
        cells: the text or number in each of the `COLUMNS`, by its name; none where it is empty.
        parent: the nearest commit before it that has a score, or "".
        change: the difference from that one; None without one.
        regression: whether it is significantly worse than that one.
    """

    sha: str
    runs: tuple[str, ...]
    score: Summary
    cells: Mapping[str, str | float]
    parent: str = ""
    change: Difference | None = None
    regression: bool = False


def read_runs(history: History, experiment_id: str, metric: str) -> list[Scored]:
    """Return the finished runs of an experiment that have a commit and the metric."""
    tags = [BRANCH, *(column.tag for column in COLUMNS if column.tag)]
    metrics = [column.metric for column in COLUMNS if column.metric]
    return history.scored(experiment_id, metric, tags, metrics)


def leaderboard(
    runs: Sequence[Scored],
    metric: str,
    before: Mapping[str, str],
    shown: Sequence[Scored] | None = None,
    *,
    lower_is_better: bool | None = None,
) -> list[Entry]:
    """Return an experiment's commits, the best first.

    Args:
        runs: its runs.
        metric: what they are ranked by.
        before: the nearest of these commits before each, where the repository knows it.
        shown: the runs on the board; all by default. A commit is compared with the best of all runs
            of the one before, shown or not.
        lower_is_better: None to guess it from the metric's name.
    """
    highest = higher_is_better(metric, lower_is_better)
    best = _best_by_commit(runs, highest)
    board = best if shown is None else _best_by_commit(shown, highest)
    entries = [
        _entry(sha, mine, highest, before.get(sha, ""), best.get(before.get(sha, ""), ()))
        for sha, mine in board.items()
    ]
    entries.sort(key=lambda entry: entry.sha)
    return sorted(entries, key=lambda entry: _rank(entry.score.mean, highest), reverse=True)


def main_metric(counted: Mapping[str, int]) -> str:
    """Return the metric that most runs have and that looks like a score, by how many have each.

    Raises:
        UsageError: there is no metric at all.
    """
    scores = {name: count for name, count in counted.items() if _is_score(name)} or counted
    if not scores:
        hint = "Wait until one finishes, or name another experiment."
        raise UsageError("ranking the commits", "no finished run has a metric", hint)
    return min(scores, key=lambda name: (-scores[name], len(name), name))


_NO_SCORE = ("loss", "runtime", "per_second", "epoch", "learning_rate", "grad_norm", "flos", "step")


def _is_score(name: str) -> bool:
    hidden = name.startswith(("system/", "baseline")) or name in SUBMITTED
    return not hidden and not any(part in name for part in _NO_SCORE)


def _best_by_commit(runs: Sequence[Scored], highest: bool) -> dict[str, list[Scored]]:
    by_commit: defaultdict[str, list[Scored]] = defaultdict(list)
    for run in runs:
        by_commit[run.sha].append(run)
    return {sha: _best(each, highest) for sha, each in by_commit.items()}


def _best(runs: Sequence[Scored], highest: bool) -> list[Scored]:
    """Return the runs of the best of a commit's trainings, the newest of each fold and seed."""
    trainings: defaultdict[str, dict[tuple[str, ...], Scored]] = defaultdict(dict)
    for run in sorted(runs, key=lambda run: -run.started_ms):
        trainings[run.settings].setdefault(run.repetition, run)
    found = max(
        trainings.values(),
        key=lambda each: _rank(mean([run.value for run in each.values()]), highest),
    )
    return list(found.values())


def _rank(score: float, highest: bool) -> tuple[bool, float]:
    """Return what is larger for a better score; NaN and infinities are never the best."""
    if not math.isfinite(score):
        return False, 0.0
    return True, score if highest else -score


def _entry(
    sha: str, runs: Sequence[Scored], highest: bool, parent: str, before: Sequence[Scored]
) -> Entry:
    score = summarize([run.value for run in runs])
    assert score is not None  # noqa: S101 - each training has a run
    change = difference(_by_fold(before), _by_fold(runs))  # None where nothing is before it
    regression = change is not None and change.significant and (change.mean < 0) == highest
    ids = tuple(run.id for run in runs)
    return Entry(sha, ids, score, _cells(runs, highest), parent, change, regression)


def _cells(runs: Sequence[Scored], highest: bool) -> dict[str, str | float]:
    cells: dict[str, str | float] = {}
    for column in COLUMNS:
        if column.tag:
            texts = sorted({run.tags.get(column.tag, "") for run in runs} - {""})
            cells[column.name] = ", ".join(texts)
        elif values := [run.metrics[column.metric] for run in runs if column.metric in run.metrics]:
            cells[column.name] = (max if highest else min)(values)
    return cells


def _by_fold(runs: Sequence[Scored]) -> dict[tuple[str, ...], float]:
    return {run.repetition: run.value for run in runs}
