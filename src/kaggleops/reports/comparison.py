"""Two or more sides, lined up: what differs between them, and whether it did help."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kaggleops.errors import UsageError
from kaggleops.git.history import Between, between
from kaggleops.git.project_files import require_code, used_code
from kaggleops.reports.history import Run
from kaggleops.reports.metrics import higher_is_better
from kaggleops.reports.selection import Side
from kaggleops.reports.statistics import Difference, Summary, bootstrap, difference, summarize
from kaggleops.reports.trainings import newest_trainings, repetition, settings, some
from kaggleops.tags import ACCELERATOR, BACKEND

_ENVIRONMENT = (ACCELERATOR, BACKEND)
_SYSTEM = "system/"

Rows = Callable[[Run], Mapping[str, Mapping[str, float]] | None]
"""Reads a run's out-of-fold scores: for each metric, a score by row; None where it has none."""


@dataclass(frozen=True)
class MetricLine:
    """One metric on every side.

    Args:
        name: the metric.
        higher_is_better: whether more of it is better.
        sides: each side's summary; None where it does not have it.
        differences: how much each later side is above the first; None where one lacks it.
    """

    name: str
    higher_is_better: bool
    sides: tuple[Summary | None, ...]
    differences: tuple[Difference | None, ...]

    def verdict(self, number: int) -> str:
        """Return "better", "worse" or "" (which nobody can tell) of the side after the first."""
        found = self.differences[number]
        if found is None or not found.significant:
            return ""
        return "better" if (found.mean > 0) == self.higher_is_better else "worse"


@dataclass(frozen=True)
class Comparison:
    """All that there is to say of some sides; the first is what the others are compared with.

    Args:
        sides: them.
        params: the params that differ, with the values of each side ("0.1, 0.2" for several).
        metrics: the metrics that any of them has.
        data: datasets' digests that differ, by name.
        environment: what differs of where they ran.
        code: what lies between the first side's commit and each other's; None where that is the
            same commit, or the repository is not at hand.
        notes: what a reader ought to know.
    """

    sides: tuple[Side, ...]
    params: dict[str, tuple[str, ...]]
    metrics: tuple[MetricLine, ...]
    data: dict[str, tuple[str, ...]]
    environment: dict[str, tuple[str, ...]]
    code: tuple[Between | None, ...]
    notes: tuple[str, ...]


def compare(
    sides: Sequence[Side],
    repository: Path | None,
    *,
    metrics: Iterable[str] = (),
    lower_is_better: bool | None = None,
    rows: Rows = lambda _: None,
    paths: Sequence[str] = (),
) -> Comparison:
    """Line up sides.

    Args:
        sides: two or more; the first is what the others are compared with.
        repository: a folder of the repository of their commits; None where there is none.
        metrics: only these; by default all but those of the machine.
        lower_is_better: whether less of them is better; None to tell it from each one's name.
        rows: reads a run's out-of-fold scores.
        paths: git's pathspecs for the code to show; by default what the runs can use of it.

    Raises:
        UsageError: their runs are of different tasks, or have none of the metrics in common; or
            nothing ever lay at one of the paths.
    """
    wanted = list(metrics)
    notes: list[str] = []
    newest = newest_trainings(sides, wanted, notes)
    lines = _metric_lines(newest, wanted, rows, lower_is_better)
    if not any(all(line.sides) for line in lines):
        have = "; ".join(
            f"{side.title} has {some(_names(runs))}"
            for side, runs in zip(sides, newest, strict=True)
        )
        raise UsageError("comparing metrics", f"no metric is on every side: {have}", "")
    if repository is None:
        notes.append("No repository is at hand: what changed in the code is not shown.")
    kept = tuple(
        Side(side.word, side.sha, tuple(runs)) for side, runs in zip(sides, newest, strict=True)
    )
    return Comparison(
        sides=kept,
        params=_differing(newest, settings),
        metrics=lines,
        data=_differing(newest, lambda run: run.data),
        environment=_differing(newest, _environment),
        code=_code(kept, repository, paths, notes),
        notes=tuple(notes),
    )


# -- metrics ----------------------------------------------------------------------------------


def _names(runs: Sequence[Run]) -> list[str]:
    counted = Counter(name for run in runs for name in run.metrics if not name.startswith(_SYSTEM))
    return sorted(counted)


def _metric_lines(
    sides: Sequence[Sequence[Run]],
    wanted: Sequence[str],
    rows: Rows,
    lower_is_better: bool | None,
) -> tuple[MetricLine, ...]:
    names = wanted or sorted({name for runs in sides for name in _names(runs)})
    scores = [_rows_of(runs, rows) for runs in sides]
    lines = []
    for name in names:
        values = [
            {repetition(run): run.metrics[name] for run in runs if name in run.metrics}
            for runs in sides
        ]
        found = [
            _of_rows(scores[0].get(name), other.get(name)) or difference(values[0], mine)
            for other, mine in zip(scores[1:], values[1:], strict=True)
        ]
        summaries = tuple(summarize(list(each.values())) for each in values)
        highest = higher_is_better(name, lower_is_better)
        lines.append(MetricLine(name, highest, summaries, tuple(found)))
    return tuple(lines)


def _rows_of(runs: Sequence[Run], rows: Rows) -> dict[str, dict[str, float]]:
    """Return the scores by row of all folds together, by metric."""
    together: dict[str, dict[str, float]] = {}
    for run in runs:
        for metric, scores in (rows(run) or {}).items():
            together.setdefault(metric, {}).update(scores)
    return together


def _of_rows(
    first: Mapping[str, float] | None, second: Mapping[str, float] | None
) -> Difference | None:
    both = [row for row in first or {} if row in (second or {})]
    if not first or not second or len(both) < 2:
        return None
    return bootstrap([first[row] for row in both], [second[row] for row in both])


# -- what else differs ------------------------------------------------------------------------


def _differing(
    sides: Sequence[Sequence[Run]], of: Callable[[Run], Mapping[str, str]]
) -> dict[str, tuple[str, ...]]:
    read = [[of(run) for run in runs] for runs in sides]
    names = sorted({name for side in read for each in side for name in each})
    lines = {}
    for name in names:
        values = tuple(
            ", ".join(sorted({each[name] for each in side if name in each})) for side in read
        )
        if len(set(values)) > 1:
            lines[name] = values
    return lines


def _environment(run: Run) -> dict[str, str]:
    named = {name: run.tags[name] for name in _ENVIRONMENT if name in run.tags}
    prefix = "version."
    packages = {
        name.removeprefix(prefix): value
        for name, value in (*run.tags.items(), *run.params.items())
        if name.startswith(prefix)
    }
    return named | packages


def _code(
    sides: Sequence[Side], repository: Path | None, paths: Sequence[str], notes: list[str]
) -> tuple[Between | None, ...]:
    found: list[Between | None] = []
    tasks = {run.params.get("task", "") for side in sides for run in side.runs}
    for side in sides[1:]:
        first = sides[0].sha
        if repository is None or not (first and side.sha) or first == side.sha:
            found.append(None)
            continue
        ends = (first, side.sha)
        shown = paths or used_code(repository, ends, () if "" in tasks else tasks)
        lies_between = between(repository, *ends, shown)
        if lies_between is not None:
            require_code(repository, ends, paths)
        else:
            notes.append(f"The repository here lacks {first[:10]} or {side.sha[:10]}: fetch it.")
        found.append(lies_between)
    return tuple(found)
