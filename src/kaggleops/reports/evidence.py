"""What a comparison reads beside metrics: of which experiment, and the scores by row."""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache

from kaggleops.bucket import Bucket
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.reports.score import Score, family
from kaggleops.reports.selection import Side
from kaggleops.reports.statistics import mean
from kaggleops.reports.trainings import Run, Training

# -- which runs -------------------------------------------------------------------------------


def of_one_experiment(
    sides: Sequence[Side], metrics: Sequence[str], notes: list[str]
) -> Sequence[Side]:
    """Return the sides with their runs of an experiment that all of them have.

    If they share several, it is the one with the metrics, and of those the one with most runs; what
    is left out is added to the notes. Raises UsageError if the sides are of different tasks, or
    share no experiment.
    """
    tasks = [{run.params.get("task") or run.experiment for run in side.runs} for side in sides]
    if not set.intersection(*tasks):
        problem = f"they are of different tasks: {list_of_each(sides, list(map(sorted, tasks)))}"
        raise UsageError("comparing", problem, "Name runs of one task, or one with --experiment.")
    names = [{run.experiment for run in side.runs} for side in sides]
    shared = set.intersection(*names)
    if not shared:
        if all(len(each) == 1 for each in names):
            return sides
        problem = f"they share no experiment: {list_of_each(sides, list(map(sorted, names)))}"
        raise UsageError("comparing", problem, "Name runs instead.")

    def within(name: str) -> list[list[Run]]:
        return [[run for run in side.runs if run.experiment == name] for side in sides]

    def weight(name: str) -> tuple[bool, int, int]:
        runs = within(name)
        having = [[run for run in each if has_metric(run)] for each in runs]
        latest = max(run.started_ms for each in runs for run in each)
        return all(having), sum(map(len, having)), latest

    def has_metric(run: Run) -> bool:
        return not metrics or any(family(name, run.metrics) for name in metrics)

    chosen = max(sorted(shared), key=weight)
    if left := sorted(set.union(*names) - {chosen}):
        hint = " --experiment NAME compares others." if len(shared) > 1 else ""
        notes.append(f"Only runs of {chosen} are compared, not those of {some(left)}.{hint}")
    runs = zip(sides, within(chosen), strict=True)
    return [replace(side, runs=tuple(each)) for side, each in runs]


def list_of_each(sides: Sequence[Side], names: Sequence[Sequence[str]]) -> str:
    """Return "A has x, y; B has z" for a message, shortened."""
    return "; ".join(
        f"{side.title} has {some(each)}" for side, each in zip(sides, names, strict=True)
    )


def some(names: Sequence[str], most: int = 5) -> str:
    """Return names for a message, shortened."""
    return ", ".join(names[:most]) + (" …" if len(names) > most else "") if names else "none"


# -- scores by row ----------------------------------------------------------------------------

Rows = Callable[[Run], Mapping[str, Mapping[str, float]]]
"""Reads a run's out-of-fold scores: for each metric, a score by row."""

Tables = Callable[[Run, Score], Mapping[str, float]]
"""Reads a run's score by fold from its out-of-fold table; nothing where that does not tell."""

OOF_FILE = "oof.csv"
"""The artifact: a line for each row that was predicted out of fold, its id first. A column with the
name of one of the run's metrics holds that metric's scores."""


def reader(bucket: Bucket) -> Callable[[Run], str]:
    """Return what reads a run's `oof.csv` from a bucket, once; "" for one out of reach."""
    root = f"{bucket.artifact_uri}/"

    @cache
    def read(artifacts: str) -> str:
        if artifacts.startswith(root):
            with suppress(KaggleOpsError):
                if found := bucket.read(f"{artifacts.removeprefix(root)}/{OOF_FILE}"):
                    return found.data.decode(errors="replace")
        return ""

    return lambda run: read(run.artifacts)


def rows_of(training: Training, metric: str, rows: Rows) -> dict[str, float]:
    """Return a training's score of each row: the mean over the runs that predicted it."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for run in training.runs:
        for row, score in rows(run).get(metric, {}).items():
            found[row].append(score)
    return {row: mean(scores) for row, scores in found.items()}


def scores_by_row(run: Run, text: str) -> dict[str, dict[str, float]]:
    """Return for each of a run's metrics that is a column of its `oof.csv` the score by row."""
    table = csv.DictReader(io.StringIO(text))
    found: dict[str, dict[str, float]] = {}
    with suppress(csv.Error):  # a cell of megabytes, say
        row_id, *columns = table.fieldnames or ("",)
        found = {name: {} for name in columns if name in run.metrics}
        for line in table:
            for name, values in found.items():
                with suppress(ValueError, TypeError):  # not a number, so not a score
                    values[line[row_id]] = float(line[name])
    return {name: values for name, values in found.items() if values}
