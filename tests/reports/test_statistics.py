"""Held against SciPy on known data, and against differences that are none."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from kaggleops.reports.statistics import (
    Scores,
    bootstrap,
    difference,
    holm,
    interval,
    needed,
    rank_correlation,
    rank_interval,
    summarize,
)

FIRST = [0.61, 0.64, 0.60, 0.66, 0.63]
SECOND = [0.63, 0.65, 0.64, 0.66, 0.66]


def folds(values: Sequence[float], seed: str = "1", start: int = 0) -> dict[tuple[str, str], float]:
    return {(str(fold), seed): value for fold, value in enumerate(values, start)}


def seeds(values: Sequence[float], fold: str = "") -> dict[tuple[str, str], float]:
    return {(fold, str(seed)): value for seed, value in enumerate(values)}


def test_a_summary_is_mean_and_sample_standard_deviation() -> None:
    found = summarize(FIRST)
    assert found is not None
    assert found.mean == pytest.approx(np.mean(FIRST))
    assert found.spread == pytest.approx(np.std(FIRST, ddof=1))
    assert summarize([]) is None
    expected = stats.ttest_1samp(FIRST, 0).confidence_interval(0.95)
    assert interval(found) == pytest.approx((expected.low, expected.high))
    single = summarize([0.5])
    assert single is not None
    assert single.spread is None
    assert interval(single) is None
    broken = summarize([0.5, math.nan])
    assert broken is not None
    assert math.isnan(broken.mean)


def test_folds_of_one_seed_are_paired_and_widened_for_what_their_training_sets_share() -> None:
    found = difference(folds(FIRST), folds(SECOND))
    assert found is not None
    plain = stats.ttest_rel(SECOND, FIRST).confidence_interval(0.95)
    wider = math.sqrt(1 + 5 / 4)  # Nadeau and Bengio: 1/5 + (1/5)/(4/5) instead of 1/5
    assert found.mean == pytest.approx(0.02)
    assert found.high is not None
    assert found.high - found.mean == pytest.approx((plain.high - 0.02) * wider)
    assert (found.how, found.folds, found.seeds) == ("by fold", 5, (1, 1))
    # Only the folds that both have count; and a seed of another name is the same fold.
    assert difference({**folds(FIRST), ("9", "1"): 0.1}, folds(SECOND)) == found
    assert difference(folds(FIRST), folds(SECOND, seed="7")) == found


def test_seeds_are_averaged_within_a_fold_and_are_no_further_pairs() -> None:
    first = folds(FIRST) | folds([0.60, 0.63, 0.61, 0.64, 0.63], "2")
    second = folds(SECOND, "3") | folds([0.64, 0.66, 0.64, 0.65, 0.67], "4")
    found = difference(first, second)
    assert found is not None
    assert (found.folds, found.seeds) == (5, (2, 2))
    ones, twos = (np.array([*side.values()]).reshape(2, 5).mean(0) for side in (first, second))
    averaged = difference(folds([*ones]), folds([*twos]))
    assert averaged is not None
    assert (found.low, found.high) == pytest.approx((averaged.low, averaged.high))
    # Of a model without chance in it, three seeds say what one does.
    thrice = [
        {key: value for seed in "123" for key, value in folds(side, seed).items()}
        for side in (FIRST, SECOND)
    ]
    again, once = difference(*thrice), difference(folds(FIRST), folds(SECOND))
    assert again is not None
    assert once is not None
    assert again.p == pytest.approx(once.p)
    # A fold that lacks a seed is the mean of those that it has.
    del first["0", "1"]
    without = difference(first, second)
    assert without is not None
    assert without.mean == pytest.approx(found.mean + (0.60 - 0.605) * -1 / 5)


def test_how_much_would_settle_it_is_what_does() -> None:
    second = [0.62, 0.645, 0.62, 0.665, 0.645]
    once = difference(folds(FIRST), folds(second))
    assert once is not None
    words = "it takes at least 3 seeds of 5 folds per side to detect a difference of 0.011"
    assert needed(once) == words
    # If all of the spread is the seeds' chance, three of them find it more often than not.
    changes = np.random.default_rng(0).normal(0.011, once.fold_spread / math.sqrt(3), (4000, 5))
    error = changes.std(1, ddof=1) * math.sqrt(1 / 5 + 1 / 4)
    assert 0.8 < np.mean(changes.mean(1) / error > stats.t.ppf(0.975, 4)) < 0.95
    # Two seeds a side say how much of it is.
    first = folds([0.60, 0.65, 0.61, 0.65, 0.625], "2")
    more = difference(folds(FIRST) | first, folds(second) | folds(FIRST, "2"))
    assert more is not None
    assert (
        needed(more)
        == "it takes about 10 seeds of 5 folds per side to detect a difference of 0.006"
    )
    # More seeds do not help where the folds themselves differ.
    rows = [0.62, 0.62, 0.62, 0.63, 0.66]
    same = difference(folds(FIRST) | folds(FIRST, "2"), folds(rows) | folds(rows, "2"))
    assert same is not None
    assert "but hardly one of 0.002" in needed(same)


def test_how_much_would_settle_it_where_there_are_no_folds() -> None:
    single = difference(seeds([0.5]), seeds([0.52]))
    known = difference(seeds([0.5]), seeds([0.52]), spread=0.01)
    assert single is not None
    assert known is not None
    assert needed(single) == "5 folds per side would be a start"
    assert (
        needed(known)
        == "it takes at least 4 seeds of 5 folds per side to detect a difference of 0.02"
    )
    told, none = difference(folds(FIRST), folds([0.7] * 5)), difference(seeds([1]), seeds([1]))
    assert told is not None
    assert none is not None
    assert needed(told) == needed(none) == ""


def test_seeds_without_folds_are_two_groups() -> None:
    found = difference(seeds(FIRST), seeds(SECOND[:3]))
    assert found is not None
    test = stats.ttest_ind(SECOND[:3], FIRST, equal_var=False)
    expected = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.p == pytest.approx(test.pvalue)
    assert (found.how, found.seeds) == ("by seed", (5, 3))
    # They tell that there is no difference, but one may be due to the few rows of them all.
    assert found.verdict(lower=False) == "no difference"
    better = difference(seeds(FIRST), seeds([each + 0.2 for each in SECOND]))
    assert better is not None
    assert better.p is not None
    assert better.p < 0.001
    assert (better.verdict(lower=False), better.why) == ("", "one set of rows, without folds")
    # Those of a single fold, too, and only of that which both have.
    other = {**seeds(SECOND[:3], "2"), ("3", "0"): 0.9}
    assert difference(seeds(FIRST, "2"), other) == difference(
        seeds(FIRST, "2"), seeds(SECOND[:3], "2")
    )


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (seeds([0.5]), seeds([0.75]), "one run per side; seeds alone change a score by ± 0.02"),
        (seeds([0.5]), seeds([0.75, 0.8]), "one side has only one run; seeds"),
        (folds([0.5, 0.6]), folds([0.7, 0.8], start=5), "no fold in common"),
        (seeds([0.5, 0.6]), folds([0.7, 0.8]), "no fold in common"),
        (folds([0.5, 0.6]), folds([0.5, 0.6], start=5), "no fold in common"),
        (folds([0.50, 0.60]), folds([0.51, 0.61]), "the same in all 2 folds"),
        (folds([0.5, 0.6, math.nan]), folds([0.7, 0.8, 0.9]), "infinite or not a number"),
        (seeds([0.5, math.inf]), seeds([0.7, 0.8]), "infinite or not a number"),
        (seeds([0.5, 0.5]), seeds([0.7, 0.7]), "all seeds of each side have the same value"),
    ],
)
def test_where_nothing_can_be_told_it_says_why(first: Scores, second: Scores, why: str) -> None:
    found = difference(first, second, spread=0.0201)
    assert found is not None
    assert (found.low, found.high, found.p) == (None, None, None)
    assert found.verdict(lower=False) == ""
    assert why in found.why


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
    for first in (folds(values), folds(values, start=9), seeds(values)):
        changed = difference(first, folds([0.5, 0.25]))
        assert changed is not None
        assert not changed.verdict(lower=False)


def test_where_one_side_has_nothing_there_is_no_difference() -> None:
    assert difference(folds(FIRST), {}) is None


def test_rounding_is_no_difference() -> None:
    # The columns in another order: each sum rounds otherwise.
    found = difference(folds(FIRST), folds([each + 1.1e-16 for each in FIRST]))
    assert found is not None
    assert (found.mean, found.verdict(lower=False)) == (0.0, "no difference")
    single = difference(seeds([1234567.0]), seeds([1234567.0001]))
    assert single is not None
    assert single.verdict(lower=True) == "no difference"
    larger = difference(seeds([1.0]), seeds([1.0 + 1e-8]))
    assert larger is not None
    assert larger.verdict(lower=True) == ""


def test_rows_give_an_interval_where_there_is_no_other_and_never_a_mark() -> None:
    rows = [0.5] * 50 + [0.7] * 50, [0.9] * 50 + [0.8] * 50
    found = difference(seeds([0.6]), seeds([0.85]), rows)
    assert found is not None
    assert found.low is not None
    assert 0 < found.low < 0.25
    assert (found.how, found.rows, found.verdict(lower=False)) == ("rows only", 100, "")
    assert "one run per side" in found.why
    assert difference(folds(FIRST), folds(SECOND), rows) == difference(folds(FIRST), folds(SECOND))


def test_the_bootstrap_agrees_with_scipys_and_is_the_same_each_time() -> None:
    generator = np.random.default_rng(1)
    first = generator.random(500)
    second = first + generator.normal(0.02, 0.1, 500)
    changes = second - first
    expected = stats.bootstrap(
        (changes,), np.mean, method="percentile", n_resamples=4000, rng=2
    ).confidence_interval
    ends = expected.low - changes.mean(), expected.high - changes.mean()
    assert bootstrap([0.5, math.inf], [0.5, math.inf]) is None
    assert bootstrap([0.5], [0.6]) is None
    assert bootstrap(list(first), list(second)) == pytest.approx(ends, abs=2e-3)
    assert bootstrap(list(first), list(second)) == bootstrap(list(first), list(second))


def test_what_is_marked_together_holds_together() -> None:
    changes = [0.02, 0.03, 0.01, 0.02, 0.024]
    found = [
        difference(folds(FIRST), folds([a + b - c for a, b in zip(FIRST, changes, strict=True)]))
        for c in (-0.02, 0.003, 0.012, 0.025)
    ]
    same = difference(folds(FIRST), folds(FIRST))
    alone = [each.p for each in found if each and each.p is not None]
    together = holm([*found, None, same])
    assert together[4:] == [None, same]
    ranked = sorted(alone)
    for before, after in zip(alone, together, strict=False):
        assert after is not None
        rank = ranked.index(before)
        worst = max(p * (4 - place) for place, p in enumerate(ranked[: rank + 1]))
        assert after.p == pytest.approx(min(1, worst))
        # The interval says the same as the mark.
        assert after.low is not None
        assert after.high is not None
        assert (after.low > 0 or after.high < 0) == bool(after.verdict(False) != "no difference")
    verdicts = [each.verdict(lower=False) for each in together if each]
    assert verdicts[0] == "better"
    assert "no difference" in verdicts


@pytest.mark.parametrize("together", [1, 10])
@pytest.mark.parametrize("count", [1, 3])
def test_of_changes_that_change_nothing_one_in_twenty_is_marked_at_most(
    count: int, together: int
) -> None:
    # A fold's rows suit one side or the other, whatever the seed; and each run has its own chance.
    generator = np.random.default_rng([count, together])
    shape = (1000 // together, together, 2, 5)
    by_rows = generator.normal(0, 0.01, shape)
    marked = 0
    for table in by_rows:
        runs = 0.8 + table[..., None] + generator.normal(0, 0.004, (*table.shape, count))
        found = [
            difference(*(
                {(str(fold), str(seed)): value for (fold, seed), value in np.ndenumerate(side)}
                for side in sides
            ))
            for sides in runs
        ]  # fmt: skip
        marked += any(each and each.verdict(False) in ("better", "worse") for each in holm(found))
    assert marked <= 0.05 * len(by_rows)


def test_ranks_are_compared_where_there_is_something_to_rank() -> None:
    assert rank_correlation([(0.1, 1), (0.2, 10), (0.3, 11)]) == pytest.approx(1)
    assert rank_correlation([(0.1, 3), (0.2, 2), (0.3, 1)]) == pytest.approx(-1)
    ties = [(0.1, 3), (0.2, 2), (0.2, 5), (0.3, 3), (0.4, 7), (0.4, 3)]
    assert rank_correlation(ties) == pytest.approx(stats.spearmanr(ties).statistic)
    assert rank_correlation([(0.1, 3), (0.2, 2)]) is None
    assert rank_correlation([(0.1, 3), (0.2, 3), (0.3, 3)]) is None


def test_the_interval_of_a_rank_correlation_holds_in_19_of_20_samples() -> None:
    from numpy.random import default_rng

    random, normal = default_rng(7), 0.6
    true = 6 / math.pi * math.asin(normal / 2)  # Spearman's of a normal distribution
    held = 0
    for _ in range(400):
        first, noise = random.normal(size=(2, 12))
        second = normal * first + math.sqrt(1 - normal**2) * noise
        found = rank_correlation(list(zip(first, second, strict=True)))
        assert found is not None
        low, high = rank_interval(found, 12) or (0.0, 0.0)
        held += low <= true <= high
    assert 368 <= held <= 392  # 380, and more than two standard errors at most
    assert rank_interval(0.5, 3) is None
    assert rank_interval(1.0, 4) == (pytest.approx(-0.69, abs=0.01), 1.0)
    assert rank_interval(-1.0, 4) == (-1.0, pytest.approx(0.69, abs=0.01))
