"""What differs between two or more sides, and whether it helped; whether two runs agree."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kaggleops.errors import UsageError
from kaggleops.git.history import Between, between
from kaggleops.git.project_files import require_code, used_code
from kaggleops.reports.evidence import Rows, list_of_each, newest_trainings, repetition, settings
from kaggleops.reports.history import HOUSEKEEPING, REPEATED, Run
from kaggleops.reports.selection import Side
from kaggleops.reports.statistics import (
    Difference,
    Summary,
    bootstrap,
    difference,
    higher_is_better,
    summarize,
    words,
)
from kaggleops.tags import ACCELERATOR, BACKEND

_SYSTEM = "system/"
_TIMES = {"time", "times", "runtime", "walltime", "duration", "latency", "elapsed", "throughput"}
_TIMES |= {"timestamp", "second", "seconds", "sec", "secs", "flos"}  # samples_per_second

Differing = dict[str, tuple[str, ...]]
"""The value on each side of what differs ("0.1, 0.2" for several, "" for none), by its name."""


@dataclass(frozen=True)
class MetricLine:
    """One metric on every side.

    Args:
        name: the metric.
        higher_is_better: whether a higher value is better.
        sides: each side's summary; None if it lacks the metric.
        differences: each later side minus the first; None if one lacks it.
    """

    name: str
    higher_is_better: bool
    sides: tuple[Summary | None, ...]
    differences: tuple[Difference | None, ...]

    def verdict(self, number: int) -> str:
        """Return "better", "worse" or "" (not significant) for a side after the first."""
        found = self.differences[number]
        if found is None or not found.significant:
            return ""
        return "better" if (found.mean > 0) == self.higher_is_better else "worse"


@dataclass(frozen=True)
class Comparison:
    """Sides, the first of which the others are compared with.

    Args:
        sides: them, each with the runs that are compared.
        params: the params that differ.
        metrics: the metrics that any of them has.
        data: the datasets' digests that differ.
        environment: the accelerators, platforms and versions of libraries that differ.
        code: what lies between the first side's commit and each other's; None if that is the same
            commit, or there is no repository.
        notes: what a reader should know.
    """

    sides: tuple[Side, ...]
    params: Differing
    metrics: tuple[MetricLine, ...]
    data: Differing
    environment: Differing
    code: tuple[Between | None, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """The sides' titles."""
        return " and ".join(side.title for side in self.sides)

    @property
    def tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """What differs beside the metrics, as tables: their titles, heads and rows."""
        head = [side.title for side in self.sides]
        named = {"params": self.params, "data": self.data, "environment": self.environment}
        for title, lines in named.items():
            if lines:
                yield title, head, [[key, *(v or "-" for v in lines[key])] for key in lines]


def compare(
    sides: Sequence[Side],
    repository: Path | None,
    *,
    metrics: Iterable[str] = (),
    lower_is_better: bool | None = None,
    rows: Rows = lambda _: {},
    paths: Sequence[str] = (),
) -> Comparison:
    """Compare sides with the first one.

    Args:
        sides: two or more.
        repository: a folder of the repository of their commits, if there is one.
        metrics: only these; by default all but those of the machine.
        lower_is_better: None to guess it from each metric's name.
        rows: reads a run's out-of-fold scores.
        paths: git's pathspecs of the code to show; by default the code that the runs can use.

    Raises:
        UsageError: their runs are of different tasks, or have no metric in common; or nothing was
            ever at one of the paths.
    """
    wanted = list(metrics)
    notes: list[str] = []
    newest = newest_trainings(sides, wanted, notes)
    lines = _metric_lines(newest, wanted, rows, lower_is_better)
    if not any(all(line.sides) for line in lines):
        have = list_of_each(sides, [_names(runs) for runs in newest])
        raise UsageError("comparing metrics", f"no metric is on every side: {have}")
    if repository is None:
        notes.append("There is no repository here: changes of the code are not shown.")
    kept = tuple(
        Side(side.word, side.sha, tuple(runs)) for side, runs in zip(sides, newest, strict=True)
    )
    return Comparison(
        sides=kept,
        params=_differing(newest, settings),
        metrics=lines,
        data=_differing(newest, lambda run: run.data),
        environment=_differing(newest, environment),
        code=_code(kept, repository, paths, notes),
        notes=tuple(notes),
    )


def environment(run: Run) -> dict[str, str]:
    """Return where a run ran: platform, accelerator, versions of libraries."""
    named = {name: run.tags[name] for name in (ACCELERATOR, BACKEND) if name in run.tags}
    versions = {
        name.removeprefix("version."): value
        for name, value in (*run.tags.items(), *run.params.items())
        if name.startswith("version.")
    }
    return named | versions


def _differing(sides: Sequence[Sequence[Run]], of: Callable[[Run], Mapping[str, str]]) -> Differing:
    read = [[of(run) for run in runs] for runs in sides]
    lines = {}
    for name in sorted({name for side in read for each in side for name in each}):
        values = tuple(
            ", ".join(sorted({each[name] for each in side if name in each})) for side in read
        )
        if len(set(values)) > 1:
            lines[name] = values
    return lines


# -- metrics ----------------------------------------------------------------------------------


def _names(runs: Sequence[Run]) -> list[str]:
    return sorted({name for run in runs for name in run.metrics if not name.startswith(_SYSTEM)})


def _metric_lines(
    sides: Sequence[Sequence[Run]],
    wanted: Sequence[str],
    rows: Rows,
    lower_is_better: bool | None,
) -> tuple[MetricLine, ...]:
    scores: list[dict[str, dict[str, float]]] = []  # of each side, by metric and row
    for runs in sides:
        scores.append({})
        for run in runs:
            for metric, by_row in rows(run).items():
                scores[-1].setdefault(metric, {}).update(by_row)
    lines = []
    for name in wanted or sorted({name for runs in sides for name in _names(runs)}):
        values = [
            {repetition(run): run.metrics[name] for run in runs if name in run.metrics}
            for runs in sides
        ]
        found = [
            _of_rows(scores[0].get(name, {}), other.get(name, {})) or difference(values[0], mine)
            for other, mine in zip(scores[1:], values[1:], strict=True)
        ]
        summaries = tuple(summarize(list(each.values())) for each in values)
        highest = higher_is_better(name, lower_is_better)
        lines.append(MetricLine(name, highest, summaries, tuple(found)))
    return tuple(lines)


def _of_rows(first: Mapping[str, float], second: Mapping[str, float]) -> Difference | None:
    both = [row for row in first if row in second]
    if len(both) < 2:
        return None
    return bootstrap([first[row] for row in both], [second[row] for row in both])


# -- code -------------------------------------------------------------------------------------


def _code(
    sides: Sequence[Side], repository: Path | None, paths: Sequence[str], notes: list[str]
) -> tuple[Between | None, ...]:
    found: list[Between | None] = []
    tasks = {run.params.get("task", "") for side in sides for run in side.runs}
    for side in sides[1:]:
        ends = (sides[0].sha, side.sha)
        if repository is None or not all(ends) or ends[0] == ends[1]:
            found.append(None)
            continue
        shown = paths or used_code(repository, ends, () if "" in tasks else tasks)
        lies_between = between(repository, *ends, shown)
        if lies_between is not None:
            require_code(repository, ends, paths)
        else:
            notes.append(f"The repository here lacks {ends[0][:10]} or {ends[1][:10]}: fetch it.")
        found.append(lies_between)
    return tuple(found)


# -- do two runs agree? -----------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """Two runs, side by side.

    Args:
        metrics: those that differ by more than the tolerance: first, second; NaN for none.
        equal: how many metrics agree.
        params: the params that differ.
        data: the datasets whose digests differ.
        environment: the accelerators, platforms and versions of libraries that differ.
    """

    metrics: Mapping[str, tuple[float, float]]
    equal: int
    params: Differing
    data: Differing
    environment: Differing

    @property
    def agree(self) -> bool:
        """Whether all metrics agree, and there is one."""
        return not self.metrics and self.equal > 0


def agreement(first: Run, second: Run, tolerance: float = 0.0) -> Agreement:
    """Return where two runs agree, whatever their speed.

    Args:
        first: a run.
        second: the same run again.
        tolerance: how far apart two values may be, relative to the larger one.
    """
    names = [
        name
        for name in sorted({*first.metrics, *second.metrics})
        if not name.startswith(_SYSTEM) and _TIMES.isdisjoint(words(name))
    ]
    apart = {}
    for name in names:
        one, other = (run.metrics.get(name, math.nan) for run in (first, second))
        both_nan = math.isnan(one) and math.isnan(other)
        same = both_nan or math.isclose(one, other, rel_tol=tolerance, abs_tol=0.0)
        if not same or (name in first.metrics) != (name in second.metrics):
            apart[name] = (one, other)
    hidden = set(HOUSEKEEPING) - set(REPEATED)
    pair = [[first], [second]]
    return Agreement(
        metrics=apart,
        equal=len(names) - len(apart),
        params=_differing(
            pair, lambda run: {key: run.params[key] for key in run.params if key not in hidden}
        ),
        data=_differing(pair, lambda run: run.data),
        environment=_differing(pair, environment),
    )
