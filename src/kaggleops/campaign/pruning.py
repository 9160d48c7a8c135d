"""Which trials are hopeless, by what their jobs logged so far: Optuna's pruners.

Nothing of it runs beside the training: who watches the sweep reads the metrics in the bucket, and
ends what is hopeless. So it works on every platform, and the training needs no line for it.
"""

import ast
import math
import statistics
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kaggleops.campaign.sweep import Direction, Trial
from kaggleops.errors import UsageError
from kaggleops.launch.overrides import did_you_mean
from kaggleops.printable import counted

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

_WHOLE = {"startup", "warmup", "trials", "factor", "min", "brackets", "patience"}
_KNOWN: dict[str, dict[str, float | None]] = {
    # ended if worse than the median of the finished trials at the same step; not before `startup`
    # trials have finished, nor before the step `warmup`
    "median": {"startup": 5, "warmup": 0, "trials": 1},
    # … if not among the best `keep` per cent of them
    "percentile": {"keep": 25, "startup": 5, "warmup": 0, "trials": 1},
    # of those that reach step min, min·factor, min·factor² …, the best 1/factor go on
    "asha": {"min": None, "factor": 4},
    # … with several brackets, some of which look later
    "hyperband": {"min": None, "factor": 3, "brackets": None},
    # ended if the last `patience` reports are all worse than the best before, by more than delta
    "patient": {"patience": 10, "delta": 0},
    # ended if outside
    "threshold": {"lower": None, "upper": None},
}
"""The pruners and their arguments; None for one that has no default."""

PRUNERS = tuple(_KNOWN)


_MOST_BRACKETS = 50  # the last of which looks after factor**50 steps


class Pruner:
    """One of `PRUNERS`, as `--pruner` says it: `median` or `median(startup=5, warmup=100)`."""

    def __init__(self, text: str) -> None:
        """Read it; UsageError if there is none such."""
        self.name, given = _parsed(text)
        self.arguments = {**_KNOWN[self.name], **given}
        if self.name == "threshold" and not given:
            hint = "Write threshold(lower=0.1) or threshold(upper=5)."
            raise UsageError(_doing(text), "it has neither lower nor upper", hint)
        ends = [
            each for name in ("lower", "upper") if (each := self.arguments.get(name)) is not None
        ]
        if ends != sorted(ends):
            raise UsageError(_doing(text), "lower is above upper: every trial would be ended")

    def hopeless(
        self, trials: Sequence[Trial], metric: str, direction: Direction
    ) -> list[tuple[Trial, str]]:
        """Return the trials that are RUNNING and should be ended, each with why, in one line."""
        reported = [trial for trial in trials if trial.reports]
        if not any(trial.status == "RUNNING" for trial in reported):
            return []
        if self.name in ("asha", "hyperband"):
            return self._halved(reported, metric, direction)
        return self._judged(reported, metric, direction)

    # -- what looks at a trial's last report ---------------------------------------------------

    def _judged(
        self, trials: Sequence[Trial], metric: str, direction: Direction
    ) -> list[tuple[Trial, str]]:
        import optuna
        from optuna.trial import TrialState, create_trial

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction=direction)
        for trial in trials:
            state = TrialState.RUNNING if trial.status == "RUNNING" else TrialState.FAIL
            last = trial.reports[-1][1]
            values = trial.values or ()
            if trial.status == "FINISHED" and values and math.isfinite(values[0]):
                state, last = TrialState.COMPLETE, values[0]
            told = create_trial(
                state=state,
                value=last if state == TrialState.COMPLETE else None,
                intermediate_values=dict(trial.reports),
            )
            study.add_trial(told)
        judged = zip(trials, study.get_trials(deepcopy=False), strict=True)
        with warnings.catch_warnings():
            # It calls some of its pruners experimental, and NumPy complains of NaN.
            warnings.simplefilter("ignore")
            pruner = self._optunas()
            found = [
                trial
                for trial, told in judged
                if told.state == TrialState.RUNNING and pruner.prune(study, told)
            ]
        return [(trial, self._why(trial, trials, metric, direction)) for trial in found]

    def _optunas(self) -> "BasePruner":
        from optuna import pruners

        given = self.arguments
        if self.name == "patient":
            return pruners.PatientPruner(None, int(given["patience"] or 0), given["delta"] or 0.0)
        if self.name == "threshold":
            return pruners.ThresholdPruner(lower=given["lower"], upper=given["upper"])
        return pruners.PercentilePruner(
            given.get("keep") or 50.0,
            n_startup_trials=int(given["startup"] or 0),
            n_warmup_steps=int(given["warmup"] or 0),
            n_min_trials=int(given["trials"] or 1),
        )

    def _why(self, trial: Trial, trials: Sequence[Trial], metric: str, direction: Direction) -> str:
        step, value = trial.reports[-1]
        said = f"step {step}: {metric} {value:.4g}"
        if self.name == "patient":
            return f"{said}, no better for {self.arguments['patience']:g} reports"
        if self.name == "threshold":
            ends = {name: each for name, each in self.arguments.items() if each is not None}
            return f"{said}, outside " + ", ".join(
                f"{name} {each:g}" for name, each in ends.items()
            )
        others = [
            found
            for other in trials
            if other.status == "FINISHED" and (found := dict(other.reports).get(step)) is not None
        ]
        best = (max if direction == "maximize" else min)(each for _, each in trial.reports)
        if best != value:
            said += f", {best:.4g} at best"
        of = counted(len(others), "trial")
        if self.name == "percentile":
            keep = self.arguments["keep"]
            return f"{said}, not among the best {keep:g} % of {of}"
        middle = statistics.median(others) if others else math.nan
        return f"{said}, the median of {of} was {middle:.4g}"

    # -- successive halving --------------------------------------------------------------------

    def _halved(
        self, trials: Sequence[Trial], metric: str, direction: Direction
    ) -> list[tuple[Trial, str]]:
        """Judge each trial at the highest rung that it has reached, among all that have.

        Optuna's pruner keeps on a trial what it was when it came to a rung, and there is nobody
        here who was there: it follows from the reports as well.
        """
        longest = max(
            (trial.reports[-1][0] for trial in trials if trial.status == "FINISHED"), default=None
        )
        first, factor = self.arguments["min"], int(self.arguments["factor"] or 4)
        if first is None:
            if longest is None:
                return []  # nobody knows yet how long a training is
            first = max(1, longest // 100)  # as Optuna does
        brackets = 1
        if self.name == "hyperband":
            lasts = longest or max(trial.reports[-1][0] for trial in trials)
            most = int(math.log(max(1, lasts // first), factor)) + 1
            brackets = int(self.arguments["brackets"] or most)
        found = []
        for bracket in range(brackets):
            mine = [trial for trial in trials if trial.number % brackets == bracket]
            rungs = [_rungs(trial, int(first) * factor**bracket, factor) for trial in mine]
            for trial, reached in zip(mine, rungs, strict=True):
                if trial.status != "RUNNING" or not reached:
                    continue
                rung = len(reached) - 1
                values = [each[rung][1] for each in rungs if len(each) > rung]
                values = [each for each in values if not math.isnan(each)]
                values.sort(reverse=direction == "maximize")
                step, value = reached[rung]
                best = max(1, len(values) // factor)
                last = values[best - 1] if values else value
                good = value >= last if direction == "maximize" else value <= last
                if not good:
                    why = f"the best {best} of {len(values)} had {last:.4g} or better"
                    found.append((trial, f"step {step}: {metric} {value:.4g}, {why}"))
        return found


def _rungs(trial: Trial, first: int, factor: int) -> list[tuple[int, float]]:
    """Return the first report at or after each of the steps first, first·factor …"""
    found: list[tuple[int, float]] = []
    at = first
    for step, value in trial.reports:
        while step >= at:
            found.append((step, value))
            at *= factor
    return found


def _doing(text: str) -> str:
    return f"reading --pruner {text!r}"


def _parsed(text: str) -> tuple[str, dict[str, float]]:
    doing = _doing(text)
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    keywords: list[ast.keyword] = []
    if isinstance(tree, ast.Call) and not tree.args:
        keywords = tree.keywords
        tree = tree.func
    if not isinstance(tree, ast.Name):
        raise UsageError(doing, "it is not a pruner", "Write median, or median(startup=5).")
    name = tree.id
    if name not in _KNOWN:
        hint = f"{did_you_mean(name, PRUNERS)} There are: {', '.join(PRUNERS)}.".lstrip()
        raise UsageError(doing, f"there is no pruner {name!r}", hint)
    known, given = _KNOWN[name], {}
    for keyword in keywords:
        if keyword.arg not in known:
            hint = f"It takes: {', '.join(known)}."
            raise UsageError(doing, f"{name} has no argument {keyword.arg!r}", hint)
        if keyword.arg in given:
            raise UsageError(doing, f"{keyword.arg} is given twice", "Leave one of them.")
        try:
            value = ast.literal_eval(keyword.value)
        except ValueError:
            value = None
        _check_argument(doing, str(keyword.arg), value)
        given[str(keyword.arg)] = value
    return name, given


def _check_argument(doing: str, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        value = math.nan
    if not abs(value) <= sys.float_info.max:
        raise UsageError(doing, f"{name} has to be a number")
    if name in _WHOLE and not isinstance(value, int):
        raise UsageError(doing, f"{name} has to be a whole number")
    least = {"factor": 2, "min": 1, "trials": 1, "brackets": 1}.get(name, 0)
    if name not in ("lower", "upper") and value < least:
        raise UsageError(doing, f"{name} has to be at least {least}")
    if name == "keep" and not 0 < value <= 100:
        raise UsageError(doing, "keep is in per cent, above 0, 100 at most")
    if name == "brackets" and value > _MOST_BRACKETS:
        raise UsageError(doing, f"brackets has to be {_MOST_BRACKETS} at most")
