"""Runs by what people call them: a commit, branch, tag, run id, run name or "best".

And what `kaggleops run --require` requires of a run, and a finished run that can be used for it.
"""

import difflib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kaggleops.errors import UsageError
from kaggleops.git.commits import resolve
from kaggleops.git.history import commits_around
from kaggleops.reports.history import History, Run
from kaggleops.reports.statistics import higher_is_better
from kaggleops.tags import ENTRY_POINT, UNCOMMITTED

_SHOWN = 5  # candidates in a message
_HEX = re.compile(r"[0-9a-f]{4,40}")


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Args:
        word: its name in the command.
        sha: the full hash of its commit; "" if its runs have none.
        runs: its runs with their children, the newest first.
    """

    word: str
    sha: str
    runs: tuple[Run, ...]

    @property
    def title(self) -> str:
        """Its name, with its commit."""
        if self.sha.startswith(self.word):
            return self.word[:10]
        return f"{self.word} ({self.sha[:10]})" if self.sha else self.word


class Selector:
    """Finds runs by what people call them.

    Args:
        history: the runs.
        repository: a folder of the repository of their commits, if there is one.
        experiment: only this experiment's runs.
        metric: the one that decides which run is "best".
        lower_is_better: None to guess it from the metric's name.
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
        self.experiment_id = self._id_of(experiment)
        self._metric = metric
        self._lower_is_better = lower_is_better
        self._commits = history.commits()
        self._children = history.children()

    def _id_of(self, experiment: str | None) -> str | None:
        if experiment is None:
            return None
        known = self._history.experiments()
        if experiment not in known:
            names = difflib.get_close_matches(experiment, known, n=_SHOWN, cutoff=0.3) or known
            hint = f"Known: {', '.join(sorted(names)[:_SHOWN])}."
            raise UsageError(f"looking up experiment {experiment!r}", "there is none", hint)
        return known[experiment]

    def find(self, word: str) -> Side:
        """Return the finished runs that a name stands for; UsageError if it is not clear."""
        return self._side(word, self._meant(word))

    def run(self, word: str) -> Run:
        """Return the run that a name stands for: of several, the newest, rather a finished one."""
        runs = self._meant(word)
        ids = {run.id for run in runs}
        whole = [run for run in runs if run.parent not in ids]
        return next((run for run in whole if run.status == "FINISHED"), whole[0])

    def _meant(self, word: str) -> list[Run]:
        if word == "best":
            return self._best()
        called, shas = self._called(word), self._shas(word)
        of_commit = [run for sha in shas for run in self._of_commit(sha)]
        same = set(self._ids(called)) == set(self._ids(of_commit))
        if max(len(called), len(shas)) > 1 or (called and shas and not same):
            raise self._ambiguous(word, called, shas)
        if not (called or shas):
            raise self._unknown(word)
        if not (called or of_commit):
            problem = f"commit {shas[0][:10]} has none"
            hint = self._nearest(shas[0]) or "`kaggleops leaderboard` lists commits with runs."
            raise UsageError(f"looking for runs of {word!r}", problem, hint)
        return called or of_commit

    def before(self, side: Side) -> Side:
        """Return the nearest commit before a side's that has finished runs of its experiment."""
        doing = f"choosing what to compare {side.title} with"
        experiment_ids = {run.experiment_id for run in side.runs}
        if self._repository is None or not side.sha:
            raise UsageError(doing, "there is no repository here", "Name two sides.")
        for sha, distance in commits_around(self._repository, side.sha):
            runs = self._of_commit(sha) if distance > 0 else []
            alike = [run for run in runs if run.experiment_id in experiment_ids]
            if any(run.status == "FINISHED" for run in alike):
                return self._side(sha[:10], alike)
        problem = "no commit before it has finished runs of its experiment"
        raise UsageError(doing, problem, "Name two sides.")

    # -- by commit ----------------------------------------------------------------------------

    def _shas(self, word: str) -> list[str]:
        if self._repository is not None and (sha := resolve(self._repository, word)):
            return [sha]
        return [sha for sha in self._commits if _HEX.fullmatch(word) and sha.startswith(word)]

    def _of_commit(self, sha: str) -> list[Run]:
        return self._in_experiment(self._history.runs(self._commits.get(sha, [])))

    def _nearest(self, sha: str) -> str:
        if self._repository is None:
            return ""
        for other, distance in commits_around(self._repository, sha):
            if other in self._commits and self._of_commit(other):
                where = "before" if distance > 0 else "after"
                count = "1 commit" if abs(distance) == 1 else f"{abs(distance)} commits"
                return f"The nearest with runs is {other[:10]}, {count} {where} it."
        return ""

    # -- by run -------------------------------------------------------------------------------

    def _called(self, word: str) -> list[Run]:
        names = self._history.names()
        ids = [run_id for run_id, _ in names if len(word) >= 8 and run_id.startswith(word)]
        if not ids:
            ids = [run_id for run_id, name in names if name == word]
        return self._in_experiment(self._history.runs(ids))

    def _best(self) -> list[Run]:
        doing = "looking for the best run"
        if self._metric is None:
            raise UsageError(doing, "no metric is named", "Add --metric NAME.")
        highest = higher_is_better(self._metric, self._lower_is_better)
        found = self._history.best(self._metric, highest=highest, experiment_id=self.experiment_id)
        if found is None:
            problem = f"no finished run has the metric {self._metric!r}"
            raise UsageError(doing, problem, "The UI's Columns menu lists the metrics.")
        return self._history.runs([found])

    # -- together -----------------------------------------------------------------------------

    def _side(self, word: str, runs: Sequence[Run]) -> Side:
        """Return a side with the finished ones of its runs and their children."""
        everything = self._history.runs(self._ids(runs))
        finished = [run for run in everything if run.status == "FINISHED"]
        if not finished:
            states = ", ".join(sorted({run.status for run in everything}))
            hint = "Wait for one, or name another."
            raise UsageError(f"comparing {word!r}", f"none of its runs finished ({states})", hint)
        return Side(word, finished[0].sha, tuple(finished))

    def _ids(self, runs: Sequence[Run]) -> list[str]:
        """Return the ids of runs, and of their children that are not among them."""
        parts = [part for run in runs for part in self._children.get(run.id, [])]
        return list(dict.fromkeys([*(run.id for run in runs), *parts]))

    def _in_experiment(self, runs: Sequence[Run]) -> list[Run]:
        wanted = self.experiment_id
        return [run for run in runs if wanted is None or run.experiment_id == wanted]

    def _ambiguous(self, word: str, runs: Sequence[Run], shas: Sequence[str]) -> UsageError:
        commits = ", ".join(sha[:10] for sha in shas[:_SHOWN])
        listed = "; ".join(f"{run.id} of {run.sha[:10] or 'no commit'}" for run in runs[:_SHOWN])
        if not runs:
            problem, hint = f"it matches {commits}", "Add some characters."
        elif not shas:
            problem, hint = f"it matches {len(runs)} runs: {listed}", "Name one by its id."
        else:
            problem = f"it matches the run {listed} and the commit {commits}"
            hint = "Name a run by its id, or a commit by its hash."
        return UsageError(f"looking for {word!r}", problem, hint)

    def _unknown(self, word: str) -> UsageError:
        known = [name for _, name in self._history.names()] + [sha[:10] for sha in self._commits]
        close = difflib.get_close_matches(word, list(dict.fromkeys(known)), n=_SHOWN, cutoff=0.5)
        hint = f"Did you mean {', '.join(close)}?" if close else _NAMES
        where = "" if self._repository else " (and there is no repository here to look in)"
        return UsageError(f"looking for {word!r}", f"no commit or run has this name{where}", hint)


_NAMES = (
    "Name a commit, branch, tag, run id, run name or `best`; `kaggleops leaderboard` lists commits."
)

_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
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
        return _COMPARISONS[self.comparison](value, self.bound)


def read_requirement(text: str) -> Requirement:
    """Parse METRIC OP NUMBER; UsageError if it is something else."""
    match = _REQUIREMENT.fullmatch(text)
    try:
        bound = float(match[3]) if match else float("nan")
    except ValueError:
        bound = float("nan")
    if match is None or bound != bound:
        hint = "Write METRIC OP NUMBER with >=, <=, > or <, in quotes: --require 'jaccard>=0.71'."
        raise UsageError(
            f"reading --require {text!r}", "it is not a comparison with a number", hint
        )
    return Requirement(match[1], match[2], bound)


def finished_run(
    history: History, sha: str, entry_point: str, params: Mapping[str, str], metric: str
) -> Run | None:
    """Return a finished run of a commit that was started with the same settings.

    Other params that it logged follow from the code, and are not compared.

    Args:
        history: the runs.
        sha: the commit's full hash.
        entry_point: the entry point that started it.
        params: all that the entry point declares, `overrides` included.
        metric: of several runs, the newest that has it is returned, or else the newest.
    """
    found = [
        run
        for run in history.runs(history.commits().get(sha, []))
        if run.status == "FINISHED"
        and run.tags.get(ENTRY_POINT) == entry_point
        and UNCOMMITTED not in run.tags
        and all(run.params.get(name) == value for name, value in params.items())
    ]
    return next((run for run in found if metric in run.metrics), found[0] if found else None)
