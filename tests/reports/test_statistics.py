"""Held against SciPy on known data."""

import math

import numpy as np
import pytest
from scipy import stats

from kaggleops.reports.statistics import (
    bootstrap,
    difference,
    interval,
    rank_correlation,
    summarize,
)

A = {0: 0.61, 1: 0.64, 2: 0.60, 3: 0.66, 4: 0.63}
B = {0: 0.63, 1: 0.65, 2: 0.64, 3: 0.66, 4: 0.66}
OTHER = {7: 0.80, 8: 0.84, 9: 0.78}


def test_a_summary_is_mean_and_sample_standard_deviation() -> None:
    found = summarize(list(A.values()))
    assert found is not None
    assert found.mean == pytest.approx(np.mean(list(A.values())))
    assert found.spread == pytest.approx(np.std(list(A.values()), ddof=1))
    assert summarize([]) is None
    expected = stats.ttest_1samp(list(A.values()), 0).confidence_interval(0.95)
    assert interval(found) == pytest.approx((expected.low, expected.high))
    single = summarize([0.5])
    assert single is not None
    assert single.spread is None
    assert interval(single) is None
    broken = summarize([0.5, math.nan])
    assert broken is not None
    assert math.isnan(broken.mean)


def test_folds_that_match_are_paired() -> None:
    found = difference(A, B)
    assert found is not None
    expected = stats.ttest_rel(list(B.values()), list(A.values())).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.how == "paired by fold"
    assert found.count == 5
    # Only the folds that both have count.
    assert difference({**A, 9: 0.1}, B) == found


def test_runs_that_do_not_match_are_two_groups() -> None:
    found = difference(A, OTHER)
    assert found is not None
    test = stats.ttest_ind(list(OTHER.values()), list(A.values()), equal_var=False)
    expected = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.how == "unpaired"
    assert found.significant


@pytest.mark.parametrize(
    ("first", "second", "mean"),
    [({0: 0.5}, {0: 0.75}, 0.25), ({0: 0.5}, {1: 0.75, 2: 0.25}, 0.0)],
)
def test_of_single_runs_no_more_than_the_difference_is_said(
    first: dict[int, float], second: dict[int, float], mean: float
) -> None:
    found = difference(first, second)
    assert found is not None
    assert found.mean == mean
    assert found.low is None
    assert not found.significant


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ((math.inf, math.inf, 1.0), math.inf),
        ((-math.inf, 1.0), -math.inf),
        ((math.inf, -math.inf), math.nan),
        ((math.inf, math.nan), math.nan),
        ((1.7e308, 1.7e308), 1.7e308),
    ],
)
def test_values_that_are_no_numbers_make_the_mean_none(
    values: tuple[float, ...], mean: float
) -> None:
    found = summarize(values)
    assert found is not None
    assert found.mean == pytest.approx(mean, nan_ok=True)
    for first in (dict(enumerate(values)), dict(enumerate(values, 9))):  # in pairs, and not
        changed = difference(first, {0: 0.5, 1: 0.25})
        assert changed is not None
        assert not changed.significant or math.isfinite(mean)
    if not math.isfinite(mean):
        assert bootstrap(values, [0.5] * len(values)).low is None


def test_large_values_are_no_overflow() -> None:
    large = {key: value * 1e200 for key, value in OTHER.items()}
    found, plain = difference({0: 0.0, 1: 1e200}, large), difference({0: 0.0, 1: 1.0}, OTHER)
    assert found is not None
    assert plain is not None
    assert found.low == pytest.approx((plain.low or 0) * 1e200)


def test_where_one_side_has_nothing_there_is_no_difference() -> None:
    assert difference(A, {}) is None


def test_the_bootstrap_agrees_with_scipys_and_is_the_same_each_time() -> None:
    generator = np.random.default_rng(1)
    first = generator.random(500)
    second = first + generator.normal(0.02, 0.1, 500)
    found = bootstrap(list(first), list(second))
    expected = stats.bootstrap(
        (second - first,), np.mean, method="percentile", n_resamples=4000, rng=2
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=2e-3)
    assert bootstrap(list(first), list(second)) == found


def test_ranks_are_compared_where_there_is_something_to_rank() -> None:
    assert rank_correlation([(0.1, 1), (0.2, 10), (0.3, 11)]) == pytest.approx(1)
    assert rank_correlation([(0.1, 3), (0.2, 2), (0.3, 1)]) == pytest.approx(-1)
    ties = [(0.1, 3), (0.2, 2), (0.2, 5), (0.3, 3), (0.4, 7), (0.4, 3)]
    assert rank_correlation(ties) == pytest.approx(stats.spearmanr(ties).statistic)
    assert rank_correlation([(0.1, 3), (0.2, 2)]) is None
    assert rank_correlation([(0.1, 3), (0.2, 3), (0.3, 3)]) is None
