"""The scores of a run's folds from its out-of-fold table, for `compare` to pair as logged ones."""

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd

from kaggleops.blend.members import FOLD, Member, Options, as_table
from kaggleops.blend.metrics import by_name, wants_numbers
from kaggleops.blend.rows import predictions_of, rows_of, truth_of
from kaggleops.errors import UsageError
from kaggleops.reports.score import Score
from kaggleops.reports.trainings import Run

APART = 0.02
"""Relative: a logged score that far from its table's is another one's."""


def numbered(folds: Sequence[str]) -> list[str]:
    """Return folds' names as they are if all are numbers, else their places, from 0."""
    are_numbers = all(fold.isdecimal() and len(fold) < 4 for fold in folds)
    return [fold if are_numbers else str(at) for at, fold in enumerate(folds)]


def scores_by_fold(run: Run, oof: str, score: Score) -> dict[str, float]:
    """Return a run's score in each fold of its `oof.csv`, by the fold's name.

    A column with the score of each row is averaged; else the score is computed of what was
    predicted, as a blend's is. Nothing where the table cannot tell, or tells another score than the
    run logged.
    """
    if FOLD not in oof.partition("\n")[0] or score.name not in run.metrics:
        return {}
    try:
        with np.errstate(all="ignore"):
            whole, found = _scores(run, oof, score)
    except UsageError:
        return {}
    logged, values = run.metrics[score.name], list(found.values())
    apart = min(abs(logged - each) for each in (whole, float(np.mean(values))))
    if not np.isfinite(values).all() or apart > APART * max(abs(logged), 1e-9):
        return {}
    return dict(zip(numbered(list(found)), values, strict=True))


def _scores(run: Run, oof: str, score: Score) -> tuple[float, dict[str, float]]:
    """Return the score of all rows, and of each fold's; UsageError if it cannot be told."""
    doing = f"reading the oof.csv of {run.name}"
    member = Member(run, as_table(io.BytesIO(oof.encode()), doing))
    by_row = score.name if score.name in member.oof else None
    rows = rows_of([member], Options(target=by_row))
    each_fold = {name: np.flatnonzero(rows.folds == at) for at, name in enumerate(rows.fold_names)}
    if by_row:
        of_row = pd.to_numeric(pd.Series(rows.right), errors="coerce").to_numpy(float)
        means = {name: float(of_row[at].mean()) for name, at in each_fold.items()}
        return float(of_row.mean()), means
    truth = truth_of(rows, wants_numbers(score.name), 0.5)
    metric = by_name(score.name, truth)
    predicted = predictions_of(rows.tables[0], truth, (), doing)
    whole = metric(predicted, np.arange(len(rows.ids)))
    return whole, {name: metric(predicted[at], at) for name, at in each_fold.items()}
