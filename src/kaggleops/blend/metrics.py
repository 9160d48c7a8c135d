"""How predictions are scored: a metric by scikit-learn's name for it, or a user's own function.

A ranking metric (`ndcg`, `map`) is the mean over the queries that rows belong to, as scikit-learn's
`ndcg_score` and `average_precision_score` have it of one query; equal scores stand in the order of
their rows.
"""

import importlib
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kaggleops.blend.weights import Floats, Ints
from kaggleops.errors import UsageError, first_line
from kaggleops.printable import quoted
from kaggleops.reports.score import FOLD_WORDS, HELD_OUT, MEAN, Score
from kaggleops.reports.statistics import higher_is_better, words

Kind = Literal["values", "labels", "probabilities", "own"]
"""What a metric reads: numbers, classes, probabilities of classes; or what the blend predicts, as
it is, for a user's own function."""

_KAPPA = "quadratic_kappa"  # which has no scorer of its own
_ALIASES = dict(
    each.split("=")
    for each in f"""
        rmse=neg_root_mean_squared_error mse=neg_mean_squared_error mae=neg_mean_absolute_error
        mape=neg_mean_absolute_percentage_error medae=neg_median_absolute_error
        rmsle=neg_root_mean_squared_log_error msle=neg_mean_squared_log_error r2score=r2
        auc=roc_auc auroc=roc_auc rocauc=roc_auc logloss=neg_log_loss crossentropy=neg_log_loss
        ap=average_precision auprc=average_precision prauc=average_precision acc=accuracy
        brier=neg_brier_score mcc=matthews_corrcoef matthews=matthews_corrcoef qwk={_KAPPA}
    """.split()
)
"""What people call scikit-learn's scorers, in letters and digits alone."""

_OF_VALUES = re.compile(
    r"r2|explained_variance|d2_(absolute|tweedie|pinball).*|neg_.*(error|deviance)"
)
_ANOTHER = "Name another metric with --metric."
_OF_GROUPS = re.compile(r"(?<![a-z])(ndcg|map)(?:@(\d+))?$")


@dataclass(frozen=True)
class Truth:
    """What is right, of all rows."""

    values: Floats  # (rows,): numbers, or the classes' places
    classes: tuple[str, ...] = ()  # the classes, in order; none where the truth is a number
    threshold: float = 0.5  # from which value on a row is of the second of two classes
    groups: Ints | None = None  # (rows,): which query a row belongs to, from 0

    def labels(self, predictions: Floats) -> Ints:
        """Return the place of each row's class, as its prediction (rows, columns) says.

        That is the most probable one; of a single column, the nearest number.
        """
        if predictions.shape[1] > 1:
            return np.argmax(predictions, axis=1)
        if len(self.classes) == 2:
            return (predictions[:, 0] >= self.threshold).astype(np.intp)
        return np.argmin(np.abs(predictions - as_numbers(self.classes)[None, :]), axis=1)

    def votes(self, places: Ints) -> Floats:
        """Return a vote (rows, columns) for the class at each place, in the shape of shares."""
        found = np.eye(len(self.classes))[places]
        return found[:, 1:] if len(self.classes) == 2 else found

    def shares(self, predictions: Floats) -> Floats:
        """Return a probability for each class; a single column is that of the second of two."""
        if predictions.shape[1] == 1:
            return np.hstack([1 - predictions, predictions])
        sums = predictions.sum(axis=1, keepdims=True)
        if not (sums > 0).all():
            raise ValueError(f"the probabilities of a row add up to {sums.min():g}")
        return predictions / sums


def as_numbers(texts: Sequence[str]) -> NDArray[Any]:
    """Return texts as numbers if all are; as they are otherwise."""
    array = np.asarray(texts)
    try:
        return array.astype(float)
    except ValueError:
        return array


_Function = Callable[[Floats, Ints], float]


@dataclass(frozen=True)
class Metric:
    """A metric of predictions, with the truth that they are held against."""

    name: str  # as it was named
    known_as: str  # scikit-learn's name, or the function's
    lower: bool  # whether lower is better
    kind: Kind
    function: _Function
    truth: Truth

    def __call__(self, predictions: Floats, rows: Ints) -> float:
        """Return the score of predictions (rows, columns) of these rows.

        Raises UsageError if it cannot be told.
        """
        problem = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a class that is never predicted, for one
                found = float(self.function(predictions, rows))
        except Exception as error:  # noqa: BLE001 - a user's function raises anything
            problem = first_line(error)
        if not problem and np.isfinite(found):
            return found
        problem = problem or f"it is {found} on some rows"
        if lacking := {*range(len(self.truth.classes))} - {*self.truth.values[rows].tolist()}:
            # Many a metric then cannot be told.
            problem = f"a fold has no row of {quoted(self.truth.classes[min(lacking)])}: {problem}"
        raise UsageError(f"scoring {self.name}", problem, _ANOTHER)

    def worth(self, predictions: Floats, rows: Ints) -> float:
        """Return the same, higher for what is better."""
        found = self(predictions, rows)
        return -found if self.lower else found


def canonical(name: str) -> str:
    """Return scikit-learn's name of a metric, "" for one that is unknown.

    Words for folds, held-out rows and means do not count: `cv_rmse` and `val_rmse` are `rmse`.
    """
    from sklearn.metrics import get_scorer_names

    if found := _OF_GROUPS.search(name.lower()):
        return found[0]
    known = {*get_scorer_names(), *_ALIASES.values()}
    if name in known:
        return name
    for left_out in (HELD_OUT | FOLD_WORDS, HELD_OUT | FOLD_WORDS | MEAN):
        kept = [each for each in words(name) if each not in left_out]
        joined = "_".join(kept)
        for each in (joined, f"neg_{joined}", _ALIASES.get("".join(kept), "")):
            if each in known:
                return each
    return ""


def wants_numbers(name: str) -> bool:
    """Return whether a metric holds numbers against numbers, and knows no classes."""
    known = canonical(name)
    return bool(_OF_VALUES.fullmatch(known) or _OF_GROUPS.fullmatch(known))


def by_name(name: str, truth: Truth) -> Metric:
    """Return a metric by scikit-learn's name, or one that people use.

    Raises UsageError if there is no such metric, or it does not fit the truth.
    """
    doing = f"reading the metric {name!r}"
    if not (known := canonical(name)):
        hint = "Name one of scikit-learn's, or your own function: --metric module:function."
        raise UsageError(doing, "scikit-learn has none of this name", hint)
    if found := _OF_GROUPS.fullmatch(known):
        if truth.groups is None:
            hint = "Name the column that says which query a row is of: --group COLUMN."
            raise UsageError(doing, "no column says which query a row is of", hint)
        return Metric(name, known, False, "values", _of_groups(truth, found[1], found[2]), truth)
    try:
        scored, kind = _from_sklearn(known, truth)
    except ValueError as error:
        raise UsageError(doing, first_line(error), _ANOTHER) from error
    # As people log it, a loss is positive.
    if known.startswith("neg_") and not name.startswith("neg_"):
        return Metric(name, known, True, kind, lambda *given: -scored(*given), truth)
    return Metric(name, known, False, kind, scored, truth)


def _from_sklearn(known: str, truth: Truth) -> tuple[_Function, Kind]:
    from sklearn import metrics
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    count = len(truth.classes)
    if known == "neg_log_loss":
        # Its own scorer takes the classes from the rows, and a fold may lack one.
        how = {"greater_is_better": False, "response_method": "predict_proba"}
        scorer = metrics.make_scorer(metrics.log_loss, **how, labels=range(count))
    elif known == _KAPPA:
        scorer = metrics.make_scorer(metrics.cohen_kappa_score, weights="quadratic")
    else:
        more = dict.fromkeys(("f1", "precision", "recall", "jaccard"), "_macro")
        more |= {"roc_auc": "_ovr"}
        scorer = metrics.get_scorer(known + (more.get(known, "") if count > 2 else ""))
    mixin: Any = ClassifierMixin if count else RegressorMixin
    kind: Kind = "labels" if count else "values"

    class Model(mixin, BaseEstimator):
        """What a scorer takes for a model: its "rows" are the predictions themselves."""

        classes_ = np.arange(count)

        def fit(self) -> None: ...

        def predict(self, given: Floats) -> NDArray[Any]:
            return truth.labels(given) if count else given[:, 0]

        def predict_proba(self, given: Floats) -> Floats:
            nonlocal kind
            kind = "probabilities"
            return truth.shares(given)

    right: NDArray[Any] = truth.values.astype(int) if count else truth.values

    def score(predicted: Floats, rows: Ints) -> float:
        return float(scorer(Model(), predicted, right[rows]))

    if count:  # what a scorer asks its model for says what it reads
        score(truth.votes(right), np.arange(len(right)))
    return score, kind


def _of_groups(truth: Truth, which: str, most: str | None) -> _Function:
    function = _ndcg if which == "ndcg" else _average_precision

    def score(predicted: Floats, rows: Ints) -> float:
        groups = np.unique(np.asarray(truth.groups)[rows], return_inverse=True)[1]
        got, best = function(truth.values[rows], predicted[:, 0], groups, int(most or len(rows)))
        return float(np.mean(np.divide(got, best, out=np.zeros_like(got), where=best > 0)))

    return score


def _ranked(right: Floats, scores: Floats, groups: Ints) -> tuple[Floats, Ints, Ints]:
    """Return what is right, the group and the rank from 0, by group, the highest score first."""
    order = np.lexsort((-scores, groups))
    starts = np.searchsorted(groups[order], groups[order])
    return right[order], groups[order], np.arange(len(right)) - starts


def _ndcg(right: Floats, scores: Floats, groups: Ints, most: int) -> list[Floats]:
    """Return each group's gain, and the most that it could be."""
    gains: list[Floats] = []
    for by in (scores, right):
        found, group, rank = _ranked(right, by, groups)
        gains.append(np.bincount(group, found / np.log2(rank + 2) * (rank < most)).astype(float))
    return gains


def _average_precision(right: Floats, scores: Floats, groups: Ints, most: int) -> list[Floats]:
    found, group, rank = _ranked((right > 0).astype(float), scores, groups)
    so_far = np.cumsum(found)
    hits = so_far - (so_far - found)[np.flatnonzero(rank == 0)][group]
    precision = np.bincount(group, found * hits / (rank + 1) * (rank < most))
    return [precision.astype(float), np.bincount(group, found).clip(max=most).astype(float)]


def own(name: str, truth: Truth, lower: bool | None) -> Metric:
    """Return the function that `module:function` names, from the working directory, as a metric.

    Importing it runs it: only for what the user has typed, never for a name that a run has.
    `lower` says whether lower is better; None as its name tells. Raises UsageError if there is no
    such function.
    """
    module, _, function = name.rpartition(":")
    doing = f"reading the metric {name!r}"
    sys.path[:] = dict.fromkeys([str(Path.cwd()), *sys.path])
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # a user's module raises anything
        hint = "Name a function of (y_true, y_pred): --metric module:function for module.py here."
        raise UsageError(doing, first_line(error), hint) from error
    right = truth.values  # as it stood in the table: numbers if all are
    if truth.classes:
        right = as_numbers(truth.classes)[truth.values.astype(int)]

    def score(predicted: Floats, rows: Ints) -> float:
        return float(found(right[rows], predicted[:, 0] if predicted.shape[1] == 1 else predicted))

    return Metric(function, function, not higher_is_better(function, lower), "own", score, truth)


def score_as(metric: Metric, declared: Score | None) -> Score:
    """Return under which name a blend's score is logged: its members', if that is this metric."""
    known = canonical(declared.name) if declared else ""
    if declared and (known == metric.known_as or (not known and metric.kind == "own")):
        return Score(declared.name, metric.lower)
    return Score(metric.name, metric.lower)
