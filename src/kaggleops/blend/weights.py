"""Weights of a blend from out-of-fold predictions, and the blend's honest score.

Nothing is scored on rows that its weights were found on. The blend's score is nested: for each fold
the method is chosen and the weights are found on the other folds, and scored on it. The weights
that are kept are found the same way on all folds.

Sources: hill climbing with replacement, Caruana et al. 2004, "Ensemble selection from libraries of
models"; non-negative least squares on out-of-fold predictions, Breiman 1996, "Stacked regressions".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

Worth = Callable[[Floats, Ints], float]
"""How good predictions (rows, columns) of some rows are, by the rows' numbers. Higher is better."""

RIDGES = (1.0, 0.1, 0.01)
"""How strongly least squares is pulled to equal weights, in shares of the members' mean error."""

_ROUNDS = 50  # of hill climbing
_PATIENCE = 5  # rounds without a better score, after which it ends
_EQUAL = 1e-12  # relative: scores nearer than that are equal, and the simpler method is taken


class Weights(NamedTuple):
    """How much each member counts (members,): none negative, together 1; and how it was found."""

    method: str
    values: Floats


@dataclass(frozen=True)
class Nested:
    """A blend's weights, and what it predicts of rows that its weights were not found on."""

    weights: Weights  # found on all folds
    of_folds: tuple[Weights, ...]  # for each fold, found on the others
    predictions: Floats  # (rows, columns): of each row, with the weights of its fold


def blended(predictions: Floats, weights: Floats) -> Floats:
    """Return the weighted mean (rows, columns) of members' predictions (members, rows, columns)."""
    return np.tensordot(weights, predictions, axes=1)


def nested(
    predictions: Floats,
    folds: Ints,
    worth: Worth,
    target: Floats | None = None,
    done: Callable[[int, int], None] = lambda *_: None,
) -> Nested:
    """Return the weights of all folds, and the predictions of weights that did not see a fold.

    Of members' `predictions` (members, rows, columns), with each row's fold from 0 (rows,), by what
    is `worth` most; least squares need what they aim at, the `target` (rows, columns). `done` hears
    how many of how many folds are through.
    """
    every = range(int(folds.max()) + 1)
    of_fold = [np.flatnonzero(folds == fold) for fold in every]

    @cache  # the rows that an inner fold leaves are those of another one's, too
    def found(without: frozenset[int]) -> Mapping[str, Floats]:
        rows = np.flatnonzero(~np.isin(folds, list(without)))
        aim = None if target is None else target[rows]
        return _by_method(predictions[:, rows], lambda given: worth(given, rows), aim)

    def score(weights: Floats, fold: int) -> float:
        rows = of_fold[fold]
        return worth(blended(predictions[:, rows], weights), rows)

    def chosen(without: frozenset[int]) -> Weights:
        """Return weights found on all folds but some, by the method that does best among those."""
        whole, inner = found(without), [fold for fold in every if fold not in without]
        values = {}
        for method, weights in whole.items():
            held_out = (
                found(without | {fold})[method] if len(inner) > 1 else weights for fold in inner
            )
            scores = [score(*each) for each in zip(held_out, inner, strict=True)]
            values[method] = float(np.mean(scores))
        best = max(values.values())
        near = best - _EQUAL * max(1.0, abs(best))
        method = next(name for name, value in values.items() if value >= near)
        return Weights(method, whole[method])

    of_folds, mixed = [], np.empty(predictions.shape[1:])
    for fold, rows in enumerate(of_fold):
        done(fold, len(every) + 1)
        of_folds.append(chosen(frozenset({fold})))
        mixed[rows] = blended(predictions[:, rows], of_folds[-1].values)
    done(len(every), len(every) + 1)
    return Nested(chosen(frozenset()), tuple(of_folds), mixed)


def _by_method(
    predictions: Floats, worth: Callable[[Floats], float], target: Floats | None
) -> dict[str, Floats]:
    """Return each method's weights, the simplest method first."""
    count = len(predictions)
    alone = [worth(each) for each in predictions]
    found = {"best single run": np.eye(count)[int(np.argmax(alone))]}
    found["equal weights"] = np.full(count, 1 / count)
    if target is not None:
        for ridge in RIDGES:
            found[f"ridge {ridge:g}"] = least_squares(predictions, target, ridge)
        found["non-negative least squares"] = least_squares(predictions, target)
    found["hill climbing"] = hill_climbing(predictions, worth, alone)
    return found


def hill_climbing(
    predictions: Floats, worth: Callable[[Floats], float], alone: Sequence[float]
) -> Floats:
    """Return weights (members,) by taking, again and again, the member that helps most.

    Of members' predictions (members, rows, columns); `worth` is of a blend's predictions (rows,
    columns), `alone` of each member's.
    """
    first = int(np.argmax(alone))
    counts, total = np.eye(len(predictions))[first], predictions[first].copy()
    best, kept, since = max(alone), counts.copy(), 0
    for taken in range(2, _ROUNDS + 1):
        values = [worth((total + each) / taken) for each in predictions]
        next_one = int(np.argmax(values))
        counts[next_one] += 1
        total += predictions[next_one]
        if values[next_one] > best:
            best, kept, since = values[next_one], counts.copy(), 0
        elif (since := since + 1) >= _PATIENCE:
            break
    return kept / kept.sum()


def least_squares(predictions: Floats, target: Floats, ridge: float = 0.0) -> Floats:
    """Return the weights (members,) of the least squared error: none negative, together 1.

    Of members' predictions (members, rows, columns) of a target (rows, columns); `ridge` is how
    strongly the weights are pulled to equal ones.
    """
    from scipy.optimize import nnls  # type: ignore[import-untyped]

    count = len(predictions)
    errors = (predictions - target).reshape(count, -1).T
    scale = float(np.sqrt(np.mean(errors**2)))
    if not 0 < scale < np.inf:
        return np.full(count, 1 / count)
    # The triangle has the same squares as all the rows, of which there may be millions.
    triangle = np.linalg.qr(errors / scale, mode="r") / np.sqrt(len(errors))
    pull = np.sqrt(ridge) * np.eye(count)
    together = 1e4 * np.ones((1, count))  # so heavy that they are 1 together
    wanted = np.concatenate([np.zeros(len(triangle)), pull.sum(axis=1) / count, [1e4]])
    values, _ = nnls(np.vstack([triangle, pull, together]), wanted)
    return np.asarray(values / values.sum(), dtype=float)


def correlations(predictions: Floats) -> Floats:
    """Return Pearson's correlation of each two members' predictions; 0 for a constant one."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.nan_to_num(np.corrcoef(predictions.reshape(len(predictions), -1)))
    np.fill_diagonal(found, 1.0)
    return found
