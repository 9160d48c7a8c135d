"""Did it help? How often `compare` and `leaderboard` mark a change that is none, and find one.

The truth is known: B is A with another seed, or has another feature of exactly the same worth, or
one more feature that is worth a little. Every verdict is the product's own, from the runs that such
trainings would have left; beside it, what people do in its place.

python benchmarks/bench_answer.py [--repetitions 40]
"""

import argparse
import itertools
import math
import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from common import print_caption, print_table
from scipy import stats

from kaggleops.reports.comparison import compare
from kaggleops.reports.leaderboard import leaderboard
from kaggleops.reports.score import named
from kaggleops.reports.selection import Side
from kaggleops.reports.statistics import bootstrap
from kaggleops.reports.trainings import Run
from kaggleops.tags import COMMIT

FOLDS = 5
COMMITS = 10  # of a chain
GAINS = (0.002, 0.006, 0.012)  # of the AUC
_Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of data and model."""

    rows: int
    shape: str  # how the target depends on the features
    model: Callable[[int], Any]  # of a seed
    regression: bool = False
    # for power: how much the target depends on the feature that B has in addition, for each gain
    weights: tuple[float, ...] = ()


def kinds() -> dict[str, Kind]:
    """Return them; in a function, as workers need no scikit-learn before."""
    from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
    from sklearn.naive_bayes import GaussianNB
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    class OfSomeRows(LogisticRegression):  # type: ignore[misc]
        """Sees three in four of the rows, drawn with its seed."""

        def fit(self, features: _Array, target: _Array) -> Any:
            drawn = np.random.default_rng(self.random_state).random(len(target)) < 0.75
            return super().fit(features[drawn], target[drawn])

    def descent(seed: int) -> Any:
        return SGDClassifier(loss="log_loss", max_iter=5, tol=None, random_state=seed)

    def tree(seed: int) -> Any:
        return DecisionTreeClassifier(max_features=3, min_samples_leaf=10, random_state=seed)

    def regression_tree(seed: int) -> Any:
        return DecisionTreeRegressor(max_features=4, min_samples_leaf=8, random_state=seed)

    return {
        "naive Bayes, 300 rows": Kind(300, "curves", lambda _: GaussianNB()),
        "logistic regression, 600": Kind(600, "linear", lambda _: LogisticRegression()),
        "gradient descent, 600": Kind(600, "linear", descent),
        "decision tree, 600": Kind(600, "steps", tree),
        "logistic regression of random rows, 400": Kind(
            400, "linear", lambda seed: OfSomeRows(random_state=seed)
        ),
        "ridge regression, 400": Kind(400, "heavy", lambda _: Ridge(), regression=True),
        "regression tree, 600": Kind(600, "heavy", regression_tree, regression=True),
        # Of these the power is measured: the weights come to the GAINS, as the table says.
        "logistic regression, 2,000": Kind(
            2000, "linear", lambda _: LogisticRegression(), weights=(0.15, 0.247, 0.362)
        ),
        "logistic regression of random rows, 2,000": Kind(
            2000,
            "linear",
            lambda seed: OfSomeRows(random_state=seed),
            weights=(0.15, 0.247, 0.362),
        ),
    }


METRICS = {
    False: ("auc", "log_loss", "brier", "accuracy", "f1", "precision", "recall",
            "balanced_accuracy", "mcc", "average_precision"),
    True: ("rmse", "mae", "r2", "median_error", "max_error", "correlation", "relative_error",
           "q90_error", "capped_error", "rank_correlation"),
}  # fmt: skip
"""Ten a kind, the first of which is the score."""


def _classified(truth: _Array, chance: _Array) -> list[float]:
    """Return the metrics of a classification, in the order of `METRICS`."""
    positive = truth == 1
    ones, zeros = positive.sum(), (~positive).sum()
    ranks = stats.rankdata(chance)
    auc = (ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros)
    said = chance > 0.5
    hits, false = (said & positive).sum(), (said & ~positive).sum()
    missed, passed = ones - hits, zeros - false
    recall, precision = hits / ones, hits / max(1, hits + false)
    spread = math.sqrt(float(hits + false) * ones * zeros * (passed + missed))
    order = np.argsort(-chance, kind="stable")
    found = np.flatnonzero(positive[order])
    return [
        auc,
        _row_losses(truth, chance, regression=False).mean(),
        ((chance - truth) ** 2).mean(),
        (hits + passed) / len(truth),
        2 * hits / max(1, 2 * hits + false + missed),
        precision,
        recall,
        (recall + passed / zeros) / 2,
        (hits * passed - false * missed) / spread if spread else 0.0,
        (np.arange(1, ones + 1) / (found + 1)).mean(),
    ]


def _regressed(truth: _Array, guess: _Array) -> list[float]:
    """Return the metrics of a regression, in the order of `METRICS`."""
    errors = np.abs(guess - truth)
    squares = (errors**2).mean()
    return [
        math.sqrt(squares),
        errors.mean(),
        1 - squares / truth.var(),
        float(np.median(errors)),
        errors.max(),
        np.corrcoef(truth, guess)[0, 1],
        (errors / (np.abs(truth) + 1)).mean(),
        float(np.quantile(errors, 0.9)),
        np.minimum(errors, 1).mean(),
        np.corrcoef(stats.rankdata(truth), stats.rankdata(guess))[0, 1],
    ]


def _row_losses(truth: _Array, guess: _Array, *, regression: bool) -> _Array:
    """Return each row's share of the squared error or log loss: what a bootstrap draws from."""
    if regression:
        return (guess - truth) ** 2
    chance = np.clip(guess, 1e-6, 1 - 1e-6)
    return -np.log(np.where(truth == 1, chance, 1 - chance))


class Trainings:
    """One data set, split once, and trainings on it.

    Features 0 to 5 are shared. Each of `COMMITS` further ones is worth exactly as much as every
    other; and for each of the kind's `weights`, one is worth that.
    """

    def __init__(self, kind: Kind, generator: np.random.Generator) -> None:
        rows = kind.rows
        shared = generator.normal(size=(rows, 6))
        self._shared = shared
        self._alike = generator.normal(size=(rows, COMMITS + 1))
        self._worth = generator.normal(size=(rows, len(kind.weights)))
        target = {
            "linear": shared[:, 0] + 0.5 * shared[:, 1],
            "curves": np.sin(2 * shared[:, 0]) + shared[:, 1] * shared[:, 2],
            "heavy": shared[:, 0] * np.exp(0.5 * shared[:, 1]),
            "steps": (shared[:, 0] > 0) + (shared[:, 1] > 0.5) * (shared[:, 2] > 0),
        }[kind.shape]
        target = target + 0.25 * self._alike.sum(1) + self._worth @ np.array(kind.weights)
        if kind.regression:
            self._target = target + generator.standard_t(4, rows)
        else:
            noise = generator.logistic(size=rows)
            self._target = (target + noise > target.mean()).astype(int)
        order = generator.permutation(rows)
        if not kind.regression:  # stratified
            order = order[np.argsort(self._target[order], kind="stable")]
        self._fold = np.empty(rows, int)
        self._fold[order] = np.arange(rows) % FOLDS
        self._kind = kind
        self.seeded = kind.model(1).get_params().get("random_state") is not None
        self._done: dict[tuple[int, int, int], tuple[_Array, _Array]] = {}

    def __call__(self, feature: int = 0, seed: int = 0, gain: int = -1) -> tuple[_Array, _Array]:
        """Return the metrics of each fold, and the losses of all rows, of one training."""
        key = (feature, seed if self.seeded else 0, gain)
        if key not in self._done:
            self._done[key] = self._train(*key)
        return self._done[key]

    def _train(self, feature: int, seed: int, gain: int) -> tuple[_Array, _Array]:
        kind = self._kind
        features = np.c_[self._shared, self._alike[:, feature]]
        if gain >= 0:
            features = np.c_[features, self._worth[:, gain]]
        folds, losses = [], np.empty(kind.rows)
        for fold in range(FOLDS):
            held_out = self._fold == fold
            # A side's seed, as people set it: the same in each fold.
            model = kind.model(7919 * seed + 31 * feature + gain + 1)
            model.fit(features[~held_out], self._target[~held_out])
            truth = self._target[held_out]
            if kind.regression:
                guess = model.predict(features[held_out])
                folds.append(_regressed(truth, guess))
            else:
                guess = model.predict_proba(features[held_out])[:, 1]
                folds.append(_classified(truth, guess))
            losses[held_out] = _row_losses(truth, guess, regression=kind.regression)
        return np.array(folds), losses


# -- what says whether it helped ----------------------------------------------------------------

_Side = Sequence[tuple[_Array, _Array]]
"""A side's trainings, one a seed: metrics by fold, losses by row."""


def _run(sha: str, fold: int, seed: int, metrics: Mapping[str, float]) -> Run:
    name = f"{sha}-{fold}-{seed}"
    params = {"fold": str(fold), "seed": str(seed)}
    return Run(name, name, "bench", "1", "FINISHED", 1, "", params, {COMMIT: sha}, dict(metrics))


def _runs(sha: str, side: _Side, names: Sequence[str]) -> list[Run]:
    return [
        _run(sha, fold, seed, dict(zip(names, map(float, row), strict=False)))
        for seed, (folds, _) in enumerate(side)
        for fold, row in enumerate(folds)
    ]


def compared(first: _Side, second: _Side, names: Sequence[str]) -> list[str]:
    """Return the verdict of `compare` on each metric."""
    sides = [
        Side(sha, sha, tuple(_runs(sha, side, names)))
        for sha, side in (("a" * 40, first), ("b" * 40, second))
    ]
    return [line.verdict(0) for line in compare(sides, None, metrics=names).metrics]


def ranked(chain: Sequence[_Side], name: str) -> list[str]:
    """Return the verdict of `leaderboard` on each commit of a chain but the first."""
    shas = [f"{number:040x}" for number in range(len(chain))]
    runs = [run for sha, side in zip(shas, chain, strict=True) for run in _runs(sha, side, [name])]
    score = named(name)
    entries = leaderboard(runs, score, dict(zip(shas[1:], shas, strict=False)))
    return [entry.change.verdict(score.lower) for entry in entries if entry.change]


def _marked(verdicts: Sequence[str]) -> bool:
    return any(verdict in ("better", "worse") for verdict in verdicts)


def _scores(side: _Side) -> _Array:
    """Return the score by seed and fold."""
    return np.array([folds[:, 0] for folds, _ in side])


def plain_t(first: _Side, second: _Side) -> bool:
    """Return whether Student's t on the pairs of folds, after averaging seeds, marks it."""
    return _t(_scores(second).mean(0) - _scores(first).mean(0))


def pairs(first: _Side, second: _Side) -> bool:
    """Return whether Student's t marks it that takes each seed's folds for pairs of their own."""
    return _t((_scores(second) - _scores(first)).ravel())


def _t(changes: _Array) -> bool:
    return bool(np.ptp(changes) > 0 and stats.ttest_1samp(changes, 0).pvalue <= 0.05)


def welch(first: _Side, second: _Side) -> bool:
    """Return whether Welch's t over all values marks it."""
    one, two = _scores(first).ravel(), _scores(second).ravel()
    return bool(stats.ttest_ind(one, two, equal_var=False).pvalue <= 0.05)


def by_rows(first: _Side, second: _Side) -> bool:
    """Return whether a bootstrap over the rows' losses, after averaging seeds, marks it."""
    one, two = (np.mean([losses for _, losses in side], axis=0) for side in (first, second))
    if not np.any(one != two):
        return False
    ends = bootstrap(one.tolist(), two.tolist(), 400)
    found = float((two - one).mean())
    return ends is not None and (found + ends[0] > 0 or found + ends[1] < 0)


PEERS: dict[str, Callable[[_Side, _Side], bool]] = {
    "paired t over folds": plain_t,
    "every seed's folds as pairs": pairs,
    "Welch": welch,
    "bootstrap over rows": by_rows,
}


# -- false alarms and power ---------------------------------------------------------------------

_Found = Iterator[tuple[str, str, float]]
"""What was asked, of whom, and whether it was marked; or the gain."""


def false_alarms(of: Trainings, names: Sequence[str]) -> _Found:
    """Ask about changes that change nothing."""
    for seeds in (1, 3):
        first = [of(seed=seed) for seed in range(seeds)]
        others = {
            "an equal feature": [of(1, seed + seeds) for seed in range(seeds)],
        }
        if of.seeded:
            others["another seed"] = [of(seed=seed + seeds) for seed in range(seeds)]
        many = f"{seeds} seed{'s' * (seeds > 1)} a side"
        for what, second in others.items():
            yield f"{what}, {many}", "compare", _marked(compared(first, second, names[:1]))
            for peer, mark in PEERS.items():
                yield f"{what}, {many}", peer, mark(first, second)
            asked = f"any of ten metrics: {what}, {many}"
            yield asked, "compare", _marked(compared(first, second, names))
    chains = {"an equal feature": [[of(feature, feature)] for feature in range(COMMITS + 1)]}
    if of.seeded:
        chains["another seed"] = [[of(seed=seed)] for seed in range(COMMITS + 1)]
        second = [of(seed=3)]
        mark = compared([of(seed=seed) for seed in range(3)], second, names[:1])
        yield "another seed, 3 seeds against 1", "compare", _marked(mark)
    for what, chain in chains.items():
        asked = f"any of a chain of ten: {what}"
        yield asked, "compare", _marked(ranked(chain, names[0]))
        for peer, mark in PEERS.items():
            yield asked, peer, any(mark(*two) for two in itertools.pairwise(chain))


def power(of: Trainings, names: Sequence[str], gains: Sequence[float]) -> _Found:
    """Ask about changes that help."""
    for place, gain in enumerate(gains):
        for seeds in (1, 3):
            first = [of(seed=seed) for seed in range(seeds)]
            second = [of(seed=seed + seeds, gain=place) for seed in range(seeds)]
            asked = f"{gain:.3f}, {seeds} seed{'s' * (seeds > 1)} a side"
            yield asked, "compare", compared(first, second, names[:1]) == ["better"]
            gained = _scores(second).mean() - _scores(first).mean()
            yield asked, "true gain", gained
            for peer, mark in PEERS.items():
                yield asked, peer, bool(gained > 0 and mark(first, second))


def repetition(name: str, number: int) -> list[tuple[str, str, float]]:
    """Return all answers on one data set of a kind."""
    warnings.filterwarnings("ignore")  # few steps do not converge
    import sklearn

    sklearn.set_config(skip_parameter_validation=True, assume_finite=True)
    every = kinds()
    kind = every[name]
    names = METRICS[kind.regression]
    of = Trainings(kind, np.random.default_rng([list(every).index(name), number]))
    return list(power(of, names, GAINS) if kind.weights else false_alarms(of, names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=40, metavar="N", help="a kind of data")
    parser.add_argument("--only", metavar="KIND", help="a kind of data and model")
    chosen = parser.parse_args()
    every = kinds()
    names = [chosen.only] if chosen.only else list(every)
    # What was marked, by the question and who was asked, and by kind.
    alarms: _Marks = defaultdict(lambda: defaultdict(list))
    finds: _Marks = defaultdict(lambda: defaultdict(list))
    with ProcessPoolExecutor() as pool:
        for name in names:
            marks = finds if every[name].weights else alarms
            for found in pool.map(partial(repetition, name), range(chosen.repetitions)):
                for asked, who, marked in found:
                    marks[asked, who][name].append(marked)
            print(f"{name}: done", file=sys.stderr, flush=True)
    _print_table("Marked although nothing changed, %, mean (least to most by kind)", alarms)
    of_kinds = [name for name in names if not every[name].weights]
    rows = [
        [asked, *(_cell({name: by_kind.get(name, ())}) for name in of_kinds)]
        for (asked, who), by_kind in sorted(alarms.items())
        if who == "compare"
    ]
    print_table("Those of `compare` and `leaderboard` by kind, %", ["", *of_kinds], rows)
    for name in names:
        own = {key: {name: by_kind[name]} for key, by_kind in finds.items() if name in by_kind}
        if own:
            _print_table(f"Found, %, of gains of the AUC: {name}", own)
    print_caption(f"{chosen.repetitions} data sets of each kind of data and model, {FOLDS} folds.")


_Marks = dict[tuple[str, str], dict[str, list[float]]]


def _print_table(title: str, marks: Mapping[tuple[str, str], Mapping[str, list[float]]]) -> None:
    columns = [*(["true gain"] if "gain" in title else []), "compare", *PEERS]
    rows = [
        [asked, *(_cell(marks.get((asked, who), {}), gain=who == "true gain") for who in columns)]
        for asked in sorted({asked for asked, _ in marks})
    ]
    print_table(title, ["", *columns], rows)


def _cell(by_kind: Mapping[str, Sequence[float]], *, gain: bool = False) -> str:
    means = [fmean(each) for each in by_kind.values() if each]
    if not means:
        return ""
    if gain:
        return f"{fmean(means):.4f}"
    spread = f" ({100 * min(means):.0f} to {100 * max(means):.0f})" if means[1:] else ""
    return f"{100 * fmean(means):.1f}{spread}"


if __name__ == "__main__":
    main()
