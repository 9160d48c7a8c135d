"""A run that takes longer than a session: its legs, and whether another one is to follow.

A training that sees its session's end coming (`kaggleops.time_left`) saves a checkpoint and exits
with code 42, "to be continued": the run is then SCHEDULED, with the tag TO_BE_CONTINUED, and goes
on as the same run wherever it is resumed. A machine that is taken away ends a leg, too.

The legs of a run stand in its tag LEGS, once there is more than one or another one is to follow.
What a platform does to a run is free, its own failures are counted; and a run that comes no further
is not repeated for ever, whoever ends its legs.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Literal

from kaggleops.mlruns.liveness import LOST
from kaggleops.printable import as_markdown
from kaggleops.tags import (
    ACCELERATOR,
    BACKEND,
    CANCELLED,
    FAILURE,
    JOB_ENDED,
    LEGS,
    PRUNED,
    TO_BE_CONTINUED,
)
from kaggleops.tags import LOST as LOST_SINCE

if TYPE_CHECKING:
    from mlflow.entities import Run

MOST_FAILURES = 3
"""So often may a run fail by itself."""

MOST_IN_VAIN = 3
"""So many legs in a row may come no further, whoever ended them."""

_KEPT = 30  # legs in the tag, which MLflow's SQL store cuts at 8,000 characters
_LONGEST_WHY = 100

How = Literal["", "continued", "lost", "refused", "failed", "cancelled", "finished"]
"""How a leg ended: "" while it goes on; "lost" where the platform ended it, or its machine did."""


@dataclass(frozen=True)
class Leg:
    """One session of a run."""

    number: int  # from 1
    backend: str  # the kind of machine: `kaggle`, `local`
    accelerator: str
    began: int  # in seconds since the epoch
    ended: int | None = None
    first: int | None = None  # the last step that was logged before it; None for none
    last: int | None = None  # the last step that was logged at its end
    how: How = ""
    why: str = ""  # in one line

    @property
    def in_vain(self) -> bool:
        """Whether it came no further than the legs before it."""
        return self.last is None or (self.first is not None and self.last <= self.first)


@dataclass(frozen=True)
class Verdict:
    """Whether another leg follows, and why."""

    what: Literal["continue", "fail", "none"]
    why: str = ""


def next_leg(tags: Mapping[str, str], status: str, step: int | None = None) -> Verdict:
    """Tell whether a run is to go on: "continue"; or "fail", as that would not help; else "none".

    Args:
        tags: the run's.
        status: MLflow's word for it, or LOST.
        step: the last step that it has logged of whatever metric; None if it logged none.
    """
    how, why = _how_it_ended(tags, status)
    if how in ("", "finished", "cancelled"):
        return Verdict("none", why)
    if tags.get(LEGS) and not legs_of(tags):
        return Verdict("fail", "the table of its legs cannot be read")
    if how == "continued":
        return Verdict("continue", why)
    legs = _with_last(tags, 0, 0, step, how, why)
    failed = [leg for leg in legs if leg.how == "failed"]
    if how == "failed":
        if len(legs) > 1 and legs[-2].how == "failed" and legs[-2].last == step:
            return Verdict("fail", f"it failed twice {_at(step)}")
        if len(failed) >= MOST_FAILURES:
            return Verdict("fail", f"it failed {len(failed)} times")
    vain = len(list(takewhile(lambda leg: leg.in_vain, reversed(legs))))
    if vain >= MOST_IN_VAIN:
        return Verdict("fail", f"{vain} legs in a row came no further: {why}")
    return Verdict("continue", why)


def legs_of(tags: Mapping[str, str]) -> list[Leg]:
    """Return what a run's tags say of its legs, in their order; nothing where that is nonsense.

    Of a run that had many, the last ones. Of a run that has had one session, there are none.
    """
    from pydantic import TypeAdapter, ValidationError  # every MLflow brings it

    try:
        legs = TypeAdapter(list[Leg]).validate_json(tags.get(LEGS) or "[]")
    except ValidationError:
        return []
    numbers = (each for leg in legs for each in (leg.began, leg.ended, leg.first, leg.last))
    return legs if all(abs(each or 0) < 1 << 63 for each in numbers) else []


def to_tag(legs: Sequence[Leg]) -> str:
    """Return the value of the tag LEGS."""
    return json.dumps([asdict(leg) for leg in legs[-_KEPT:]], separators=(",", ":"))


def ended(run: "Run", began: float | None = None, how: How = "", why: str = "") -> list[Leg]:
    """Return the legs of a run whose last one is over.

    `began` is when that began (seconds since the epoch), if that is known better than by the run;
    `how` it ended is told by the run, if not given.
    """
    tags, status = run.data.tags, run.info.status
    if not how:
        # Who asks knows that it does not run.
        how, why = _how_it_ended(tags, LOST if status == "RUNNING" else status)
    begin = run.info.start_time / 1000 if began is None else began
    return _with_last(tags, begin, time.time(), last_step(run), how, why)


def begun(legs: Sequence[Leg], backend: str, accelerator: str, step: int | None) -> list[Leg]:
    """Return the legs with one that begins now on such a machine, behind that step."""
    number = legs[-1].number + 1 if legs else 1
    return [*legs, Leg(number, backend, accelerator, int(time.time()), first=step)]


def last_step(run: "Run") -> int | None:
    """Return the last step that a run has logged (not of its machine's load), None for none."""
    logged = [each for each in run.data.to_proto().metrics if not each.key.startswith("system/")]
    return max((each.step for each in logged), default=None)


def to_be_continued(step: int | None) -> str:
    """Return the value of the tag TO_BE_CONTINUED."""
    return f"since {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {_at(step)}"


def table(legs: Sequence[Leg]) -> str:
    """Return the legs as a table in Markdown, for the run's page."""
    rows = ["| Leg | Where | Began (UTC) | Hours | Steps | Ended |", "|---|---|---|---|---|---|"]
    for leg in legs:
        where = ", ".join(filter(None, (leg.backend, leg.accelerator.replace("none", ""))))
        hours = "" if leg.ended is None else f"{(leg.ended - leg.began) / 3600:.1f}"
        first = "" if leg.first is None else leg.first
        steps = f"{first} → {'' if leg.last is None else leg.last}"
        said = {"": "running", "continued": "to be continued"}.get(leg.how, leg.how)
        ending = f"{said}{f': {leg.why}' if leg.why else ''}"
        began = ""
        with suppress(ValueError, OverflowError, OSError):  # anybody may have written the tag
            began = f"{datetime.fromtimestamp(leg.began, UTC):%Y-%m-%d %H:%M}"
        cells = (str(leg.number), where, began, hours, steps, ending)
        rows.append("| " + " | ".join(as_markdown(cell) for cell in cells) + " |")
    return "\n".join(rows)


def _how_it_ended(tags: Mapping[str, str], status: str) -> tuple[How, str]:
    """Return how a run's last leg ended, "" if it did not, and why."""
    if status == "FINISHED":
        return "finished", ""
    if status == "SCHEDULED":
        told = tags.get(TO_BE_CONTINUED)
        return ("continued", told) if told else ("", "")
    if status in ("FAILED", "KILLED", LOST):
        if PRUNED in tags:
            return "cancelled", tags[PRUNED]
        if CANCELLED in tags:
            return "cancelled", ""
        # Where the job ended and the run had not, it was none of the run's doing.
        if said := tags.get(JOB_ENDED):
            return ("refused" if said.startswith("refused") else "lost"), said
    if status == LOST:
        return "lost", tags.get(LOST_SINCE) or "nothing was heard of its machine any more"
    if status == "FAILED":
        return "failed", tags.get(FAILURE) or "it ended with an error"
    return ("cancelled", "it was stopped") if status == "KILLED" else ("", "")


def _with_last(
    tags: Mapping[str, str], began: float, now: float, step: int | None, how: How, why: str
) -> list[Leg]:
    """Return the legs that the tags tell, the last one ended so; it may not be there yet."""
    legs = legs_of(tags)
    why = " ".join(why.split())[:_LONGEST_WHY]
    if legs and how == legs[-1].how and how in ("failed", "cancelled", "finished"):
        return legs  # who ran it has noted that
    if legs and not legs[-1].how:
        return [*legs[:-1], replace(legs[-1], ended=int(now), last=step, how=how, why=why)]
    before = legs[-1] if legs else None
    new = Leg(
        number=before.number + 1 if before else 1,
        backend=tags.get(BACKEND, ""),
        accelerator=tags.get(ACCELERATOR, ""),
        # It ended before it had begun.
        began=int(began) if before is None else before.ended or int(now),
        ended=int(now),
        first=before.last if before else None,
        last=step,
        how=how,
        why=why,
    )
    return [*legs, new]


def _at(step: int | None) -> str:
    return "before its first step" if step is None else f"at step {step}"
