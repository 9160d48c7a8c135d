"""Which trials are hopeless, by what their jobs logged so far: judged as Optuna's pruners do.

Nothing of it runs beside the training: who watches the sweep reads the metrics in the bucket, and
ends what is hopeless. So it works on every platform, and the training needs no line for it.
"""

import math
import re
import statistics
from collections.abc import Iterator, Sequence

from kaggleops.campaign.sweep import Direction, Trial
from kaggleops.errors import UsageError
from kaggleops.launch.overrides import did_you_mean
from kaggleops.printable import counted

_KNOWN: dict[str, dict[str, float]] = {
    # ended if worse than the median of the finished trials at the same step; not before `startup`
    # trials have finished, nor before the step `warmup`, nor with fewer than `trials` at that step
    "median": {"startup": 5, "warmup": 0, "trials": 1},
    # of those that reach step min, min·factor, min·factor² …, the best 1/factor go on; without
    # `min`, the first is a hundredth of the longest finished trial
    "asha": {"min": 0, "factor": 4},
    # ended if the last `patience` + 1 reports are all worse than the best before, by over `delta`
    "patient": {"patience": 10, "delta": 0},
}
"""The pruners and their arguments, with their defaults."""
_LEAST = {"factor": 2, "min": 1, "trials": 1}

PRUNERS = tuple(_KNOWN)

_Judged = Iterator[tuple[Trial, tuple[int, float], str]]
"""The hopeless trials, each with the step and value that it is judged by, and why."""


class Pruner:
    """One of `PRUNERS`, as `--pruner` says it: `median` or `median(startup=5, warmup=100)`."""

    def __init__(self, text: str) -> None:
        """Read it; UsageError if there is none such."""
        doing = f"reading --pruner {text!r}"
        match = re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\)\s*)?", text)
        self.name = match[1] if match else text
        if match is None or self.name not in _KNOWN:
            hint = f"{did_you_mean(self.name, PRUNERS)} There are: {', '.join(PRUNERS)}.".lstrip()
            raise UsageError(doing, f"there is no pruner {self.name!r}", hint)
        self.arguments = dict(_KNOWN[self.name])
        for item in filter(str.strip, (match[2] or "").split(",")):
            key, _, value = (each.strip() for each in item.partition("="))
            if key not in self.arguments:
                hint = f"It takes: {', '.join(self.arguments)}."
                raise UsageError(doing, f"{self.name} has no argument {key!r}", hint)
            try:
                number = float(value)
            except ValueError:
                number = math.nan
            least, whole = _LEAST.get(key, 0), key != "delta"
            if not least <= number < math.inf or (whole and number % 1):
                kind = "whole number" if whole else "number"
                raise UsageError(doing, f"{key} has to be a {kind}, at least {least}")
            self.arguments[key] = int(number) if whole else number

    def hopeless(
        self, trials: Sequence[Trial], metric: str, direction: Direction
    ) -> list[tuple[Trial, str]]:
        """Return the trials that are RUNNING and should be ended, each with why, in one line."""
        reported = [trial for trial in trials if trial.reports]
        if not any(trial.status == "RUNNING" for trial in reported):
            return []
        judge = {"median": self._below_median, "asha": self._behind, "patient": self._stuck}
        sign = 1.0 if direction == "maximize" else -1.0  # with it, more is better
        return [
            (trial, f"step {step}: {metric} {value:.4g}{why}")
            for trial, (step, value), why in judge[self.name](reported, sign)
        ]

    def _below_median(self, trials: Sequence[Trial], sign: float) -> _Judged:
        startup, warmup, least = (self.arguments[key] for key in ("startup", "warmup", "trials"))
        finished = [
            dict(trial.reports)
            for trial in trials
            if trial.status == "FINISHED" and trial.values and math.isfinite(trial.values[0])
        ]
        for trial in trials if len(finished) >= startup else ():
            step, value = trial.reports[-1]
            at_step = [each[step] for each in finished if not math.isnan(each.get(step, math.nan))]
            if trial.status != "RUNNING" or step < warmup or len(at_step) < least:
                continue
            best = sign * max(_numbers(sign, trial), default=-math.inf)
            middle = statistics.median(at_step)
            if sign * best < sign * middle:
                before = f", {best:.4g} at best" if best != value else ""
                of = counted(len(at_step), "trial")
                yield trial, (step, value), f"{before}, the median of {of} was {middle:.4g}"

    def _stuck(self, trials: Sequence[Trial], sign: float) -> _Judged:
        patience, delta = int(self.arguments["patience"]), self.arguments["delta"]
        for trial in trials:
            values = list(_numbers(sign, trial))
            before, last = values[: -patience - 1], values[-patience - 1 :]
            if trial.status == "RUNNING" and before and max(last) < max(before) - delta:
                yield trial, trial.reports[-1], f", no better for {patience} reports"

    def _behind(self, trials: Sequence[Trial], sign: float) -> _Judged:
        """Judge each trial at the highest rung that it has reached, among all that have.

        Optuna's pruner keeps on a trial what it was when it came to a rung, and there is nobody
        here who was there: it follows from the reports as well.
        """
        ends = [trial.reports[-1][0] for trial in trials if trial.status == "FINISHED"]
        first, factor = int(self.arguments["min"]), int(self.arguments["factor"])
        if not (first or ends):
            return  # nobody knows yet how long a training is
        first = first or max(1, max(ends) // 100)  # as Optuna does
        rungs = [_rungs(trial, first, factor) for trial in trials]
        for trial, reached in zip(trials, rungs, strict=True):
            if trial.status == "RUNNING" and reached:
                there = [each[len(reached) - 1][1] for each in rungs if len(each) >= len(reached)]
                values = sorted((sign * value for value in there if value == value), reverse=True)
                best = max(1, len(values) // factor)
                last = values[best - 1] if values else math.inf
                if not sign * reached[-1][1] >= last:
                    why = f", the best {best} of {len(values)} had {sign * last:.4g} or better"
                    yield trial, reached[-1], why


def _numbers(sign: float, trial: Trial) -> Iterator[float]:
    return (sign * value for _, value in trial.reports if not math.isnan(value))


def _rungs(trial: Trial, first: int, factor: int) -> list[tuple[int, float]]:
    """Return the first report at or after each of the steps first, first·factor …"""
    found: list[tuple[int, float]] = []
    at = first
    for step, value in trial.reports:
        while step >= at:
            found.append((step, value))
            at *= factor
    return found
