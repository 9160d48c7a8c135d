"""Which rows are trained on and which validate: stratified, disjoint, decided by the seed."""

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from kaggleops.errors import UsageError

SPLITTING = "splitting the rows into folds"


def split_fold(
    labels: pd.Series, fold: int, folds: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the training rows and of the validation rows of one fold, both ascending.

    Args:
        labels: what every fold holds in proportion, one value a row.
        fold: which fold validates, from 0 to `folds` - 1.
        folds: how many there are, 2 or more.
        seed: of the shuffle before the split.

    Raises:
        UsageError: where there are fewer rows than folds, in all or of one label.
    """
    if len(labels) < folds:
        problem = f"there are {len(labels)} rows for {folds} folds"
        raise UsageError(SPLITTING, problem, f"Use at most folds={len(labels)}, or more rows")
    counts = labels.value_counts()
    if counts.min() < folds:
        problem = f"{labels.name} '{counts.idxmin()}' has {counts.min()} rows for {folds} folds"
        raise UsageError(SPLITTING, problem, "Use fewer folds, or more rows")
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)
    train, valid = list(splits)[fold]
    return np.sort(train), np.sort(valid)


def take_rows(frame: pd.DataFrame, labels: pd.Series, rows: int | None, seed: int) -> pd.DataFrame:
    """Only `rows` rows of `frame`, in its order, with the labels in proportion. None: all."""
    if rows is None or rows >= len(frame):
        return frame
    shuffled = labels.iloc[np.random.default_rng(seed).permutation(len(labels))]
    grouped = shuffled.groupby(shuffled)
    # Each label's rows are spread evenly over 0 to 1, so the lowest hold all labels in proportion.
    place = (grouped.cumcount() + 0.5) / grouped.transform("size")
    return frame.loc[place.nsmallest(rows).index].sort_index()
