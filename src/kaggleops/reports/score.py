"""Which of a run's metrics is its score, and which of them are values of single folds.

A commit's MLproject (or its configuration) declares the score, and each of its runs carries that as
a tag. Where none does, it is learnt from the metrics' names: from how a score is called, and from
what is none (a learning rate, a time, a count, a loss or a score of the training rows).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from kaggleops.errors import UsageError
from kaggleops.reports.statistics import higher_is_better, mean, words
from kaggleops.tags import SCORE

_Value = TypeVar("_Value")

SUBMITTED = ("public_score", "private_score")
"""Metrics in which a submission records Kaggle's scores on its run."""


@dataclass(frozen=True)
class Score:
    """A metric that says how good a run is."""

    name: str  # the metric
    lower: bool  # whether lower is better


def declared(tags: Mapping[str, str]) -> Score | None:
    """Return the score that a run's tags declare: "jaccard", or "rmse lower"; None if none."""
    name, _, last = (told := tags.get(SCORE, "").strip()).rpartition(" ")
    if name and last in ("lower", "higher"):
        return Score(name.strip(), last == "lower")
    return named(told) if told else None


def named(metric: str, lower_is_better: bool | None = None) -> Score:
    """Return a metric as a score; None guesses from its name whether lower is better."""
    return Score(metric, not higher_is_better(metric, lower_is_better))


# -- what a metric's name tells -----------------------------------------------------------------

HELD_OUT = {"val", "valid", "validation", "eval", "evaluation", "test", "dev", "holdout"}
HELD_OUT |= {"oof", "cv"}
FOLD_WORDS = {"fold", "folds", "kfold", "cv"}
MEAN = {"mean", "avg", "average", "per", "each"}
_TIMES = r"""times?|runtime|walltime|duration|latency|elapsed|throughput|timestamp|secs?|seconds?
    |minutes|hours|ms|eta|flos"""
_TIME = re.compile(_TIMES, re.VERBOSE)
_NO_SCORE = re.compile(
    rf"""({_TIMES}|train|training|trn|learn|baseline|system
    # settings of the training, and how far it came
    |lr|learning|epochs?|steps?|iter|iters|iterations?|folds?|seed|momentum|decay|temperature
    |threshold|dropout|warmup|patience|trees|estimators
    # counts, sizes, spreads, and what the machine does
    |n|num|number|counts?|size|rows|samples|params|parameters|features|tokens|examples|std|stdev
    |stddev|sem|variance|var|ci|grad|gradient|norm|weights?|scale|memory|mem|gpu|cpu|ram|disk|gb|mb
    |bytes|usd|price)\d*""",
    re.VERBOSE,
)
_KNOWN = re.compile(
    r"""acc|accuracy|balanced|auc|auroc|auprc|rocauc|prauc|roc|ap|map|average|precision|recall|f1|f2
    |fbeta|fscore|jaccard|iou|miou|dice|mcc|matthews|kappa|qwk|r2|r2score|gini|ks|ndcg|mrr|hit
    |hitrate|bleu|rouge[12l]?|meteor|chrf|em|spearmanr?|pearsonr?|corr|correlation|silhouette|score
    |lb|sharpe|explained|specificity|sensitivity|lift|likelihood""",
    re.VERBOSE,
)
_LOSS = re.compile(r"[a-z]*loss(es)?\d*")
_HELD_OUT_LOSS = re.compile(r"(val|valid|validation|eval|test|dev|oof|cv)[a-z]*loss")
_SCORED_BY = re.compile(r"(log|hamming|hinge|huber|pinball|zeroone)loss")
"""Losses that competitions are scored by."""


def is_time(metric: str) -> bool:
    """Return whether a metric tells a time or a speed."""
    return any(map(_TIME.fullmatch, words(metric)))


def is_score(metric: str) -> bool:
    """Return whether a metric can be a score, as its name tells.

    None is a learning rate, a time, a count, what is of the training rows, of the machine, of a
    single fold or of Kaggle's leaderboard. A loss is one if it is of rows that were held out.
    """
    return _rank(metric) is not None


def _rank(metric: str) -> int | None:
    """Return how little a metric looks like a score, from 0; None for one that is none."""
    if metric.startswith(("system/", "baseline")) or metric in SUBMITTED or fold_of(metric):
        return None
    found = words(metric)
    # "fold_rmse" has a value a fold; "fold" alone is their number.
    kept = [word for word in found if word not in FOLD_WORDS] or found
    by_epoch = kept[-1:] == ["epoch"]  # Lightning's val_acc_epoch
    kept = kept[: -1 if by_epoch else None]
    if not kept or any(map(_NO_SCORE.fullmatch, kept)):
        return None
    joined = "".join(found)
    if any(map(_LOSS.fullmatch, kept)) and not _SCORED_BY.search(joined):
        return 2 if _HELD_OUT_LOSS.search(joined) else None
    if any(map(_KNOWN.fullmatch, kept)) or not higher_is_better(metric):
        return 0
    return None if by_epoch else 1


def score_among(counted: Mapping[str, int], declared: Score | None = None) -> Score | None:
    """Return the score among metrics, each with how many runs have it; None if none looks like one.

    What is declared counts where a run has it, else the first of `scores_among`.
    """
    return next(iter(scores_among(counted, declared)), None)


def scores_among(counted: Mapping[str, int], declared: Score | None = None) -> list[Score]:
    """Return what can be a score among metrics, what is most likely to be the score first.

    After what is declared, that is one that at least half as many runs have as any other: rather a
    known measure (rmse, auc) than an unknown word, and that rather than a loss; rather one with
    values of folds; rather of held-out rows than of others; of what is left what most runs have.
    Of the folds' values and their mean one is there.
    """
    whole = dict(counted)
    logged = {plain(name) for name in counted if not fold_of(name)}
    of_single_folds = set[str]()
    for name, runs in counted.items():
        if part := fold_of(name):
            of_single_folds.add(plain(part[0]))
            if plain(part[0]) not in logged:
                whole[part[0]] = max(runs, whole.get(part[0], 0))
    ranks = {name: rank for name in whole if (rank := _rank(name)) is not None}
    held_out = {_anywhere(name) for name in ranks if HELD_OUT & set(words(name))}
    most = max((whole[name] for name in ranks), default=0)

    def order(name: str) -> tuple[bool, int, bool, bool, int, int, str]:
        known = set(words(name))
        has_folds = bool(known & FOLD_WORDS) or plain(name) in of_single_folds
        shadowed = not known & HELD_OUT and _anywhere(name) in held_out
        rare = 2 * whole[name] < most
        return rare, ranks[name], not has_folds, shadowed, -whole[name], len(name), name

    found: dict[str, Score] = {}
    if declared and (declared.name in whole or plain(declared.name) in of_single_folds):
        found[plain(declared.name)] = declared
    for name in sorted(ranks, key=order):
        found.setdefault(plain(name), named(name))
    return list(found.values())


def score_of(tags: Mapping[str, str], metrics: Mapping[str, float]) -> tuple[Score, float] | None:
    """Return a run's score and its value; None where no metric looks like a score.

    Of a metric with values of folds it is their mean, where the run logged that or where they have
    names of their own; else the last fold's.
    """
    found = _named_in(tags.get(SCORE, ""), tuple(metrics))
    return found and (found[0], mean([metrics[name] for name in found[1]]))


@lru_cache(1024)
def _named_in(told: str, metrics: Sequence[str]) -> tuple[Score, list[str]] | None:
    """Return the score, and the metrics whose mean is its value: thousands of runs share these."""
    found = score_among(dict.fromkeys(metrics, 1), declared({SCORE: told}))
    if found is None:
        return None
    whole = [name for name in metrics if plain(name) == plain(found.name) and not fold_of(name)]
    means = [name for name in whole if {"fold", "folds", "kfold"}.isdisjoint(words(name))]
    if means:
        return found, [found.name if found.name in means else means[0]]
    single = of_folds(found.name, dict(zip(metrics, metrics, strict=True)))
    return found, list(single.values()) or [found.name]


def require_score(counted: Mapping[str, int], declared: Score | None, doing: str) -> Score:
    """Return `score_among`; UsageError with the metrics that there are where none is a score."""
    if not counted:
        hint = "Wait until one finishes, or name another experiment."
        raise UsageError(doing, "no finished run has a metric", hint)
    if (found := score_among(counted, declared)) is None:
        names = sorted(counted, key=lambda name: (name.startswith("system/"), name))
        listed = ", ".join(names[:8]) + (" …" if names[8:] else "")
        hint = "Name one with --metric, or write `score: NAME` into MLproject."
        raise UsageError(doing, f"none of the metrics looks like a score: {listed}", hint)
    return found


# -- folds in one process -------------------------------------------------------------------------

_NUMBERED = re.compile(r"(?<![a-z])(?:k?fold|split)[ _./-]*(\d{1,3})(?!\d)[ _./-]*", re.IGNORECASE)


def fold_of(metric: str) -> tuple[str, str] | None:
    """Return the metric of which this one is a single fold's value, and that fold; None for others.

    `fold_0_rmse`, `rmse_fold_0`, `fold0/rmse` and `val.rmse-split3` are.
    """
    if match := _NUMBERED.search(metric):
        before, after = metric[: match.start()], metric[match.end() :]
        if base := (before + after).strip(" _./-"):
            return base, str(int(match[1]))
    return None


def of_folds(metric: str, metrics: Mapping[str, _Value]) -> dict[str, _Value]:
    """Return the values that a run logged of a metric under names of single folds, by the fold."""
    found: dict[str, _Value] = {}
    for name, value in metrics.items():
        if (part := fold_of(name)) and plain(part[0]) == plain(metric):
            found[part[1]] = value
    return found


def family(metric: str, metrics: Iterable[str]) -> list[str]:
    """Return a metric, and those that hold its values of folds, of some metrics."""
    found: list[str] = []
    told = plain(metric)
    for name in metrics:
        part = fold_of(name)
        has_folds = part or not FOLD_WORDS.isdisjoint(words(name))
        if name == metric:
            found.insert(0, name)
        elif has_folds and plain(part[0] if part else name) == told:
            found.append(name)
    return found


def plain(metric: str) -> str:
    """Return a metric's name without words for folds and their mean."""
    kept = [word for word in words(metric) if word not in FOLD_WORDS | MEAN]
    return " ".join(kept) or metric


def _anywhere(metric: str) -> str:
    """Return a metric's name without words for folds, their mean, and held-out rows."""
    return " ".join(word for word in plain(metric).split() if word not in HELD_OUT)
