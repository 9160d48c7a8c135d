"""Means, spreads and differences of scores, with what can be said of their certainty.

"Did it help?" is answered by `difference`, from two or more folds that both sides have. It marks
few differences that are none (docs/benchmarks.md says how few).
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import correlation, fmean, stdev, variance

CONFIDENCE = 0.95
POWER = 0.8  # how often `needed` wants a difference of that size to be found

_ROUNDING = 1e-9  # of the score: a smaller difference is none
_LARGEST = 1e150  # of which the square is a number
_MOST_SEEDS = 20

Scores = Mapping[tuple[str, str], float]
"""The values of one training by fold and seed, each "" where there is none."""


@dataclass(frozen=True)
class Summary:
    """Count, mean and sample standard deviation (not of a single one) of some runs' values."""

    count: int
    mean: float
    spread: float | None
    folds: int = 0  # of how many folds: the mean and the spread are of the folds' means
    seeds: int = 0  # of how many seeds


@dataclass(frozen=True)
class Difference:
    """A second side's mean minus the first's, and how certain that is."""

    mean: float  # the difference; exactly 0 where it is rounding
    low: float | None = None  # the lower end of its 95 % interval; None without one
    high: float | None = None  # the upper end
    p: float | None = None  # two-sided, 1 where it is rounding; None where nothing can be told
    # what the interval is of: "by fold"; "by seed" or "rows only", which mark nothing; or ""
    how: str = ""
    folds: int = 0  # how many folds both sides have
    seeds: tuple[int, int] = (0, 0)  # how many seeds each side has
    rows: int = 0  # how many rows both sides have predicted, where it is "rows only"
    why: str = ""  # why it can mark nothing
    error: float = 0.0  # the standard error of the mean
    freedom: float = 0.0  # the degrees of freedom of Student's t
    fold_spread: float = 0.0  # the standard deviation of the folds' differences
    seed_spread: float = 0.0  # that of one seed's mean, of both sides together

    def verdict(self, lower: bool) -> str:
        """Return "better", "worse", "no difference", or "" where it can't be told (see `why`).

        `lower` says whether lower values are better.
        """
        if self.p is not None and self.p > 1 - CONFIDENCE:
            return "no difference"
        if self.p is None or self.why:  # more than the seeds' chance, but what of the rows'?
            return ""
        return "better" if (self.mean < 0) == lower else "worse"


def summarize(values: Sequence[float]) -> Summary | None:
    """Return the summary of values; None if there are none."""
    if not values:
        return None
    spread = None
    if len(values) > 1 and all(map(math.isfinite, values)):
        with suppress(OverflowError):
            spread = stdev(values)
    return Summary(len(values), mean(values), spread)


def summarize_scores(scores: Scores) -> Summary | None:
    """Return the summary of a training: of its folds' means, or of the seeds of a single one."""
    by_fold: dict[str, list[float]] = {}
    for (fold, _), value in scores.items():
        by_fold.setdefault(fold, []).append(value)
    means = [mean(values) for values in by_fold.values()]
    found = summarize(means if len(means) > 1 else list(scores.values()))
    seeds = max(map(len, by_fold.values()), default=0)
    folds = len(means) - ("" in by_fold)
    return found and replace(found, count=len(scores), folds=folds, seeds=seeds)


def mean(values: Sequence[float]) -> float:
    """Return the mean: infinite where a value is, NaN where one is or where infinities cancel."""
    try:
        return fmean(values)
    except (OverflowError, ValueError):  # the sum is too large, or has infinities of both signs
        return sum(value / len(values) for value in values)


def interval(found: Summary) -> tuple[float, float] | None:
    """Return the interval of a mean (Student's t); None where there is no spread, or no number."""
    if found.spread is None:
        return None
    count = found.folds if found.folds > 1 else found.count
    half = _t(count - 1) * found.spread / math.sqrt(count)
    low, high = found.mean - half, found.mean + half
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


# -- did it help? -------------------------------------------------------------------------------


def difference(
    first: Scores,
    second: Scores,
    rows: tuple[Sequence[float], Sequence[float]] | None = None,
    spread: float | None = None,
) -> Difference | None:
    """Return a second side's mean minus the first's; None where a side is empty.

    With two or more folds in common, each side's seeds are averaged within a fold, whatever their
    values, and the folds are paired; the interval is Student's, widened for the training sets that
    folds share (Nadeau and Bengio 2003). Without folds, or within a single one, it is Welch's over
    two or more seeds a side: that tells "no difference", and never a better side, as all seeds may
    owe it to the same few rows.

    Args:
        first: what is compared with.
        second: what is compared.
        rows: both sides' scores for each row that both predicted, in the same order. Where there is
            nothing better, they give an interval, but no mark: rows tell nothing of chance in the
            training.
        spread: the standard deviation over seeds of trainings like these, if it is known.
    """
    if not first or not second:
        return None
    values = (*first.values(), *second.values())
    if not all(abs(each) < _LARGEST for each in values):
        apart = mean(list(second.values())) - mean(list(first.values()))
        return Difference(apart, why="a value is infinite or not a number")
    # Of the largest value, by a power of two: it rounds nothing itself.
    rounding = _ROUNDING * math.ldexp(1.0, math.frexp(max(map(abs, values)))[1] - 1)
    one, other = _by_fold(first), _by_fold(second)
    folds = [fold for fold in one if fold and fold in other]
    if len(folds) > 1:
        sides = [one[fold] for fold in folds], [other[fold] for fold in folds]
        found = _over_folds(*sides, rounding)
    elif folds := folds or [fold for fold in one if fold in other]:
        found = _over_seeds(one[folds[0]], other[folds[0]], rounding)
    else:
        means = [
            fmean(value for fold in side.values() for value in fold.values())
            for side in (one, other)
        ]
        found = Difference(means[1] - means[0], why="they have no fold in common")
    if folds and abs(found.mean) <= rounding:
        found = replace(found, mean=0.0, p=1.0)
    if spread is not None and found.seeds != (0, 0) and min(found.seeds) < 2 and not found.folds:
        why = f"{found.why}; seeds alone change a score by ± {spread:.2g}"
        found = replace(found, why=why, seed_spread=spread)
    if rows is not None and found.low is None and found.mean and (ends := bootstrap(*rows)):
        low, high = (found.mean + end for end in ends)
        found = replace(found, low=low, high=high, how="rows only", rows=len(rows[0]))
    return found


def _by_fold(scores: Scores) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for (fold, seed), value in scores.items():
        found.setdefault(fold, {})[seed] = value
    return found


_Folds = Sequence[Mapping[str, float]]
"""For each fold, the values by seed."""


def _over_folds(first: _Folds, second: _Folds, rounding: float) -> Difference:
    count = len(first)
    seeds = max(map(len, first)), max(map(len, second))
    changes = [
        fmean(two.values()) - fmean(one.values()) for one, two in zip(first, second, strict=True)
    ]
    found = Difference(fmean(changes), folds=count, seeds=seeds)
    if (fold_spread := stdev(changes)) <= rounding:
        return replace(found, why=f"the difference is the same in all {count} folds")
    # The seeds' own variance in place of the second part marks an equal feature in up to 21 % of
    # comparisons where the model has no chance in it: three seeds are one, then.
    error = fold_spread * math.sqrt(1 / count + 1 / (count - 1))
    sides = [_means_of_seeds(folds) for folds in (first, second)]
    spread = math.sqrt(fmean([variance(each) for each in sides])) if min(map(len, sides)) > 1 else 0
    found = replace(found, how="by fold", fold_spread=fold_spread, seed_spread=spread)
    return _tested(found, error, count - 1)


def _means_of_seeds(folds: _Folds) -> list[float]:
    """Return the mean over the folds of each seed that has them all."""
    whole = [seed for seed in folds[0] if all(seed in fold for fold in folds)]
    return [fmean([fold[seed] for fold in folds]) for seed in whole]


def _over_seeds(
    first: Mapping[str, float], second: Mapping[str, float], rounding: float
) -> Difference:
    sides = [list(first.values()), list(second.values())]
    found = Difference(fmean(sides[1]) - fmean(sides[0]), seeds=(len(first), len(second)))
    if min(found.seeds) < 2:
        one = "one run per side" if max(found.seeds) < 2 else "one side has only one run"
        return replace(found, why=one)
    variances = [variance(each) for each in sides]
    if sum(variances) <= rounding**2:
        return replace(found, why="all seeds of each side have the same value")
    parts = [(each / n, n - 1) for each, n in zip(variances, found.seeds, strict=True)]
    total = sum(part for part, _ in parts)
    freedom = 1 / sum((part / total) ** 2 / degrees for part, degrees in parts)  # Satterthwaite's
    spread = math.sqrt(fmean(variances))
    found = replace(found, how="by seed", seed_spread=spread, why="one set of rows, without folds")
    return _tested(found, math.sqrt(total), freedom)


def _tested(found: Difference, error: float, freedom: float) -> Difference:
    from scipy.special import stdtr  # type: ignore[import-untyped]

    p = 2 * float(stdtr(freedom, -abs(found.mean) / error))
    half = _t(freedom) * error
    return replace(
        found, p=p, low=found.mean - half, high=found.mean + half, error=error, freedom=freedom
    )


def holm(differences: Sequence[Difference | None]) -> list[Difference | None]:
    """Return differences that are marked together, wider, so that all marks hold at once (Holm).

    If none of them is one, at most 5 % of such tables have a mark.
    """
    places = sorted(
        (found.p, place)
        for place, found in enumerate(differences)
        if found is not None and found.p is not None and found.mean != 0
    )
    result = list(differences)
    alpha, adjusted, all_marked = 1 - CONFIDENCE, 0.0, True
    for rank, (p, place) in enumerate(places):
        adjusted = max(adjusted, min(1.0, p * (len(places) - rank)))
        if all_marked:  # from the first that is not marked, the level stays
            level = alpha / (len(places) - rank)
            all_marked = p <= level
        found = differences[place]
        assert found is not None  # noqa: S101 - of those above
        half = _t(found.freedom, level) * found.error
        result[place] = replace(found, p=adjusted, low=found.mean - half, high=found.mean + half)
    return result


def needed(found: Difference) -> str:
    """Return in words how many seeds and folds would tell a difference of that size.

    They would four times in five or more, if it is so large; "at least" where it is not known how
    much of the folds' spread is the seeds' chance. "" where it is told already, or there is none.
    """
    size = abs(found.mean)
    told = found.how == "by fold" and found.p is not None and found.p <= 1 - CONFIDENCE
    if told or not 0 < size < math.inf:
        return ""
    if not (found.fold_spread or found.seed_spread):
        return f"{max(5, 2 * found.folds)} folds per side would be a start"
    tries = [
        (folds * seeds, folds, seeds)
        for folds in {max(found.folds, 5), max(found.folds, 10)}
        for seeds in range(1, _MOST_SEEDS + 1)
    ]
    enough = [each for each in tries if _least(found, *each[1:]) <= size]
    _, folds, seeds = min(enough, default=max(tries))
    sides = f"{seeds} seed{'s' if seeds > 1 else ''} of {folds} folds per side"
    if enough:
        about = "about" if found.fold_spread and found.seed_spread else "at least"
        return f"it takes {about} {sides} to detect a difference of {size:.2g}"
    least = _least(found, folds, seeds)
    return f"{sides} can detect a difference of {least:.2g}, but hardly one of {size:.2g}"


def _least(found: Difference, folds: int, seeds: int) -> float:
    """Return the least difference that so many seeds and folds a side tell."""
    from scipy.special import stdtrit

    if found.folds:
        total, now = found.fold_spread**2, sum(1 / each for each in found.seeds)
        # What the seeds' chance has to do with the variance of the folds' differences.
        of_seeds = min(total, found.folds * found.seed_spread**2 * now or total)
        each = total - of_seeds + of_seeds * 2 / seeds / now
        each *= folds / found.folds  # more folds of the same rows are smaller, and differ more
    else:
        each = 2 * found.seed_spread**2 / seeds
    error = math.sqrt(each * (1 / folds + 1 / (folds - 1)))
    return error * (_t(folds - 1) + float(stdtrit(folds - 1, POWER)))


def bootstrap(
    first: Sequence[float], second: Sequence[float], repetitions: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """Return how far from the mean difference of paired rows its interval's ends lie.

    The draws are the same each time. None for fewer than two rows, and where one is not finite.
    """
    import numpy as np

    with np.errstate(all="ignore"):  # two infinities, or almost
        differences = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    if (count := len(differences)) < 2 or not np.isfinite(differences).all():
        return None
    generator = np.random.default_rng(seed)
    means = [differences[generator.integers(0, count, count)].mean() for _ in range(repetitions)]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means, [tail, 100 - tail]) - differences.mean()
    return float(low), float(high)


def _t(freedom: float, alpha: float = 1 - CONFIDENCE) -> float:
    """Return the quantile of Student's distribution that the interval's half width takes."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - alpha / 2))


# -- ranks -----------------------------------------------------------------------------------


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Spearman's correlation; None for fewer than three pairs or a side of equal values."""
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    if len(pairs) < 3 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    # Not SciPy's spearmanr: importing its statistics takes longer than all the rest.
    return correlation(ranks(first), ranks(second))


def rank_interval(correlation: float, count: int) -> tuple[float, float] | None:
    """Return the 95 % interval of Spearman's correlation over so many pairs; None below four.

    Fisher's z with the standard error of Bonett and Wright (Psychometrika 65, 2000). At +1 and -1,
    where z has no end, half a step towards the next value that ranks can have counts.
    """
    if count < 4:
        return None
    most = 1 - 6 / (count * (count**2 - 1))
    inside = max(-most, min(most, correlation))
    reach = _t(math.inf) * math.sqrt((1 + inside**2 / 2) / (count - 3))
    low, high = (math.tanh(math.atanh(inside) + side * reach) for side in (-1, 1))
    return (-1.0 if correlation < -most else low), (1.0 if correlation > most else high)


def ranks(values: Sequence[float]) -> list[float]:
    """Return each value's rank; equal ones share the mean of theirs."""
    ordered = sorted(values)
    return [(bisect_left(ordered, each) + 1 + bisect_right(ordered, each)) / 2 for each in values]


# -- what a metric's name tells -----------------------------------------------------------------

_WORD = re.compile(r"[^\W_]+")
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
