"""The split into folds, and drawing fewer rows."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from competitions.train import split_fold, take_rows
from kaggleops.errors import UsageError

LABELS = pd.Series(["a"] * 50 + ["b"] * 30 + ["c"] * 20, name="sentiment")


def test_folds_are_disjoint_and_together_everything() -> None:
    valid: list[int] = []
    for fold in range(5):
        training, validation = split_fold(LABELS, fold, 5, seed=1)
        assert set(training).isdisjoint(validation)
        assert sorted([*training, *validation]) == list(range(100))
        valid += list(validation)
    assert sorted(valid) == list(range(100))


def test_every_fold_holds_the_labels_in_proportion() -> None:
    for fold in range(5):
        _, validation = split_fold(LABELS, fold, 5, seed=1)
        assert LABELS.iloc[validation].value_counts().to_dict() == {"a": 10, "b": 6, "c": 4}


def test_the_seed_decides() -> None:
    first, again, other = (split_fold(LABELS, 2, 5, seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_fewer_rows_than_folds() -> None:
    with pytest.raises(UsageError, match="there are 3 rows for 5 folds"):
        split_fold(LABELS.iloc[:3], 0, 5, seed=1)


def test_fewer_rows_of_a_label_than_folds() -> None:
    labels = pd.Series([*LABELS, "rare", "rare"], name="sentiment")
    with pytest.raises(UsageError, match="sentiment 'rare' has 2 rows for 5 folds"):
        split_fold(labels, 0, 5, seed=1)


@given(st.integers(1, 120), st.integers(0, 3))
def test_fewer_rows_keep_order_and_proportion(rows: int, seed: int) -> None:
    frame = LABELS.to_frame()
    taken = take_rows(frame, LABELS, rows, seed)
    assert len(taken) == min(rows, 100)
    assert taken.index.is_monotonic_increasing
    assert taken.index.is_unique
    for label, share in (("a", 0.5), ("b", 0.3), ("c", 0.2)):
        assert abs((taken["sentiment"] == label).sum() - share * len(taken)) <= 1


def test_all_rows() -> None:
    assert take_rows(LABELS.to_frame(), LABELS, None, seed=1).equals(LABELS.to_frame())
