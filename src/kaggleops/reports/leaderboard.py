"""The commits of an experiment, ranked by their best score, and which made it worse."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from kaggleops.reports.comparison_text import difference, number, summary
from kaggleops.reports.history import History
from kaggleops.reports.score import SUBMITTED, Score, family
from kaggleops.reports.statistics import Difference, Scores, Summary, holm, summarize_scores
from kaggleops.reports.trainings import (
    Evidence,
    Run,
    Spread,
    Training,
    in_common,
    point_of,
    scores_of,
    spread_over_seeds,
    trainings,
    with_folds,
    worth,
)
from kaggleops.tags import BACKEND, BLEND, BRANCH, PARENT, TRIAL


@dataclass(frozen=True)
class Column:
    """A column of the board, from a tag or a metric of the runs of a training."""

    name: str  # its title, and its key in JSON
    tag: str = ""  # the tag; the runs' different values are listed
    metric: str = ""  # the metric, if it is not a tag; the best of the runs' values is shown


COLUMNS = (
    *(Column(name, metric=name) for name in SUBMITTED),
    Column("backend", tag=BACKEND),
)
"""The columns between the score and the commit's message: a new one is a line here."""

_NEWEST = 1000  # runs that tell how much seeds alone change a score


@dataclass(frozen=True)
class Entry:
    """One commit's best training."""

    sha: str  # the commit
    runs: tuple[str, ...]  # the ids of the runs of that training, one a fold and seed
    score: Summary  # their values of the metric
    # the text or number in each of the `COLUMNS`, by its name; none where it is empty
    cells: Mapping[str, str | float]
    values: Scores  # those values, by fold and seed
    parent: str = ""  # the nearest commit before it that has a score, or ""
    change: Difference | None = None  # the difference from that one; None without one
    # that one's mean and its own, of what was compared, where other means stand on the board
    means: tuple[float, float] | None = None
    # of what was compared, where there are others; where they differ, its own "against" that one's
    settings: str = ""
    regression: bool = False  # whether it is significantly worse than that one
    members: int = 0  # of a blend: how many runs it is of; in place of a commit it has its run's id


def read_runs(history: History, experiment_id: str, metric: str) -> list[Run]:
    """Return the finished runs of an experiment that have a commit and the metric; and blends."""
    tags = [BRANCH, *(column.tag for column in COLUMNS if column.tag)]
    metrics = [column.metric for column in COLUMNS if column.metric]
    scores = family(metric, history.metric_names(experiment_id)) or [metric]
    return with_folds(history.scored(experiment_id, scores, tags, metrics), metric, history.points)


def read_spread(history: History, experiment_id: str, metric: str) -> float | None:
    """Return the standard deviation over seeds of an experiment's newest trainings, as a board's.

    None if none of them has several seeds.
    """
    scores = family(metric, history.metric_names(experiment_id)) or [metric]
    return _spread(history.scored(experiment_id, scores, newest=_NEWEST), metric)


def _spread(runs: Sequence[Run], metric: str) -> float | None:
    """Return the same of runs at hand; of folds in one process the last one counts, as logged."""
    of_commits: defaultdict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (-run.started_ms, run.id))[:_NEWEST]:
        of_commits[run.sha or run.id].append(replace(run, folds={}))
    each = [one for mine in of_commits.values() for one in trainings(mine, metric)]
    return spread_over_seeds(one.scores for one in each)


def leaderboard(runs: Sequence[Run], score: Score, before: Mapping[str, str]) -> list[Entry]:
    """Return an experiment's commits by their runs' score, the best first.

    A commit is compared with the one `before` it, where the repository knows that, as `compare`
    does.
    """
    by_commit: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_commit[run.sha or run.id].append(run)  # a blend has no commit
    every = {
        sha: [each for each in trainings(mine, score.name) if each.scores]
        for sha, mine in by_commit.items()
    }
    spread = cache(lambda: _spread(runs, score.name))
    entries = [
        _entry(sha, mine, score, before.get(sha, ""), every.get(before.get(sha, ""), ()), spread)
        for sha, mine in every.items()
        if mine
    ]
    changes = holm([entry.change for entry in entries])  # all marks of the board hold at once
    verdicts = [change.verdict(score.lower) if change else "" for change in changes]
    entries = [
        replace(entry, change=change, regression=verdict == "worse")
        for entry, change, verdict in zip(entries, changes, verdicts, strict=True)
    ]
    entries.sort(key=lambda entry: entry.sha)
    return sorted(entries, key=lambda entry: worth(entry.score, score), reverse=True)


@dataclass(frozen=True)
class Tried:
    """A trial of a sweep."""

    number: str  # its own
    run_id: str  # its run's, below which the folds of one with folds are
    runs: tuple[str, ...]  # the ids of its runs that have the metric, one a fold
    score: Summary  # their values of it
    point: Mapping[str, str]  # what was set for it alone
    cells: Mapping[str, str | float]  # as those of an `Entry`


def trials_of(runs: Sequence[Run], trials: Sequence[Run], score: Score) -> list[Tried]:
    """Return those trials of a sweep of which runs have a score, the best first.

    Those of which folds are missing stand behind the others, whatever they came to so far.
    """
    below: defaultdict[str, dict[tuple[str, str], Run]] = defaultdict(dict)
    for run in sorted(runs, key=lambda run: -run.started_ms):
        for of in (run.id, run.tags.get(PARENT, "")):
            below[of].setdefault(run.repetition, run)
    found = []
    for trial in trials:
        # Of a trial with folds, its own run has no score.
        mine = [each for each in below[trial.id].values() if each.id != trial.id]
        mine = mine or list(below[trial.id].values())
        if mine and (came := summarize_scores(scores_of(mine, score.name))):
            ids = tuple(run.id for run in mine)
            number, point = trial.tags.get(TRIAL, "0"), point_of(trial.tags)
            found.append(Tried(number, trial.id, ids, came, point, _cells(mine, score)))
    whole = max((len(each.runs) for each in found), default=0)
    return sorted(
        found,
        key=lambda each: (len(each.runs) == whole, worth(each.score, score)),
        reverse=True,
    )


def _entry(
    sha: str,
    mine: Sequence[Training],
    score: Score,
    parent: str,
    before: Sequence[Training],
    spread: Spread,
) -> Entry:
    best, summary = _best(mine, score)
    ids = tuple(run.id for run in best.runs)
    members = best.runs[0].tags.get(BLEND, "").count(":")  # a weight for each run id, as JSON
    entry = Entry(sha, ids, summary, _cells(best.runs, score), best.scores, parent, members=members)
    if not before:
        return entry
    evidence = Evidence.of([before, mine], score, spread)
    first, second = in_common([each.scores for each in evidence.rows[0]])
    means = tuple(each.mean for each in map(summarize_scores, (first, second)) if each)
    theirs, ours = map(evidence.title, evidence.rows[0])
    settings = ours if evidence.are_alike or ours == theirs else f"{ours} against {theirs}"
    shown = _best(before, score)[1].mean, summary.mean
    return replace(
        entry,
        change=evidence.difference(first, second),
        means=(means[0], means[1]) if means != shown else None,
        settings=settings if evidence.has_choice else "",
    )


def _best(side: Sequence[Training], score: Score) -> tuple[Training, Summary]:
    whole = max((len(each.scores) for each in side if each.is_trial), default=0)

    def rank(training: Training) -> tuple[bool, float]:
        # A trial of which folds are still missing is better by chance than one that has them all.
        is_whole = len(training.scores) == whole or not training.is_trial
        return is_whole, worth(summarize_scores(training.scores), score)

    best = max(side, key=rank)
    summary = summarize_scores(best.scores)
    assert summary is not None  # noqa: S101 - those without values are not there
    return best, summary


def _cells(runs: Sequence[Run], score: Score) -> dict[str, str | float]:
    cells: dict[str, str | float] = {}
    for column in COLUMNS:
        if column.tag:
            texts = sorted({run.tags.get(column.tag, "") for run in runs} - {""})
            cells[column.name] = ", ".join(texts)
        else:
            values = [run.metrics.get(column.metric, math.nan) for run in runs]
            if finite := list(filter(math.isfinite, values)):
                cells[column.name] = (min if score.lower else max)(finite)
    return cells


def table(
    entries: Sequence[Entry], metric: str, subjects: Mapping[str, str]
) -> tuple[list[str], list[list[str]]]:
    """Return the board as a table's head and rows; `subjects` are those of commits, by hash."""
    names = [each.name for each in COLUMNS if any(entry.cells.get(each.name) for entry in entries)]
    rows = []
    for place, entry in enumerate(entries, 1):
        change = f"{difference(entry.change)} vs {entry.parent[:10]}" if entry.parent else ""
        if entry.means:
            first, second = map(number, entry.means)
            change += f", {first} to {second}"
        if entry.settings:
            change += f" ({entry.settings})"
        cells = [entry.cells.get(name, "") for name in names]
        rows.append([
            str(place),
            entry.sha[:10],
            summary(entry.score),
            f"{change} REGRESSION" if entry.regression else change,
            *(each if isinstance(each, str) else f"{each:.5f}" for each in cells),
            subjects.get(entry.sha, ""),
        ])  # fmt: skip
    return ["#", "commit", metric, "vs the one before", *names, "message"], rows
