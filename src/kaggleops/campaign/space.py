"""What a sweep tries: Hydra's sweep syntax, read for any MLproject, with Hydra or without.

`a=1,2,3`, `choice(…)`, `range(…)`, `interval(…)`, `int(…)`, `tag(log, …)`, `glob(…)` and `sort(…)`
mean what they mean to `python train.py -m`; Hydra's own parser reads them. A value is kept as the
text that stands in an override, quotes included, so that a job gets what `kaggleops run KEY=VALUE`
would give it.

What a space is read from can be read again anywhere: `expressions` has the files that a `glob`
found written out.
"""

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kaggleops.campaign.sweep import Point, Sweep
from kaggleops.errors import UsageError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

MOST = 10_000
"""How many points a sweep tries at most, and values an axis has: each is a run."""

_LARGEST = 2**53  # an end: a float tells it exactly

_DOING = "reading the space"


@dataclass(frozen=True)
class Axis:
    """What one key is set to: listed values, numbers in a range, or an interval."""

    key: str  # of the override, with its `+` or `++`
    values: Sequence[str] = ()  # as they stand in an override, in order; none of an interval
    # the ends of numbers, both included, both whole numbers or both not; None where it has none
    low: float | None = None
    high: float | None = None
    step: float | None = None  # between the numbers of a range; None for an interval
    log: bool = False  # whether the numbers are tried by their magnitude
    expression: str = ""  # `key=…` that gives the same axis anywhere

    @property
    def count(self) -> int | None:
        """How many values it has; None for any number."""
        if self.values:
            return len(self.values)
        return int(self.high - self.low) + 1 if self._whole else None  # type: ignore[operator]

    @property
    def _whole(self) -> bool:
        return isinstance(self.low, int)

    def distribution(self) -> Any:
        """Return the axis as Optuna's distribution; that of listed values is over their texts."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        if self.low is None or self.high is None:
            return CategoricalDistribution(tuple(self.values))
        if self._whole:
            step = 1 if self.step is None else int(self.step)
            return IntDistribution(int(self.low), int(self.high), self.log, step)
        return FloatDistribution(self.low, self.high, self.log, self.step)

    def text(self, value: Any) -> str:
        """Return a value of the distribution as it stands in an override."""
        if self.low is None or self.high is None or self._whole:
            return str(value)
        # Six digits of a number that was drawn: people type it again.
        if self.step is None:
            return repr(min(self.high, max(self.low, float(f"{value:.6g}"))))
        return _number(value)

    def value(self, text: str) -> Any:
        """Return the value that `text` stands for; ValueError if it is no number, and has to be."""
        if self.low is None:
            return text
        return int(text) if self._whole else float(text)


@dataclass(frozen=True)
class Space:
    """All points that a sweep could try."""

    axes: Sequence[Axis]
    fixed: Sequence[str] = ()  # the overrides that set one value, as they were typed

    @property
    def count(self) -> int | None:
        """How many points it has; None for any number."""
        counts = [axis.count for axis in self.axes]
        return None if None in counts else math.prod(count for count in counts if count)

    @property
    def expressions(self) -> list[str]:
        """The axes, written so that they read the same on another machine."""
        return [axis.expression for axis in self.axes]

    def point(self, number: int) -> Point:
        """Return a point of a space that has a `count`; the last axis changes fastest."""
        found: dict[str, str] = {}
        for axis in reversed(self.axes):
            number, place = divmod(number, axis.count or 1)
            found[axis.key] = axis.values[place] if axis.values else str(int(axis.low or 0) + place)
        return {axis.key: found[axis.key] for axis in self.axes}

    def split(self, fold_axis: str) -> tuple["Space", list[str]]:
        """Return the space without the axis of folds, and the folds."""
        others = [axis for axis in self.axes if axis.key != fold_axis]
        folds = [list(axis.values) for axis in self.axes if axis.key == fold_axis]
        if folds and not folds[0]:
            hint = f"Write {fold_axis}=0,1,2, or --folds '' if these are not folds."
            raise UsageError(
                _DOING, f"{fold_axis} is an interval, and folds have to be listed", hint
            )
        return Space(others, self.fixed), folds[0] if folds else []


def read_space(
    axes: Sequence[str],
    groups: Callable[[str], list[str]] = lambda _: [],
    *,
    literal: Collection[str] = (),
) -> Space:
    """Return the space that `key=…` in Hydra's sweep syntax describe.

    What sets a single value is not an axis, but `fixed`. `groups` tells the choices that a group of
    the configuration has, for `glob`. `literal` are keys whose values are taken as they are, for an
    entry point that is not Hydra's: quotes only keep together what they surround. Raises UsageError
    if one is none, or no values come of it, or Hydra is not installed.
    """
    found: list[Axis] = []
    fixed: list[str] = []
    for item in axes:
        if item.startswith("="):
            raise UsageError(_DOING, f"{item} has no key", "Write KEY=VALUES, as in model=a,b.")
        override = _parsed(item, literal)
        if override is None or not override.is_sweep_override():
            fixed.append(item)
            continue
        axis = _axis(override, groups, literal)
        if any(axis.key == other.key for other in found):
            raise UsageError(_DOING, f"{axis.key} is swept twice", "Give each key once.")
        if len(set(axis.values)) < len(axis.values):
            twice = next(each for each in axis.values if axis.values.count(each) > 1)
            raise UsageError(_DOING, f"{axis.key} has the value {twice} twice")
        found.append(axis)
    names = [axis.key.lstrip("+") for axis in found]
    for item in fixed:
        if (key := item.partition("=")[0].lstrip("+")) in names:
            raise UsageError(_DOING, f"{key} is set to one value, and swept", "Leave one of them.")
    return Space(found, fixed)


def split_of(sweep: Sweep) -> tuple[Space, list[str]]:
    """Return the space that a sweep searches, and each trial's folds as an override has them."""
    space = read_space(sweep.axes, literal=sweep.literal)
    others, folds = space.split(sweep.fold_axis)
    return others, folds or list(sweep.folds)


def _parsed(item: str, literal: Collection[str]) -> "Override | None":
    """Return what Hydra makes of an override; None for a text that only its program understands."""
    try:
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException
    except ImportError:
        problem = "Hydra, which reads it, is not installed"
        raise UsageError(_DOING, problem, "Install it: pip install 'kaggleops[sweep]'.") from None
    try:
        return OverridesParser.create().parse_override(item)
    except (HydraException, ValueError, RecursionError) as error:
        if item.partition("=")[0] in literal:
            return None
        said = str(error).partition("\n")[0]
        hint = "Quote what is one text: key='a,b'; Hydra's syntax for the rest: key=choice(a,b)."
        raise UsageError(_DOING, f"{item} is not in Hydra's syntax: {said}", hint) from None


def _axis(
    override: "Override", groups: Callable[[str], list[str]], literal: Collection[str]
) -> Axis:
    from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, RangeSweep

    key, typed, told = override.get_key_element(), override.input_line or "", override.value()
    if getattr(told, "shuffle", False):
        hint = "--sampler random tries points in an order of the seed's."
        raise UsageError(_DOING, f"{typed} is not a sweep that is supported", hint)
    if isinstance(told, IntervalSweep | RangeSweep):
        return _numbers(key, typed, told)
    if isinstance(told, Glob):
        listed = groups(override.key_or_group)
        names = told.filter(sorted(listed))
        if not names:
            hint = f"There are: {', '.join(listed)}." if listed else "It has no such group."
            problem = f"{typed} matches nothing in the commit's configuration"
            raise UsageError(_DOING, problem, hint)
        texts = [_text(name) for name in names]
        typed = f"{key}=choice({','.join(texts)})"
        return Axis(key, tuple(names if key in literal else texts), expression=typed)
    if not isinstance(told, ChoiceSweep) or told.tags:
        hint = f"A tag is for numbers: {key}=tag(log, interval(FROM, TO))."
        raise UsageError(_DOING, f"{typed} is not a sweep that is supported", hint)
    _check_count(key, len(told.list))
    strings, values = override.sweep_string_iterator(), list(told.list)
    texts = [
        _text(value) if isinstance(value, str) else text
        for value, text in zip(values, strings, strict=True)
    ]
    if key in literal:
        texts = [_plain(value, text) for value, text in zip(values, texts, strict=True)]
    return Axis(key, tuple(texts), expression=typed)


def _numbers(key: str, typed: str, told: Any) -> Axis:
    """Return the axis of an interval or a range."""
    step = getattr(told, "step", None)
    low, high = (told.start, told.end) if step is None else (told.start, told.stop)
    for each in (low, high, step or 0):
        if not isinstance(each, int | float) or not abs(each) <= _LARGEST:
            hint = f"The largest number is {_LARGEST}."
            raise UsageError(_DOING, f"{typed} has an end that is no number, or too large", hint)
    texts: list[str] = []
    if step is None:
        empty = low >= high
    else:
        count = (high - low) / step if step else 0.0
        empty = count <= 0
        _check_count(key, count)
    if empty:
        hint = f"Write {key}=interval(FROM, TO), or {key}=range(FROM, BEFORE, STEP)."
        raise UsageError(_DOING, f"{typed} is empty", hint)
    if step is not None:
        numbers = list(told.range())
        texts = [_number(each) for each in numbers]
        read = int if isinstance(numbers[0], int) else float
        low, high = sorted(read(texts[at]) for at in (0, -1))
        step = abs(step)
    log = told.tags == {"log"}
    stepped = step is not None and (step != 1 or isinstance(low, float))
    if told.tags and (not log or low <= 0 or stepped):
        hint = f"Write {key}=tag(log, interval(FROM, TO)) with FROM above 0, or leave out the tag."
        problem = f"{typed}: the only tag is log, for numbers above 0, in steps of 1 if in any"
        raise UsageError(_DOING, problem, hint)
    return Axis(key, tuple(texts), low, high, step, log, typed)


def _check_count(key: str, count: float) -> None:
    if count > MOST:
        hint = "Take an interval(…) and --trials, or fewer values."
        problem = f"{key} has {count:,.0f} values, and {MOST:,} are the most"
        raise UsageError(_DOING, problem, hint)


def _number(value: float) -> str:
    # 0.1 + 0.1 + 0.1 is 0.3 to those who type it.
    return str(value) if isinstance(value, int) else repr(float(f"{value:.12g}"))


_WORDS = {"null", "true", "false", "nan", "inf"}
"""What Hydra takes for something else than a text."""


def _text(value: str) -> str:
    """Return a text as it stands in an override: in quotes where it would be read otherwise.

    Hydra drops the quotes of `choice('3.10')`, and would go on with the number 3.1.
    """
    from hydra.core.override_parser.types import Quote, QuotedString

    if re.fullmatch(r"[A-Za-z_/][\w./-]*", value) and value.lower() not in _WORDS:
        return value
    return QuotedString(value, Quote.single).with_quotes()


def _plain(value: Any, text: str) -> str:
    """Return a value as a program gets it that knows nothing of Hydra's quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value
    return str(getattr(value, "text", text))  # of a text in quotes
