"""The commits of an experiment by their best score, and where one made it worse."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kaggleops.errors import UsageError
from kaggleops.reports.history import SUBMITTED, Scored
from kaggleops.reports.metrics import higher_is_better
from kaggleops.reports.statistics import Difference, Summary, difference, mean, summarize


@dataclass(frozen=True)
class Entry:
    """One commit's best training.

    Args:
        sha: the commit.
        runs: the ids of the runs of that training, one a fold and seed.
        score: their values of the metric.
        backend: where they ran, "" where nobody knows.
        submitted: Kaggle's scores of them, the best of each.
        parent: the nearest commit before it that is on the board, or "".
        change: against that one; None where there is none.
        regression: whether it is worse than that one, beyond chance.
    """

    sha: str
    runs: tuple[str, ...]
    score: Summary
    backend: str
    submitted: Mapping[str, float]
    parent: str = ""
    change: Difference | None = None
    regression: bool = False


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
        shown: those of the runs that the board is of; by default all. What a commit is held
            against is the best of all the runs of the one before.
        lower_is_better: whether less of the metric is better; None to tell it from its name.
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


def submitted_pairs(entries: Sequence[Entry], name: str) -> list[tuple[float, float]]:
    """Return the mean score of each entry with Kaggle's, for those that were submitted.

    Args:
        entries: the board.
        name: which of Kaggle's scores, of `SUBMITTED`.
    """
    return [
        (entry.score.mean, entry.submitted[name])
        for entry in entries
        if name in entry.submitted and math.isfinite(entry.score.mean)
    ]


def main_metric(counted: Mapping[str, int]) -> str:
    """Return the metric that most runs have and that is a score, as far as its name tells.

    Args:
        counted: how many runs have each.

    Raises:
        UsageError: there is none.
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
    """Return what is larger for a better score; what is no number is never the best."""
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
    submitted: dict[str, float] = {}
    better = max if highest else min
    for run in runs:
        for name, value in run.submitted.items():
            submitted[name] = better(value, submitted.get(name, value))
    backends = sorted({run.backend for run in runs} - {""})
    ids = tuple(run.id for run in runs)
    return Entry(sha, ids, score, ", ".join(backends), submitted, parent, change, regression)


def _by_fold(runs: Sequence[Scored]) -> dict[tuple[str, ...], float]:
    return {run.repetition: run.value for run in runs}
