"""The runs that find the commit that did it: which there are, and which are to be made next."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kaggleops.errors import UsageError
from kaggleops.git.history import suspects
from kaggleops.git.project_files import declared_at
from kaggleops.project.overrides import OVERRIDES
from kaggleops.reports.bisecting import Step, bisect
from kaggleops.reports.evidence import (
    ENTRY_POINT_TAG,
    TAGS,
    EntryPoint,
    Training,
    Trial,
    differing,
    evidence,
    score,
    training,
    trials,
)
from kaggleops.reports.history import COMMIT_TAG, PARENT_TAG, REPEATED, History, Run
from kaggleops.reports.selecting import BEST, Selector, Side


@dataclass(frozen=True)
class Search:
    """How far a search has come.

    Args:
        step: which commits are left.
        training: how each is run.
        pending: the runs of the next commit that are under way.
        missing: the runs at the bad end that are to be made of the next commit, too.
        skipped: why commits that are left cannot get a score.
    """

    step: Step
    training: Training
    pending: tuple[Run, ...]
    missing: tuple[Run, ...]
    skipped: Mapping[str, str]


@dataclass(frozen=True)
class Ends:
    """What is searched between."""

    good: str
    bad: str
    metric: str
    experiment: str | None = None
    lower_is_better: bool | None = None
    """For `best`; None to tell it from the metric's name."""


def search(
    history: History, repository: Path, ends: Ends, given_up: Mapping[str, str] | None = None
) -> Search:
    """Return how far the runs that there are lead.

    Args:
        history: the runs.
        repository: a folder of the repository.
        ends: what is searched between.
        given_up: why commits cannot be run, where this is known already.

    Raises:
        UsageError: an end has no such runs, or the two cannot be compared.
    """
    selector = Selector(history, repository, ends.experiment, ends.metric, ends.lower_is_better)
    sides = [selector.find(ends.good), selector.find(ends.bad)]
    good, bad = sides
    reader = _Reader(history, bad.runs[0].experiment_id, ends.metric)
    of, tried = _training(repository, sides, [reader.of_end(side) for side in sides], ends.metric)
    scores = {good.sha: score(of, tried[0]), bad.sha: score(of, tried[1])}
    left = [sha for sha in suspects(repository, [good.sha], bad.sha) if sha not in scores]
    found = {
        sha: evidence(of, trials(each, of.entry_point, ends.metric), ends.metric)
        for sha, each in reader.of_commits(left, of).items()
    }
    scores |= {sha: each.score for sha, each in found.items() if each.score is not None}
    skipped = {sha: each.trouble for sha, each in found.items() if each.trouble}
    skipped |= given_up or {}
    while True:
        step = bisect(repository, good.sha, bad.sha, scores, skipped)
        trouble = _unfit(repository, step.next, of) if step.next else ""
        if not trouble:
            break
        skipped[step.next] = trouble
    nothing = tuple(trial.run for trial in of.trials)
    at = found.get(step.next)
    return Search(
        step=step,
        training=of,
        pending=at.pending if at else (),
        missing=at.missing if at else nothing,
        skipped={sha: skipped[sha] for sha in step.left if sha in skipped},
    )


class _Reader:
    """Reads the runs of commits in one experiment, with their parts."""

    def __init__(self, history: History, experiment_id: str, metric: str) -> None:
        self._history = history
        self._experiment_id = experiment_id
        self._metric = metric
        self._commits = history.commits()
        self._children = history.children()

    def of_end(self, side: Side) -> list[Run]:
        """Return the runs of a commit, or the one that was named."""
        first = side.runs[0]
        by_id = len(side.word) >= 8 and first.id.startswith(side.word)
        if not (by_id or side.word in (BEST, first.name)):
            return self._read(self._with_parts(self._commits.get(side.sha, [])))
        doing = f"bisecting with the run {side.word!r}"
        if not side.sha:
            raise UsageError(doing, "it carries no commit", "Name one of a commit.")
        if first.parent:
            raise UsageError(doing, "it is a part of another", f"Name that one: {first.parent}.")
        if "uncommitted" in first.tags:
            raise UsageError(doing, "it ran uncommitted changes", "Name one of a commit alone.")
        return self._read(self._with_parts([first.id]))

    def of_commits(self, shas: Sequence[str], of: Training) -> dict[str, list[Run]]:
        """Return the runs of commits, with what is looked at of them."""
        names = (*of.set_params, *REPEATED, OVERRIDES, *TAGS, COMMIT_TAG, PARENT_TAG, self._metric)
        commit_of = {
            each: sha for sha in shas for each in self._with_parts(self._commits.get(sha, []))
        }
        found: defaultdict[str, list[Run]] = defaultdict(list)
        for run in self._read(list(commit_of), names):
            found[commit_of[run.id]].append(run)
        return dict(found)

    def _read(self, run_ids: Sequence[str], names: Sequence[str] = ()) -> list[Run]:
        runs = self._history.runs(run_ids, names)
        return [run for run in runs if run.experiment_id == self._experiment_id]

    def _with_parts(self, run_ids: Sequence[str]) -> list[str]:
        parts = (part for each in run_ids for part in self._children.get(each, []))
        return list(dict.fromkeys((*run_ids, *parts)))


def _training(
    repository: Path, sides: Sequence[Side], runs: Sequence[Sequence[Run]], metric: str
) -> tuple[Training, list[list[Trial]]]:
    """Return what both ends were trained like, and the trials of each."""
    doing = "bisecting"
    for side, each in zip(sides, runs, strict=True):
        if not any(run.status == "FINISHED" and metric in run.metrics for run in each):
            problem = f"no finished run of {side.title} has the metric {metric!r}"
            raise UsageError(doing, problem, "Run it first, or name another --metric.")
    apart: list[str] = []
    for name in dict.fromkeys(run.tags.get(ENTRY_POINT_TAG, "") for run in runs[1]):
        declared = declared_at(repository, sides[1].sha, name) if name else None
        entry_point = EntryPoint(name, declared)
        tried = [trials(each, entry_point, metric) for each in runs]
        if found := training(tried[0], tried[1], entry_point):
            return found, tried
        if tried[0] and tried[1]:
            differences = differing(tried[0][0].run, tried[1][0].run, entry_point)
            apart += [f"{key} is {' and '.join(pair)}" for key, pair in differences.items()]
    problem = "the ends were not run alike"
    if apart:
        problem += f": {'; '.join(dict.fromkeys(apart))}"
    hint = "Run one with the settings, folds and seeds of the other, or name two runs."
    raise UsageError(doing, problem, hint)


def _unfit(repository: Path, sha: str, of: Training) -> str:
    """Return why a commit cannot be run as the ends were, or ""."""
    if of.entry_point.declared is None:  # they were started in a way that nobody knows
        return ""
    there = declared_at(repository, sha, of.entry_point.name)
    if there is None:
        return f"it has no entry point {of.entry_point.name}"
    unset = [name for name, each in there.items() if each is None and name not in of.like.params]
    return f"it wants a value for {unset[0]}" if unset else ""
