"""Weights that are right where the truth is known; an honest score where there is none."""

import numpy as np
import pytest

from kaggleops.blend.weights import (
    Nested,
    correlations,
    hill_climbing,
    least_squares,
    nested,
)
from kaggleops.reports.statistics import difference

FOLDS = np.arange(1000) % 5


def test_two_independent_members_count_as_much_as_their_variances_say() -> None:
    draw = np.random.default_rng(1)
    truth = draw.normal(0, 3, (20_000, 1))
    spreads = (1.0, 2.0, 40.0)
    members = np.array([truth + draw.normal(0, each, truth.shape) for each in spreads])
    precisions = np.array([each**-2 for each in spreads])
    best = precisions / precisions.sum()  # the weights of the least variance: 0.80, 0.20, 0.0005
    found = least_squares(members, truth)
    assert found == pytest.approx(best, abs=0.02)
    assert found.sum() == pytest.approx(1)

    def worth(predicted: np.ndarray) -> float:
        return -float(np.mean((predicted - truth) ** 2))

    climbed = hill_climbing(members, worth, [worth(each) for each in members])
    assert climbed == pytest.approx(best, abs=0.06)
    assert climbed[2] == 0
    pulled = least_squares(members[:2], truth, ridge=1e6)
    assert pulled == pytest.approx([0.5, 0.5], abs=0.01)
    # A member that only repeats another one gets nothing beside it, or shares with it.
    twin = least_squares(np.array([members[0], members[1], members[0]]), truth)
    assert twin[0] + twin[2] == pytest.approx(best[0], abs=0.02)


def test_a_fold_is_scored_with_weights_that_never_saw_it() -> None:
    draw = np.random.default_rng(2)
    truth = draw.normal(size=(1000, 1))
    members = truth + draw.normal(0, 1, (4, 1000, 1))

    def search(right: np.ndarray) -> Nested:
        def worth(predicted: np.ndarray, rows: np.ndarray) -> float:
            return -float(np.mean((predicted - right[rows]) ** 2))

        return nested(members, FOLDS, worth, right)

    before = search(truth)
    changed = truth.copy()
    changed[FOLDS == 2] = 100 * members[3][FOLDS == 2]  # now the last member is best there
    after = search(changed)
    assert after.of_folds[2].values == pytest.approx(before.of_folds[2].values)
    assert after.of_folds[2].method == before.of_folds[2].method
    assert after.predictions[FOLDS == 2] == pytest.approx(before.predictions[FOLDS == 2])
    assert after.weights.values != pytest.approx(before.weights.values)  # the final ones see all


def test_of_members_that_know_nothing_no_blend_is_said_to_be_better() -> None:
    verdicts, honest, seen = [], [], []
    for seed in range(20):
        draw = np.random.default_rng(seed)
        truth = draw.integers(0, 2, 300)
        members = draw.random((8, 300, 1))
        folds = np.arange(300) % 5

        def worth(predicted: np.ndarray, rows: np.ndarray, right: np.ndarray = truth) -> float:
            return float(np.mean((predicted[:, 0] > 0.5) == right[rows]))

        made = nested(members, folds, worth, truth[:, None].astype(float))
        each = [np.flatnonzero(folds == fold) for fold in range(5)]
        blend = {(str(at), ""): worth(made.predictions[i], i) for at, i in enumerate(each)}
        alone = [{(str(at), ""): worth(m[i], i) for at, i in enumerate(each)} for m in members]
        best = max(alone, key=lambda scores: np.mean(list(scores.values())))
        found = difference(best, blend)
        assert found is not None
        verdicts.append(found.verdict(lower=False))
        honest.append(np.mean(list(blend.values())))
        rows = np.arange(300)
        climbed = hill_climbing(
            members, lambda p, w=worth, r=rows: w(p, r), [worth(m, rows) for m in members]
        )
        seen.append(worth(np.tensordot(climbed, members, axes=1), rows))
    assert "better" not in verdicts
    assert np.mean(honest) == pytest.approx(0.5, abs=0.02)
    assert np.mean(seen) > 0.54  # what the same members score on the rows that chose the weights


def test_a_member_without_any_spread_correlates_with_none() -> None:
    members = np.array([[[1.0], [2.0], [3.0]], [[5.0]] * 3, [[3.0], [2.0], [1.0]]])
    assert correlations(members) == pytest.approx(np.array([[1, 0, -1], [0, 1, 0], [-1, 0, 1]]))
