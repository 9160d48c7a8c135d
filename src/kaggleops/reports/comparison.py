"""What differs between two or more sides, and whether it helped; whether two runs agree."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kaggleops.errors import UsageError
from kaggleops.git.commits import Between, between
from kaggleops.git.project_files import require_code, used_code
from kaggleops.reports.evidence import (
    Rows,
    Tables,
    list_of_each,
    of_one_experiment,
    rows_of,
    some,
)
from kaggleops.reports.score import (
    Score,
    declared,
    family,
    fold_of,
    is_time,
    named,
    of_folds,
    require_score,
    scores_among,
)
from kaggleops.reports.selection import Side
from kaggleops.reports.statistics import (
    Difference,
    Scores,
    Summary,
    holm,
    needed,
    summarize_scores,
)
from kaggleops.reports.trainings import (
    APART,
    HOUSEKEEPING,
    REPEATED,
    Evidence,
    Points,
    Run,
    Training,
    in_common,
    scores_of,
    trainings,
    with_folds,
)
from kaggleops.tags import ACCELERATOR, BACKEND, UNCOMMITTED

_SYSTEM = "system/"
_MOST_METRICS = 6
_MOST_SETTINGS = 6

Differing = dict[str, tuple[str, ...]]
"""The value on each side of what differs ("0.1, 0.2" for several, "" for none), by its name."""


@dataclass(frozen=True)
class MetricLine:
    """One metric on every side."""

    name: str  # the metric
    higher_is_better: bool  # whether a higher value is better
    sides: tuple[Summary | None, ...]  # each side's summary; None if it lacks the metric
    # each later side minus the first, of the same folds as the summaries; None if one lacks it
    differences: tuple[Difference | None, ...]
    is_marked: bool = False  # whether a difference beyond chance is marked
    settings: str = ""  # of a line for other settings than the answer's: which
    values: tuple[Scores, ...] = ()  # each side's, by fold and seed

    def verdict(self, number: int) -> str:
        """Return "better", "worse", "no difference" or "" (not told) for a side after the first."""
        found = self.differences[number] if self.is_marked else None
        return found.verdict(not self.higher_is_better) if found else ""


@dataclass(frozen=True)
class Comparison:
    """Sides, the first of which the others are compared with."""

    sides: tuple[Side, ...]  # them, each with the runs that are compared
    params: Differing  # the params that differ
    # the score first, as the answer; then it with other settings that all sides have; then others
    metrics: tuple[MetricLine, ...]
    data: Differing  # the datasets' digests that differ
    environment: Differing  # the accelerators, platforms and versions of libraries that differ
    # what lies between the first side's commit and each other's; None if that is the same commit,
    # or there is no repository
    code: tuple[Between | None, ...]
    notes: tuple[str, ...]  # what a reader should know
    answers: tuple[str, ...] = ()  # for each later side: whether it helped, in a sentence
    hidden: int = 0  # how many other metrics the sides have
    curves: tuple[str, ...] = ()  # all metrics that were logged at several steps

    @property
    def title(self) -> str:
        """The sides' titles."""
        return " and ".join(side.title for side in self.sides)

    @property
    def more(self) -> str:
        """How many metrics are not listed, in words; "" if all are."""
        return f"{self.hidden} more metric{'s' * (self.hidden > 1)}" if self.hidden else ""

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
    metrics: Sequence[str] = (),
    lower_is_better: bool | None = None,
    rows: Rows = lambda _: {},
    tables: Tables = lambda *_: {},
    points: Points = lambda *_: {},
    spread: Callable[[str, str], float | None] = lambda *_: None,
    paths: Sequence[str] = (),
    every_metric: bool = False,
) -> Comparison:
    """Compare two or more sides with the first one.

    Args:
        sides: two or more.
        repository: a folder of the repository of their commits, if there is one.
        metrics: only these, the first as the score; by default the score and a few others.
        lower_is_better: None to guess it from each metric's name.
        rows: reads a run's out-of-fold scores.
        tables: reads a run's scores by fold where it logged none.
        points: reads runs' values of a metric at each step.
        spread: reads how much seeds alone change a metric in an experiment, by its id: the standard
            deviation, None if that is not known.
        paths: git's pathspecs of the code to show; by default the code that the runs can use.
        every_metric: whether to list all metrics but those of the machine.

    Raises:
        UsageError: their runs are of different tasks, or have no metric in common, or none that
            looks like a score; or nothing was ever at one of the paths.
    """
    notes: list[str] = []
    sides = of_one_experiment(sides, metrics, notes)
    scores, others = _scores(sides, metrics, lower_is_better, every_metric)
    score, *more = scores
    home = sides[0].runs[0].experiment_id
    folded = (with_folds(side.runs, score.name, points) for side in sides)
    each_side = [trainings(runs, score.name) for runs in folded]
    evidence = Evidence.of(each_side, score, lambda: spread(home, score.name))
    chosen, *other_settings = evidence.rows
    chosen = _with_tables(chosen, score, tables)
    lines = [_line(score, chosen, rows, evidence)]
    for row in other_settings[:_MOST_SETTINGS]:
        settings = evidence.title(row[0])
        lines.append(replace(_line(score, row, rows, evidence), settings=settings))
    # Of those chosen, all their runs: other metrics may be on a parent alone.
    whole = [
        next((each for each in trainings(side.runs) if each.settings == one.settings), one)
        for side, one in zip(sides, chosen, strict=True)
    ]
    for each in more:
        row = [replace(one, runs=tuple(with_folds(one.runs, each.name, points))) for one in whole]
        line = _line(each, _with_tables(row, each, tables), rows, evidence)
        # Of a sweep's parent, say, which is none of what is compared.
        lines += [line] if metrics or any(line.sides) else []
    kept = tuple(replace(side, runs=one.runs) for side, one in zip(sides, whole, strict=True))
    every = [run for side in kept for run in side.runs]
    notes += _left_out(sides, chosen, evidence)
    notes += [
        f"{side.title} ran uncommitted changes, which are not shown: see its uncommitted.patch."
        for side in sides
        if any(UNCOMMITTED in run.tags for run in side.runs)
    ]
    if repository is None:
        notes.append("There is no repository here: changes of the code are not shown.")
    marked = _marked(lines, [score.name, *metrics])
    return Comparison(
        sides=kept,
        params=_differing(kept, lambda run: dict(each.split("=", 1) for each in run.settings)),
        metrics=marked,
        data=_differing(kept, lambda run: run.data),
        environment=_differing(kept, environment),
        code=_code(kept, repository, paths, notes),
        answers=tuple(_answer(kept, marked[0], place) for place in range(len(kept) - 1)),
        hidden=sum(any(scores_of(one.runs, each) for one in whole) for each in others),
        curves=tuple(name for name in _names(every) if any(run.steps.get(name) for run in every)),
        notes=tuple(notes),
    )


def _scores(
    sides: Sequence[Side], wanted: Sequence[str], lower_is_better: bool | None, every: bool
) -> tuple[list[Score], list[str]]:
    """Return the metrics to compare, the score first, and the names of others that there are."""
    names = [_names(side.runs) for side in sides]
    # A fold's value stands for the metric: a side may have other folds.
    whole = {name: (fold_of(name) or (name,))[0] for each in names for name in each}
    shared = set.intersection(*({whole[name] for name in each} for each in names))
    listed = list_of_each(sides, names)
    if not shared:
        raise UsageError("comparing metrics", f"no metric is on every side: {listed}")
    if wanted and not all(family(wanted[0], each) for each in names):
        raise UsageError("comparing metrics", f"{wanted[0]} is not on every side: {listed}")
    if wanted:
        return [named(name, lower_is_better) for name in wanted], []
    runs = sorted((run for side in sides for run in side.runs), key=lambda run: -run.started_ms)
    counted = Counter(name for run in runs for name in run.metrics if whole.get(name) in shared)
    told = next((found for run in runs if (found := declared(run.tags))), None)
    score = require_score(counted, told, "comparing metrics")
    if every:
        return [score, *(named(name) for name in sorted(whole) if name != score.name)], []
    likely = scores_among(counted, told)[:_MOST_METRICS]
    shown = {name for each in likely for name in family(each.name, whole)}
    return likely, sorted(whole.keys() - shown)


def _with_tables(row: Sequence[Training], score: Score, tables: Tables) -> list[Training]:
    """Return trainings with those folds, too, that their out-of-fold tables alone tell."""

    def told(run: Run) -> Run:
        logged = run.repetition[0] or run.folds or of_folds(score.name, run.metrics)
        return run if logged else replace(run, folds=tables(run, score))

    return [replace(one, runs=tuple(map(told, one.runs))) for one in row]


def _line(score: Score, row: Sequence[Training], rows: Rows, evidence: Evidence) -> MetricLine:
    """Return a metric of a training on each side."""
    values = tuple(in_common([scores_of(each.runs, score.name) for each in row]))
    found: list[Difference | None] = []
    for training, second in zip(row[1:], values[1:], strict=True):
        change = evidence.difference(values[0], second, metric=score.name)
        if change is not None and change.low is None and change.mean:
            one, other = (rows_of(each, score.name, rows) for each in (row[0], training))
            if both := [name for name in one if name in other]:
                by_row = [one[name] for name in both], [other[name] for name in both]
                change = evidence.difference(values[0], second, by_row, score.name)
        found.append(change)
    summaries = tuple(map(summarize_scores, values))
    return MetricLine(score.name, not score.lower, summaries, tuple(found), values=values)


def _marked(lines: Sequence[MetricLine], names: Collection[str]) -> tuple[MetricLine, ...]:
    """Return the lines, those of some metrics marked: so that all their marks hold at once."""
    marked = [line for line in lines if line.name in names and not line.settings]
    adjusted = iter(holm([each for line in marked for each in line.differences]))
    return tuple(
        replace(line, is_marked=True, differences=tuple(next(adjusted) for _ in line.differences))
        if line in marked
        else line
        for line in lines
    )


def _left_out(
    sides: Sequence[Side], chosen: Sequence[Training], evidence: Evidence
) -> Iterator[str]:
    """Yield what was not compared, and what should be."""
    name = evidence.score.name
    if not evidence.are_alike:
        said = list_of_each(sides, [[evidence.title(each)] for each in chosen])
        hint = "Run one with the settings of the other."
        yield f"The sides have no settings in common: {said}. {hint}"
    ids = [{run.id for run in each.runs} for each in chosen]
    values = [scores_of(each.runs, name) for each in chosen]
    for place, (side, each, kept) in enumerate(zip(sides, values, in_common(values), strict=True)):
        if ids[place] in ids[:place]:
            yield f"{sides[ids.index(ids[place])].title} and {side.title} are the same runs."
        if left := sorted({fold for fold, _ in each.keys() - kept.keys() if fold}):
            yield f"Left out of {side.title}: {name} of fold {some(left)}, missing on another side."
        shown = [row[place] for row in evidence.rows[: _MOST_SETTINGS + 1]]
        others = [one for one in evidence.sides[place] if not any(one is row for row in shown)]
        means = [(one, summarize_scores(one.scores)) for one in others]
        if told := [f"{evidence.title(one)} ({mean.mean:.4g})" for one, mean in means if mean]:
            yield f"Not compared: {name} of {side.title} with other settings: {some(told, 4)}."


def _answer(sides: Sequence[Side], line: MetricLine, place: int) -> str:
    """Return whether a side helped, in a sentence."""
    found, first, second = line.differences[place], sides[0].title, sides[place + 1].title
    verdict = line.verdict(place)
    if found is None:
        return f"Cannot compare {second} with {first}: one has no {line.name}."
    if verdict in ("better", "worse"):
        said = f"{second} is {verdict} than {first} in {line.name}."
    elif verdict:
        said = f"difference in {line.name} between {first} and {second}"
        said = f"No {said}." if found.mean == 0 else f"The {said} may be chance."
    else:
        said = f"Cannot tell whether {second} is better than {first}: {found.why}."
    more = needed(found) if found.why != APART else ""
    return f"{said} {more[0].upper()}{more[1:]}." if more else said


def environment(run: Run) -> dict[str, str]:
    """Return where a run ran: platform, accelerator, versions of libraries."""
    named = {name: run.tags[name] for name in (ACCELERATOR, BACKEND) if name in run.tags}
    versions = {
        name.removeprefix("version."): value
        for name, value in (*run.tags.items(), *run.params.items())
        if name.startswith("version.")
    }
    return named | versions


def _differing(sides: Sequence[Side], of: Callable[[Run], Mapping[str, str]]) -> Differing:
    read = [[of(run) for run in side.runs] for side in sides]
    lines = {
        name: tuple(
            ", ".join(sorted({each[name] for each in side if name in each})) for side in read
        )
        for name in sorted({name for side in read for each in side for name in each})
    }
    return {name: values for name, values in lines.items() if len(set(values)) > 1}


def _names(runs: Sequence[Run]) -> list[str]:
    return sorted({name for run in runs for name in run.metrics if not name.startswith(_SYSTEM)})


def _code(
    sides: Sequence[Side], repository: Path | None, paths: Sequence[str], notes: list[str]
) -> tuple[Between | None, ...]:
    first = sides[0].sha
    tasks = {run.params.get("task", "") for side in sides for run in side.runs}

    def since(sha: str) -> Between | None:
        if repository is None or not (first and sha) or first == sha:
            return None
        shown = paths or used_code(repository, (first, sha), () if "" in tasks else tasks)
        if found := between(repository, first, sha, shown):
            require_code(repository, (first, sha), paths)
        else:
            notes.append(f"The repository here lacks {first[:10]} or {sha[:10]}: fetch it.")
        return found

    return tuple(since(side.sha) for side in sides[1:])


# -- do two runs agree? -----------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """Two runs, side by side."""

    # those that differ by more than the tolerance: first, second; NaN for none
    metrics: Mapping[str, tuple[float, float]]
    equal: int  # how many metrics agree
    params: Differing  # the params that differ
    data: Differing  # the datasets whose digests differ
    environment: Differing  # the accelerators, platforms and versions of libraries that differ

    @property
    def agree(self) -> bool:
        """Whether all metrics agree, and there is one."""
        return not self.metrics and self.equal > 0


def agreement(first: Run, second: Run, tolerance: float = 0.0) -> Agreement:
    """Return where two runs agree, whatever their speed, within a relative tolerance."""
    names = [
        name
        for name in sorted({*first.metrics, *second.metrics})
        if not name.startswith(_SYSTEM) and not is_time(name)
    ]
    apart = {}
    for name in names:
        one, other = (run.metrics.get(name, math.nan) for run in (first, second))
        both_nan = math.isnan(one) and math.isnan(other)
        same = both_nan or math.isclose(one, other, rel_tol=tolerance, abs_tol=0.0)
        if not same or (name in first.metrics) != (name in second.metrics):
            apart[name] = (one, other)
    hidden = set(HOUSEKEEPING) - set(REPEATED)
    kept = lambda run: {key: run.params[key] for key in run.params if key not in hidden}  # noqa: E731
    pair = [Side(run.id, run.sha, (run,)) for run in (first, second)]
    params, data, where = (_differing(pair, of) for of in (kept, lambda run: run.data, environment))
    return Agreement(apart, len(names) - len(apart), params, data, where)
