"""What a metric's name tells of it, and what its value was before it came into a database."""

import math
import re
import sys

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
    """Tell whether more of a metric is better.

    Args:
        metric: its name.
        lower_is_better: what somebody said of it; None to tell it from the name.
    """
    if lower_is_better is not None:
        return not lower_is_better
    named = words(metric)
    if "likelihood" in named:
        return not {"neg", "negative"} & set(named)
    first = next((at for at, word in enumerate(named) if _LOWER_IS_BETTER.fullmatch(word)), None)
    # scikit-learn's scorers turn around what is better low (neg_log_loss), a skill does so, too.
    return first is None or "neg" in named[:first] or "skill" in named


def as_logged(value: float, is_nan: bool = False) -> float:
    """Return a value as it was logged.

    Args:
        value: as MLflow's tables have it: the largest number for an infinity, 0 for NaN (its
            `SqlAlchemyStore.sanitize_metric_value`).
        is_nan: what they say beside it.
    """
    if is_nan:
        return math.nan
    return math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value
