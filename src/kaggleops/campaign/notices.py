"""Notices of what becomes of sweeps, to any service that apprise knows: a digest, not forty.

An address holds its service's secret, so it stands in the environment (`KAGGLEOPS_NOTIFY`) or in a
file of this user's alone, never in a configuration, and nothing here prints one or any part of it.

What there is to tell of a sweep is made anew from its runs at each look (`news_of`), and what was
told of it is a tag of its parent (tags.NOTICED): whoever watches next tells the rest. The tag is
written after the message is sent, so a watcher that dies between the two repeats a digest; it never
loses one. What no longer holds is forgotten, so a trial that is lost again is told of again.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from kaggleops.backends.interface import Finding
from kaggleops.campaign.sweep import Sweep, Trial
from kaggleops.errors import UsageError
from kaggleops.platforms.folders import private_file
from kaggleops.printable import printable
from kaggleops.redaction import keep, redacted
from kaggleops.tags import FAILURE, JOB_ENDED

VARIABLE = "KAGGLEOPS_NOTIFY"
PAUSE = timedelta(minutes=10)
"""Between two messages, unless one is urgent."""

Kind = Literal[
    "ended", "failed", "lost", "pruned", "cancelled", "waiting", "budget", "paused", "over"
]
URGENT = {"budget", "paused", "over"}
_BY_STATUS: Mapping[str, Kind] = {
    "FINISHED": "ended",
    "FAILED": "failed",
    "LOST": "lost",
    "PRUNED": "pruned",
    "KILLED": "cancelled",
}
_LONGEST = 300  # characters of what one event says: it may come from a tag
_MOST = 10_000  # trials of a sweep that are told of
_HINT = (
    "Each is an address of apprise's, such as slack://… or json://HOST/PATH, separated by spaces "
    "or line breaks: https://appriseit.com/services/ lists all."
)

_log = logging.getLogger("kaggleops")


@dataclass(frozen=True)
class Event:
    """Something that holds of a sweep now."""

    kind: Kind
    run_id: str  # the trial's, or the parent's
    text: str = ""  # what to say of it, in one line
    number: int | None = None  # the trial's; None for what concerns the whole sweep


@dataclass(frozen=True)
class News:
    """All that there is to tell of one sweep now, and what was told of it before."""

    sweep_id: str
    name: str
    events: Sequence[Event]
    told: str = ""  # the parent's tag NOTICED
    best: str = ""  # `best jaccard 0.712 (trial 7)`


def news_of(
    sweep_id: str,
    name: str,
    sweep: Sweep,
    trials: Sequence[Trial],
    also: Sequence[Event],
    told: str,
) -> News:
    """Return what there is to tell of a sweep: of its trials, and what else its watcher knows.

    Only of one that could be read: what is missing here counts as no longer so.
    """
    of_trials = [
        Event(kind, each.run_id, _reason(each) if kind in ("failed", "lost") else "", each.number)
        for each in trials
        if (kind := _BY_STATUS.get(each.status)) and 0 <= each.number < _MOST
    ]
    # What is spent does not come back, whether or not a job waits for it at this moment.
    spent = [Event("budget", sweep_id)] if "budget" in _Told.of(told).rest else []
    return News(sweep_id, name, [*of_trials, *also, *spent], told, _best(sweep, trials))


def _reason(trial: Trial) -> str:
    told = (job.tags.get(FAILURE) or job.tags.get(JOB_ENDED) for job in trial.jobs)
    ended = next(filter(None, told), "")
    return f"trial {trial.number}: {ended}" if ended else f"trial {trial.number}"


def _best(sweep: Sweep, trials: Sequence[Trial]) -> str:
    if len(sweep.metrics) != 1:
        return ""  # several have no best
    (metric,) = sweep.metrics
    valued = [(each.values[0], each.number) for each in trials if each.values]
    if not valued:
        return ""
    sign = 1 if sweep.more_is_better(metric) else -1
    value, number = max(valued, key=lambda each: sign * each[0])
    return f"best {metric} {value:.4g} (trial {number})"


@dataclass
class _Service:
    """One address, and the messages that it has not taken yet while others had them."""

    notifier: Any  # apprise's
    name: str
    owed: list[str] = field(default_factory=list)
    warned: bool = False


class Notices:
    """Sends what is new, if any address is known.

    Args:
        addresses: apprise's, each with its secret.
        pause: the shortest time between two messages, unless one is urgent.

    Raises:
        UsageError: apprise is not installed, or knows no such address.
    """

    def __init__(self, addresses: Sequence[str], pause: timedelta = PAUSE) -> None:
        self._pause = pause
        self._services = [_service(number, each) for number, each in enumerate(addresses, 1)]
        self._told: dict[str, _Told] = {}
        self._failed_at: datetime | None = None

    @classmethod
    def from_environment(cls) -> "Notices":
        """Return those for the addresses that this user has named; without any, it tells nobody."""
        return cls(_addresses())

    def __bool__(self) -> bool:
        return bool(self._services)

    def tell(self, all_news: Sequence[News], now: datetime) -> dict[str, str]:
        """Send one message with what is new of all sweeps, if there is any and it is time.

        A service that cannot be reached is warned of once, and asked again later. Nothing is
        raised.

        Returns:
            The new value of the tag NOTICED by the sweep's id, where it changed.
        """
        if not self._services:
            return {}
        told = {each.sweep_id: self._told_of(each) for each in all_news}
        new = [
            (news, fresh)
            for news in all_news
            if (fresh := [event for event in news.events if not told[news.sweep_id].has(event)])
        ]
        text = "\n".join(_digest(*each) for each in new)
        if new and self._is_time(new, told.values(), now) and self._send(text, now):
            for news, _ in new:
                told[news.sweep_id] = _Told.all_of(news.events, now.timestamp())
        for news in all_news:
            before = told[news.sweep_id]
            still = [event for event in news.events if before.has(event)]
            told[news.sweep_id] = _Told.all_of(still, before.at)
        self._told |= told
        return {
            each.sweep_id: told[each.sweep_id].to_tag()
            for each in all_news
            if told[each.sweep_id] != _Told.of(each.told)
        }

    def _told_of(self, news: News) -> "_Told":
        # Its tag may not have been written; or another watcher has told more since.
        return max(_Told.of(news.told), self._told.get(news.sweep_id, _Told()), key=lambda e: e.at)

    def _is_time(
        self,
        new: Sequence[tuple[News, Sequence[Event]]],
        told: Iterable["_Told"],
        now: datetime,
    ) -> bool:
        if self._failed_at is not None:
            return now - self._failed_at >= self._pause
        if any(event.kind in URGENT for _, events in new for event in events):
            return True
        passed = [now.timestamp() - each.at for each in told]
        # Whose clock is ahead, or whoever has written the tag, silences nobody.
        return all(each < 0 or each >= self._pause.total_seconds() for each in passed)

    def _send(self, text: str, now: datetime) -> bool:
        """Send a message to all, and tell whether any of them took it."""
        taken = False
        failed = False
        for service in self._services:
            # What it was owed goes along: apprise lets time pass between two messages.
            if _notify(service, "\n".join([*service.owed, text])):
                taken, service.owed, service.warned = True, [], False
                continue
            failed = True
            if not service.warned:
                _log.warning(
                    "%s could not be reached with notices of sweeps: tried again later",
                    service.name,
                )
            service.warned = True
        if taken:
            for service in self._services:
                if service.warned:
                    service.owed = [*service.owed, text][-20:]
        self._failed_at = now if failed and not taken else None
        return taken


def _service(number: int, address: str) -> _Service:
    doing = "reading the addresses of notices"
    try:
        import apprise
    except ImportError:
        hint = "Install it: pip install 'kaggleops[notify]'."
        raise UsageError(doing, "apprise is not installed", hint) from None
    keep(address)
    # It logs what it was answered, which may repeat parts of the address.
    logging.getLogger("apprise").disabled = True
    notifier = apprise.Apprise()
    if not notifier.add(address):
        raise UsageError(doing, f"address {number} is not one that apprise knows", _HINT)
    return _Service(notifier, f"{next(iter(notifier)).service_name}")


def _notify(service: _Service, text: str) -> bool:
    try:
        return bool(service.notifier.notify(body=text, title="KaggleOps"))
    except Exception:  # noqa: BLE001 - a hundred services' clients: none of them ends a watcher
        return False


def _addresses() -> list[str]:
    """Return the addresses that this user has named, in the variable or in the file."""
    named = os.environ.get(VARIABLE)
    if named is None:
        file = _file()
        if not file.is_file():
            return []
        try:
            named = private_file(file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"reading {file}", type(error).__name__) from None
    lines = [line for line in named.splitlines() if not line.lstrip().startswith("#")]
    # An address may hold a comma: what follows one begins another if it begins like one.
    return re.split(r"[\s,]+(?=[\w+-]+://)", " ".join(lines).strip()) if any(lines) else []


def _file() -> Path:
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(folder) / "kaggleops/notify"


def examine() -> Iterator[Finding]:
    """Yield what `doctor` says: to which services notices go; it sends none."""
    notices = Notices.from_environment()
    if notices:
        names = ", ".join(each.name for each in notices._services)
        yield Finding("notices", "ok", f"of sweeps go to {names}")
    else:
        hint = f"Set {VARIABLE}, or write {_file()}. {_HINT}"
        yield Finding("notices", "skipped", "no notices of sweeps are sent", hint)


def _digest(news: News, events: Sequence[Event]) -> str:
    """Return `sweep NAME: 3 trials ended, best f1 0.7 (trial 7), 1 failed; waits for …`."""
    parts: list[str] = []
    for kind in _BY_STATUS.values():
        these = [each for each in events if each.kind == kind]
        if not these:
            continue
        trials = "" if parts else ("trial " if len(these) == 1 else "trials ")
        said = next((f" ({_clipped(each.text)})" for each in these if each.text), "")
        parts.append(f"{len(these)} {trials}{kind}{said}")
        if kind == "ended" and news.best:
            parts.append(news.best)
    rest = [_clipped(each.text or each.kind) for each in events if each.number is None]
    said = "; ".join(filter(None, (", ".join(parts), *rest)))
    return f"sweep {_clipped(news.name)}: {said}"


def _clipped(text: str) -> str:
    return redacted(printable(text)).replace("\n", " ")[:_LONGEST]


@dataclass(frozen=True)
class _Told:
    """What was told of a sweep: a few hundred characters, however many trials it has."""

    at: float = 0.0  # when the last message went, in seconds since the epoch
    trials: Mapping[str, int] = field(default_factory=dict)  # by kind, a bit for each number
    rest: Sequence[str] = ()  # the kinds of what concerns the whole sweep

    @classmethod
    def of(cls, tag: str) -> "_Told":
        """Return what a tag tells; of one that somebody broke, nothing."""
        try:
            found = json.loads(tag or "{}")
            trials = {str(kind): int(bits, 16) for kind, bits in found["trials"].items()}
            at = float(found["at"])
            rest = tuple(str(kind) for kind in found["rest"])
            return cls(at if isfinite(at) else 0.0, trials, rest)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError):
            return cls()

    @classmethod
    def all_of(cls, events: Sequence[Event], at: float) -> "_Told":
        """Return that these are told, and nothing else."""
        trials: dict[str, int] = {}
        for event in events:
            if event.number is not None:
                trials[event.kind] = trials.get(event.kind, 0) | 1 << event.number
        rest = {event.kind for event in events if event.number is None}
        return cls(at, trials, tuple(sorted(rest)))

    def has(self, event: Event) -> bool:
        if event.number is None:
            return event.kind in self.rest
        return bool(self.trials.get(event.kind, 0) >> event.number & 1)

    def to_tag(self) -> str:
        trials = {kind: f"{bits:x}" for kind, bits in self.trials.items()}
        return json.dumps({"at": self.at, "trials": trials, "rest": self.rest})
