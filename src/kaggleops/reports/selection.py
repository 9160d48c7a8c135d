"""Runs by what people call them: a commit, branch, tag, run id, run name or "best".

And what `kaggleops run --require` requires of a run, and a finished run that can be used for it.
"""

import difflib
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kaggleops.errors import UsageError
from kaggleops.git.commits import commits_around, nearest_before, resolve
from kaggleops.printable import counted
from kaggleops.reports.history import History
from kaggleops.reports.score import family, named
from kaggleops.reports.statistics import summarize_scores
from kaggleops.reports.trainings import Run, scores_of, with_folds, worth
from kaggleops.tags import BEST, COMMIT, ENTRY_POINT, FOLD, PARENT, SWEEP, TRIAL

_SHOWN = 5  # candidates in a message
_HEX = re.compile(r"[0-9a-f]{4,40}")


@dataclass(frozen=True)
class Side:
    """One side of a comparison."""

    word: str  # its name in the command
    sha: str  # the full hash of its commit; "" if its runs have none
    runs: tuple[Run, ...]  # its runs with their children, the newest first

    @property
    def title(self) -> str:
        """Its name, with its commit."""
        if self.sha.startswith(self.word):
            return self.word[:10]
        return f"{self.word} ({self.sha[:10]})" if self.sha else self.word


class Selector:
    """Finds runs (of one experiment) by what people call them.

    The metric decides which run is "best": by default the score of the experiment, or of the one
    used last. `lower_is_better` is None to guess it from the metric's name.
    """

    def __init__(
        self,
        history: History,
        repository: Path | None,
        experiment: str | None = None,
        metric: str | None = None,
        lower_is_better: bool | None = None,
    ) -> None:
        self._history = history
        self._repository = repository
        self.experiment_id = None if experiment is None else self._id_of(experiment)
        self._metric = metric
        self._lower_is_better = lower_is_better
        self._commits = history.ids_by_tag(COMMIT)
        self._children = history.ids_by_tag(PARENT)
        self._patched = history.patched()

    def _id_of(self, experiment: str) -> str:
        known = self._history.experiments()
        if experiment not in known:
            hint = (
                _did_you_mean(experiment, known) or f"Known: {', '.join(sorted(known)[:_SHOWN])}."
            )
            raise UsageError(f"looking up experiment {experiment!r}", "there is none", hint)
        return known[experiment]

    def find(self, word: str) -> Side:
        """Return the finished runs that a name stands for; UsageError if it is not clear."""
        return self._side(word, self._meant(word))

    def run(self, word: str) -> Run:
        """Return the run that a name stands for: of several, the newest, rather a finished one.

        A sweep stands for its best trial, and a fold set for its first fold: nothing ran but those.
        """
        runs = self._meant(word)
        ids = {run.id for run in runs}
        whole = [run for run in runs if run.parent not in ids]
        found = next((run for run in whole if run.status == "FINISHED"), whole[0])
        for _ in ("a sweep", "a trial"):
            best = found.tags.get(BEST)
            is_parent = SWEEP in found.tags or (TRIAL in found.tags and FOLD not in found.tags)
            below = [best] if best else self._children.get(found.id, [])[::-1]
            found = next(iter(self._history.runs(below[:1])), found) if is_parent else found
        return found

    def sweep(self, word: str) -> tuple[Run, list[Run]]:
        """Return the sweep that a name stands for, and its trials' runs, by their numbers.

        A sweep over folds alone is its only trial. UsageError if it is not the name of one.
        """
        doing = f"looking for the sweep {word!r}"
        found = [run for run in self._meant(word) if SWEEP in run.tags]
        if len(found) != 1:
            ids = [run_id for each in self._history.ids_by_tag(SWEEP).values() for run_id in each]
            known = [f"{run.id} ({run.name})" for run in self._history.runs(ids[:_SHOWN])]
            problem = "several are called so" if found else "it is none"
            hint = f"Name one by its id: {', '.join(known)}." if known else "There is none yet."
            raise UsageError(doing, problem, hint)
        below = self._history.runs(self._children.get(found[0].id, []))
        trials = [run for run in below if TRIAL in run.tags and FOLD not in run.tags]
        folds = [run for run in below if FOLD in run.tags]
        return found[0], found if folds and not trials else trials

    def _meant(self, word: str) -> list[Run]:
        if word == "best":
            return self._best()
        if self._repository is not None and (sha := resolve(self._repository, word)):
            shas = [sha]
        else:
            shas = [sha for sha in self._commits if _HEX.fullmatch(word) and sha.startswith(word)]
        # So few digits of a commit begin some run's id, too.
        ids = runs_called(self._history, word, digits=8 if shas else _LEAST)
        called = self._in_experiment(self._history.runs(ids))
        of_commit = [run for sha in shas for run in self._of_commit(sha)]
        same = set(self._ids(called)) == set(self._ids(of_commit))
        if max(len(called), len(shas)) > 1 or (called and shas and not same):
            raise self._ambiguous(word, called, shas)
        if not (called or shas):
            raise self._unknown(word)
        if not (called or of_commit):
            problem = f"commit {shas[0][:10]} has none"
            if patched := self._in_experiment(self._history.runs(self._commits.get(shas[0], []))):
                problem += " but of uncommitted changes"
                hint = f"Commit them and run that, or name the run: {patched[0].id}."
                raise UsageError(f"looking for runs of {word!r}", problem, hint)
            hint = self._nearest(shas[0]) or "`kaggleops leaderboard` lists commits with runs."
            raise UsageError(f"looking for runs of {word!r}", problem, hint)
        return called or of_commit

    def before(self, side: Side) -> Side:
        """Return the nearest commit before a side's that has its experiment's score.

        As the leaderboard: the nearest through merges, and scored by the metric, if one is named.
        Before uncommitted changes that is the commit which they change.
        """
        doing = f"choosing what to compare {side.title} with"
        if self._repository is None or not side.sha:
            problem = "there is no repository here" if side.sha else "it has no commit"
            raise UsageError(doing, problem, "Name two sides.")
        # Of several experiments the one that it ran in last.
        last = max(side.runs, key=lambda run: run.started_ms)
        home, in_it, hint = last.experiment_id, "", "Name two sides."
        if any(run.experiment_id != home for run in side.runs):
            in_it = f" in {last.experiment}"
            hint = "Name two sides, or another experiment with --experiment."
        metric = self._metric
        if metric is None:
            with suppress(UsageError):
                metric = self._history.score(home, doing).name
        others = self._history.commits(home, metric)
        is_patched = not self._patched.isdisjoint(run.id for run in side.runs)
        found = side.sha if is_patched and side.sha in others else None
        found = found or nearest_before(self._repository, others | {side.sha}).get(side.sha)
        if found:
            runs = [run for run in self._of_commit(found) if run.experiment_id == home]
            return self._side(found[:10], runs)
        problem = f"no commit before it has finished runs with {metric or 'a metric'}{in_it}"
        if not resolve(self._repository, side.sha):
            problem = "the repository here lacks its commit"
        raise UsageError(doing, problem, hint)

    # -- by commit ----------------------------------------------------------------------------

    def _of_commit(self, sha: str) -> list[Run]:
        ids = [each for each in self._commits.get(sha, []) if each not in self._patched]
        return self._in_experiment(self._history.runs(ids))

    def _nearest(self, sha: str) -> str:
        if self._repository is None:
            return ""
        for other, distance in commits_around(self._repository, sha):
            if other in self._commits and self._of_commit(other):
                where = "before" if distance > 0 else "after"
                count = counted(abs(distance), "commit")
                return f"The nearest with runs is {other[:10]}, {count} {where} it."
        return ""

    # -- by run -------------------------------------------------------------------------------

    def _best(self) -> list[Run]:
        """Return the best run: of one that has folds in its process, their mean counts."""
        doing = "looking for the best run"
        experiment_id = self.experiment_id
        if self._metric is None:
            experiment_id = experiment_id or self._history.last_experiment()
            if experiment_id is None:
                raise UsageError(doing, "the bucket has no runs")
            score = self._history.score(experiment_id, doing)
        else:
            score = named(self._metric, self._lower_is_better)
        known = self._history.metric_names(experiment_id)
        names = family(score.name, known) or [score.name]
        runs = self._history.scored(experiment_id, names, of_commits=False)
        runs = with_folds(runs, score.name, self._history.points)

        def rank(run: Run) -> tuple[float, int]:
            return worth(summarize_scores(scores_of([run], score.name)), score), run.started_ms

        found = max(runs, key=rank, default=None)
        if found is None or rank(found)[0] == -math.inf:
            problem = f"no finished run has a number for the metric {score.name!r}"
            hint = "The UI's Columns menu lists the metrics."
            if self._history.count_patched(experiment_id, score.name):
                hint = "One of uncommitted changes does not count: name it by its id."
            raise UsageError(doing, problem, hint)
        return self._history.runs([found.id])

    # -- together -----------------------------------------------------------------------------

    def _side(self, word: str, runs: Sequence[Run]) -> Side:
        """Return a side with the finished ones of its runs and their children."""
        everything = self._history.runs(self._ids(runs))
        # Of a trial that failed or was pruned, the folds that finished tell too little.
        bad = {run.id for run in everything if run.is_bad_trial}
        finished = [run for run in everything if run.status == "FINISHED" and run.parent not in bad]
        if not finished:
            states = ", ".join(sorted({run.status for run in everything}))
            is_open = {"RUNNING", "SCHEDULED"} & {run.status for run in everything}
            hint = f"{'Wait for one' if is_open else 'Run it again'}, or name another."
            raise UsageError(f"comparing {word!r}", f"none of its runs finished ({states})", hint)
        return Side(word, finished[0].sha, tuple(finished))

    def _ids(self, runs: Sequence[Run]) -> list[str]:
        """Return the ids of runs, and of all below them that are not among them."""
        found = dict.fromkeys(run.id for run in runs)
        waiting = list(found)
        while waiting:
            below = [part for part in self._children.get(waiting.pop(), []) if part not in found]
            found.update(dict.fromkeys(below))
            waiting += below
        return list(found)

    def _in_experiment(self, runs: Sequence[Run]) -> list[Run]:
        wanted = self.experiment_id
        return [run for run in runs if wanted is None or run.experiment_id == wanted]

    def _ambiguous(self, word: str, runs: Sequence[Run], shas: Sequence[str]) -> UsageError:
        commits = ", ".join(sha[:10] for sha in shas[:_SHOWN])
        listed = "; ".join(f"{run.id} of {run.sha[:10] or 'no commit'}" for run in runs[:_SHOWN])
        found = [f"{counted(len(runs), 'run')}: {listed}"] if runs else []
        found += [f"{counted(len(shas), 'commit')}: {commits}"] if shas else []
        hint = "Name a run by its id, or a commit by its hash."
        return UsageError(f"looking for {word!r}", f"it matches {'; and '.join(found)}", hint)

    def _unknown(self, word: str) -> UsageError:
        known = [name for _, name in self._history.names()] + [sha[:10] for sha in self._commits]
        where = "" if self._repository else " (and there is no repository here to look in)"
        problem = f"no commit or run has this name{where}"
        return UsageError(f"looking for {word!r}", problem, _did_you_mean(word, known) or _NAMES)


_LEAST = 4  # digits of an id, as git takes them


def runs_called(history: History, word: str, digits: int = _LEAST) -> list[str]:
    """Return the ids of the runs with this name, or an id that begins so; the newest first.

    Of an id, it takes at least so many `digits`.
    """
    return [
        run_id
        for run_id, name in history.names()
        if name == word or (len(word) >= digits and run_id.startswith(word))
    ]


def the_run_called(history: History, word: str, where: str) -> str:
    """Return the id of the one run that `runs_called` finds in a bucket.

    Raises UsageError, with the candidates, if it is none or several.
    """
    ids, doing = runs_called(history, word), f"looking for run {word!r}"
    if len(ids) == 1:
        return ids[0]
    if ids:
        shown = "; ".join(_told(run) for run in history.runs(ids[:_SHOWN]))
        more = f"; and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
        problem = f"{len(ids)} runs have this name or id prefix"
        raise UsageError(doing, problem, f"Name one by its id: {shown}{more}.")
    hint = _did_you_mean(word, [name for _, name in history.names()]) or _RUNS
    raise UsageError(doing, f"no run in {where} has this name or id prefix", hint)


def _told(run: Run) -> str:
    commit = f", commit {run.sha[:10]}" if run.sha else ""
    return f"{run.id} ({run.name}, {run.status}{commit})"


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, dict.fromkeys(known), n=_SHOWN, cutoff=0.5)
    return f"Did you mean {', '.join(close)}?" if close else ""


_RUNS = "`kaggleops status` lists the last ones; an id takes at least 4 digits."
_NAMES = (
    "Name a commit, branch, tag, run id, run name or `best`; `kaggleops leaderboard` lists commits."
)

_COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_REQUIREMENT = re.compile(r"\s*([^<>=]*[^<>=\s])\s*(>=|<=|>|<)\s*([^<>=\s]+)\s*")


@dataclass(frozen=True)
class Requirement:
    """What the last value of a metric has to be."""

    metric: str
    comparison: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric}{self.comparison}{self.bound:g}"

    def is_met(self, value: float) -> bool:
        """Return whether a value is as required; NaN never is."""
        return bool(_COMPARISONS[self.comparison](value, self.bound))


def read_requirement(text: str) -> Requirement:
    """Parse METRIC OP NUMBER; UsageError if it is something else."""
    if match := _REQUIREMENT.fullmatch(text):
        with suppress(ValueError):
            if (bound := float(match[3])) == bound:
                return Requirement(match[1], match[2], bound)
    hint = "Write METRIC OP NUMBER with >=, <=, > or <, in quotes: --require 'jaccard>=0.71'."
    raise UsageError(f"reading --require {text!r}", "it is not a comparison with a number", hint)


def finished_run(
    history: History, sha: str, entry_point: str, params: Mapping[str, str], metric: str
) -> Run | None:
    """Return a finished run of a commit that was started with the same settings.

    These are `params`, all that the entry point declares, `overrides` included; other params that
    it logged follow from the code. Of several runs, it is the newest that has the metric, or else
    the newest.
    """
    patched = history.patched()
    found = [
        run
        for run in history.runs(history.ids_by_tag(COMMIT).get(sha, []))
        if run.status == "FINISHED"
        and run.tags.get(ENTRY_POINT) == entry_point
        and run.id not in patched
        and all(run.params.get(name) == value for name, value in params.items())
    ]
    return next((run for run in found if metric in run.metrics), found[0] if found else None)
