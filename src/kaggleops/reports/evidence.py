"""What a comparison rests on: the runs of one training on each side, and their scores by row."""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from kaggleops.bucket import Bucket
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.reports.history import HOUSEKEEPING, REPEATED, Run
from kaggleops.reports.selection import Side

# -- which runs -------------------------------------------------------------------------------


def newest_trainings(
    sides: Sequence[Side], metrics: Sequence[str], notes: list[str]
) -> list[list[Run]]:
    """Return each side's runs to compare: of its newest training, one for each fold and seed.

    Args:
        sides: where they are from.
        metrics: those that they should have; empty for any.
        notes: what was left out is added to these.

    Raises:
        UsageError: the sides are of different tasks, or share no experiment.
    """
    _require_one_task(sides)
    newest = [_newest(side, notes) for side in _of_one_experiment(sides, metrics, notes)]
    seen: dict[frozenset[str], Side] = {}
    for side, runs in zip(sides, newest, strict=True):
        other = seen.setdefault(frozenset(run.id for run in runs), side)
        if other is not side:
            notes.append(f"{other.title} and {side.title} are the same runs.")
    return newest


def settings(run: Run) -> dict[str, str]:
    """Return the params that are settings of a training."""
    return {key: value for key, value in run.params.items() if key not in HOUSEKEEPING}


def repetition(run: Run) -> tuple[str, ...]:
    """Return what distinguishes a run from the others of its training: its fold and seed."""
    return tuple(run.params.get(name, "") for name in REPEATED)


def list_of_each(sides: Sequence[Side], names: Sequence[Sequence[str]]) -> str:
    """Return "A has x, y; B has z" for a message, shortened."""
    return "; ".join(
        f"{side.title} has {_some(each)}" for side, each in zip(sides, names, strict=True)
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "") if names else "none"


def _require_one_task(sides: Sequence[Side]) -> None:
    tasks = [{run.params.get("task") or run.experiment for run in side.runs} for side in sides]
    if not set.intersection(*tasks):
        problem = f"they are of different tasks: {list_of_each(sides, list(map(sorted, tasks)))}"
        raise UsageError("comparing", problem, "Name runs of one task, or one with --experiment.")


def _of_one_experiment(
    sides: Sequence[Side], metrics: Sequence[str], notes: list[str]
) -> Sequence[Side]:
    """Return the sides with their runs of an experiment that all of them have.

    If they share several, it is the one with the metrics, and of those the one with most runs.
    """
    by_name: list[defaultdict[str, list[Run]]] = []
    for side in sides:
        by_name.append(defaultdict(list))
        for run in side.runs:
            by_name[-1][run.experiment].append(run)
    shared = set.intersection(*map(set, by_name))
    if not shared:
        if all(len(each) == 1 for each in by_name):
            return sides
        problem = f"they share no experiment: {list_of_each(sides, list(map(sorted, by_name)))}"
        raise UsageError("comparing", problem, "Name runs instead.")

    def weight(name: str) -> tuple[bool, int, int]:
        runs = [each[name] for each in by_name]
        has_metrics = all(any(run.metrics.keys() & metrics for run in each) for each in runs)
        latest = max(run.started_ms for each in runs for run in each)
        return has_metrics, sum(map(len, runs)), latest

    chosen = max(shared, key=weight)
    left = sorted({name for each in by_name for name in each} - {chosen})
    if left:
        hint = " --experiment NAME compares others." if len(shared) > 1 else ""
        notes.append(f"Only runs of {chosen} are compared, not those of {_some(left)}.{hint}")
    return [
        Side(side.word, side.sha, tuple(each[chosen]))
        for side, each in zip(sides, by_name, strict=True)
    ]


def _newest(side: Side, notes: list[str]) -> list[Run]:
    groups: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in side.runs:
        groups.setdefault(tuple(sorted(settings(run).items())), []).append(run)
    newest = max(groups.values(), key=lambda runs: max(run.started_ms for run in runs))
    if len(groups) > 1:
        notes.append(
            f"{side.title} has runs with {len(groups)} settings; the newest are compared."
            " Name a run to choose another."
        )
    kept: dict[tuple[str, ...], Run] = {}
    for run in sorted(newest, key=lambda run: -run.started_ms):
        kept.setdefault(repetition(run), run)
    return list(kept.values())


# -- scores by row ----------------------------------------------------------------------------

Rows = Callable[[Run], Mapping[str, Mapping[str, float]]]
"""Reads a run's out-of-fold scores: for each metric, a score by row."""

_OOF_FILE = "oof.csv"
"""The artifact: a line for each row that was predicted out of fold, its id first. A column with the
name of one of the run's metrics holds that metric's scores."""


def reader(bucket: Bucket) -> Rows:
    """Return what reads a run's scores from a bucket; one out of reach has none."""
    root = f"{bucket.artifact_uri}/"

    def read(run: Run) -> Mapping[str, Mapping[str, float]]:
        if run.artifacts.startswith(root):
            key = f"{run.artifacts.removeprefix(root)}/{_OOF_FILE}"
            with suppress(KaggleOpsError, csv.Error):  # a cell of megabytes, say
                if found := bucket.read(key):
                    return _scores(found.data.decode(errors="replace"), run)
        return {}

    return read


def _scores(text: str, run: Run) -> dict[str, dict[str, float]]:
    table = csv.DictReader(io.StringIO(text))
    if not table.fieldnames:
        return {}
    row_id, *columns = table.fieldnames
    found: dict[str, dict[str, float]] = {name: {} for name in columns if name in run.metrics}
    for line in table:
        for name, values in found.items():
            with suppress(ValueError, TypeError):  # not a number, so not a score
                values[line[row_id]] = float(line[name])
    return {name: values for name, values in found.items() if values}
