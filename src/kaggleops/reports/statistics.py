"""Means, spreads and differences of scores, with what can be said of their certainty.

Intervals are at 95 %: of the mean difference of pairs (Student's t), of two independent groups
(Welch's t), and of the mean over many rows (percentiles of a bootstrap over rows).
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import correlation, fmean, stdev
from typing import TypeVar

CONFIDENCE = 0.95

_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Summary:
    """Count, mean and sample standard deviation (not of a single one) of some runs' values."""

    count: int
    mean: float
    spread: float | None


@dataclass(frozen=True)
class Difference:
    """A second side's mean minus the first's.

    Args:
        mean: the difference.
        low: the lower end of its interval; None without one.
        high: the upper end.
        how: "paired by fold", "unpaired", "bootstrap over rows", or "" without an interval.
        count: the number of pairs, runs or rows.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    how: str = ""
    count: int = 0

    @property
    def significant(self) -> bool:
        """Whether zero lies outside of the interval."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def summarize(values: Sequence[float]) -> Summary | None:
    """Return the summary of values; None if there are none."""
    if not values:
        return None
    spread = stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None
    return Summary(len(values), mean(values), spread)


def mean(values: Sequence[float]) -> float:
    """Return the mean: infinite where a value is, NaN where one is or where infinities cancel."""
    try:
        return fmean(values)
    except (OverflowError, ValueError):  # the sum is too large, or has infinities of both signs
        return sum(value / len(values) for value in values)


def interval(found: Summary) -> tuple[float, float] | None:
    """Return the interval of a mean (Student's t); None where there is no spread."""
    if found.spread is None:
        return None
    half = _t(found.count - 1) * found.spread / math.sqrt(found.count)
    return found.mean - half, found.mean + half


def difference(first: Mapping[_Key, float], second: Mapping[_Key, float]) -> Difference | None:
    """Return a second side's mean minus the first's; None where a side is empty.

    With two or more keys in common it is that of the pairs; else that of the means, with Welch's
    interval where both sides have at least two values.

    Args:
        first: values by what distinguishes the runs of a side: fold and seed, say.
        second: likewise.
    """
    if not first or not second:
        return None
    both = [key for key in first if key in second]
    if len(both) > 1:
        return _paired([second[key] - first[key] for key in both])
    return _unpaired(list(first.values()), list(second.values()))


def _paired(differences: Sequence[float]) -> Difference:
    count = len(differences)
    found = mean(differences)
    if not all(map(math.isfinite, differences)):
        return Difference(found, count=count)
    half = _t(count - 1) * stdev(differences) / math.sqrt(count)
    return Difference(found, found - half, found + half, "paired by fold", count)


def _unpaired(first: Sequence[float], second: Sequence[float]) -> Difference:
    found = mean(second) - mean(first)
    count = len(first) + len(second)
    if min(len(first), len(second)) < 2 or not math.isfinite(found):
        return Difference(found, count=count)
    spreads = [stdev(values) / math.sqrt(len(values)) for values in (first, second)]
    spread = math.hypot(*spreads)
    if spread == 0:
        return Difference(found, found, found, "unpaired", count)
    # Welch and Satterthwaite's degrees of freedom; of shares, whose squares do not overflow.
    freedom = 1 / sum(
        (part / spread) ** 4 / (len(values) - 1)
        for part, values in zip(spreads, (first, second), strict=True)
    )
    half = _t(freedom) * spread
    return Difference(found, found - half, found + half, "unpaired", count)


def bootstrap(
    first: Sequence[float], second: Sequence[float], repetitions: int = 2000, seed: int = 0
) -> Difference:
    """Return the mean difference of two scores for each row, always with the same interval."""
    import numpy as np

    with np.errstate(invalid="ignore"):  # two infinities
        differences = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    count = len(differences)
    if not np.isfinite(differences).all():
        return Difference(mean(differences.tolist()), count=count)
    generator = np.random.default_rng(seed)
    means = [differences[generator.integers(0, count, count)].mean() for _ in range(repetitions)]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Difference(
        float(differences.mean()), float(low), float(high), "bootstrap over rows", count
    )


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Spearman's correlation; None for fewer than three pairs or a side of equal values."""
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    if len(pairs) < 3 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    # Not SciPy's spearmanr: importing its statistics takes longer than all the rest.
    return correlation(_ranks(first), _ranks(second))


def _ranks(values: Sequence[float]) -> list[float]:
    """Return each value's rank; equal ones share the mean of theirs."""
    ordered = sorted(values)
    return [(bisect_left(ordered, each) + 1 + bisect_right(ordered, each)) / 2 for each in values]


def _t(freedom: float) -> float:
    """Return the quantile of Student's distribution that the interval's half width takes."""
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    return float(stdtrit(freedom, 0.5 + CONFIDENCE / 2))


# -- what a metric's name tells -----------------------------------------------------------------

_WORD = re.compile(r"[a-z0-9]+")
_LOWER_IS_BETTER = re.compile(
    # Whatever stands before these: logloss, mcrmse, rmsle, wrmsse, smape, crossentropy, merror.
    r"([a-z]*(loss|losses|error|errors|mse|msle|mspe|msse|mae|mape|deviance|entropy|perplexity)"
    r"|ppl|nll|nloglik|kl|kld|divergence|brier|crps|pinball|hinge|huber|logcosh|regret|cost"
    r"|wape|mase|medae|mdape|rae|rse|rrse|rmsd|l[12]|aic|bic|ece|mce|bpc|bpb|fid|lpips"
    r"|[wcmted]er|false|fpr|fnr|distance|hausdorff"
    r"|time|runtime|duration|latency|elapsed)\d*"
)


def words(metric: str) -> list[str]:
    """Return the words of a metric's name in lower case: "eval/RMSLE_fold-2" has four."""
    return _WORD.findall(metric.lower())


def higher_is_better(metric: str, lower_is_better: bool | None = None) -> bool:
    """Return whether a higher value is better, guessed from the metric's name unless it is told."""
    if lower_is_better is not None:
        return not lower_is_better
    named = words(metric)
    if "likelihood" in named:
        return not {"neg", "negative"} & set(named)
    first = next((at for at, word in enumerate(named) if _LOWER_IS_BETTER.fullmatch(word)), None)
    # scikit-learn's scorers negate what is better low (neg_log_loss); a skill score does so, too.
    return first is None or "neg" in named[:first] or "skill" in named
