"""What `kaggleops run --require` asks of a run, and which finished run answers."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kaggleops.errors import UsageError
from kaggleops.tags import ENTRY_POINT, UNCOMMITTED

if TYPE_CHECKING:
    from kaggleops.reports.history import History, Run

_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_REQUIREMENT = re.compile(r"\s*([^<>=]*[^<>=\s])\s*(>=|<=|>|<)\s*([^<>=\s]+)\s*")


@dataclass(frozen=True)
class Requirement:
    """A metric and what its last value has to be."""

    metric: str
    comparison: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric}{self.comparison}{self.bound:g}"

    def is_met(self, value: float) -> bool:
        """Tell whether a value is as required; NaN never is."""
        return _COMPARISONS[self.comparison](value, self.bound)


def read_requirement(text: str) -> Requirement:
    """Return what METRIC OP NUMBER means.

    Raises:
        UsageError: it is something else.
    """
    match = _REQUIREMENT.fullmatch(text)
    try:
        bound = float(match[3]) if match else float("nan")
    except ValueError:
        bound = float("nan")
    if match is None or bound != bound:
        hint = "Write METRIC OP NUMBER with >=, <=, > or <, in quotes: --require 'jaccard>=0.71'."
        raise UsageError(f"reading --require {text!r}", "it is no comparison with a number", hint)
    return Requirement(match[1], match[2], bound)


def finished_run(
    history: "History", sha: str, entry_point: str, params: Mapping[str, str], metric: str
) -> "Run | None":
    """Return a finished run of a commit that was started with the same settings.

    What else such a run logged as params follows from the code, and is not compared.

    Args:
        history: the runs.
        sha: the commit's full hash.
        entry_point: what started it.
        params: all that the entry point declares, `overrides` included.
        metric: of several, the newest that has it is returned, or else the newest.
    """
    found = [
        run
        for run in history.runs(history.commits().get(sha, []))
        if run.status == "FINISHED"
        and run.tags.get(ENTRY_POINT) == entry_point
        and UNCOMMITTED not in run.tags
        and all(run.params.get(name) == value for name, value in params.items())
    ]
    return next((run for run in found if metric in run.metrics), found[0] if found else None)
