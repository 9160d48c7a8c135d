"""Notices of what becomes of sweeps, to any service that apprise knows: a digest, not forty.

An address holds its service's secret, so it stands in the environment (`KAGGLEOPS_NOTIFY`) or in a
file of this user's alone, never in a configuration, and nothing here prints one or any part of it.

What was told of a sweep is a tag of its parent (tags.NOTICED): whoever watches next tells the rest.
The tag is written after the message is sent, so a watcher that dies between the two repeats a
digest; it never loses one. What no longer holds is forgotten, so a trial that is lost again is told
of again.
"""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import FiniteFloat, TypeAdapter

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

URGENT = {"budget", "paused", "over"}
_WORDS = {
    "FINISHED": "ended",
    "FAILED": "failed",
    "LOST": "lost",
    "PRUNED": "pruned",
    "KILLED": "cancelled",
}
_LONGEST = 300  # characters of what is said of one thing: it may come from a tag
_HINT = (
    "Each is an address of apprise's, such as slack://… or json://HOST/PATH, separated by spaces "
    "or line breaks: https://appriseit.com/services/ lists all."
)

_log = logging.getLogger("kaggleops")


@dataclass(frozen=True)
class _Told:
    """What was told of a sweep, as its tag has it."""

    at: FiniteFloat = 0.0  # when the last message went, in seconds since the epoch
    counts: Counter[str] = field(default_factory=Counter)  # of trials, by their status
    rest: list[str] = field(default_factory=list)  # the kinds of what concerns the whole sweep

    @classmethod
    def of(cls, tag: str) -> "_Told":
        """Return what a tag tells; of one that somebody broke, nothing."""
        try:
            return TypeAdapter(cls).validate_json(tag or "{}")
        except ValueError:
            return cls()


@dataclass(frozen=True)
class News:
    """What a sweep is at now, and what was told of it before: only of one that could be read."""

    sweep_id: str
    name: str
    sweep: Sweep
    trials: Sequence[Trial]
    # what there is to say of the whole sweep, in a line, by kind: waiting, budget, paused or over
    rest: Mapping[str, str] = field(default_factory=dict)
    told: str = ""  # the parent's tag NOTICED

    @property
    def counts(self) -> Counter[str]:
        """How many trials have each status of which there is something to tell."""
        return Counter(each.status for each in self.trials if each.status in _WORDS)

    def still(self, told: _Told) -> _Told:
        """Return what of that which was told holds now."""
        # What is spent does not come back, whether or not a job waits for it at this moment.
        rest = sorted({*self.rest, "budget"}.intersection(told.rest))
        return _Told(told.at, self.counts & told.counts, rest)

    def since(self, told: _Told) -> str:
        """Return `sweep x: 3 trials ended, best f1 0.7 (trial 7), 1 failed (…); waits for …`."""
        parts: list[str] = []
        for status, word in _WORDS.items():
            if count := self.counts[status] - told.counts[status]:
                trials = "" if parts else ("trial " if count == 1 else "trials ")
                parts.append(f"{count} {trials}{word}{self._reason(status)}")
                if status == "FINISHED" and (best := self._best()):
                    parts.append(best)
        rest = [_clipped(text) for kind, text in self.rest.items() if kind not in told.rest]
        said = "; ".join(filter(None, (", ".join(parts), *rest)))
        return f"sweep {_clipped(self.name)}: {said}" if said else ""

    def _reason(self, status: str) -> str:
        if status not in ("FAILED", "LOST"):
            return ""
        last = [each for each in self.trials if each.status == status][-1]
        told = (job.tags.get(FAILURE) or job.tags.get(JOB_ENDED) for job in last.jobs)
        why = next((f": {each}" for each in told if each), "")
        return f" ({_clipped(f'trial {last.number}{why}')})"

    def _best(self) -> str:
        if len(self.sweep.metrics) != 1:
            return ""  # several have no best
        (metric,) = self.sweep.metrics
        valued = [(each.values[0], each.number) for each in self.trials if each.values]
        sign = 1 if self.sweep.more_is_better(metric) else -1
        value, number = max(valued, key=lambda each: sign * each[0], default=(None, 0))
        return "" if value is None else f"best {metric} {value:.4g} (trial {number})"


class _Service:
    """One address, and the messages that it has not taken yet while others had them."""

    def __init__(self, number: int, address: str) -> None:
        doing = "reading the addresses of notices"
        try:
            import apprise
        except ImportError:
            hint = "Install it: pip install 'kaggleops[notify]'."
            raise UsageError(doing, "apprise is not installed", hint) from None
        keep(address)
        # It logs what it was answered, which may repeat parts of the address.
        logging.getLogger("apprise").disabled = True
        self._notifier = apprise.Apprise()
        if not self._notifier.add(address):
            raise UsageError(doing, f"address {number} is not one that apprise knows", _HINT)
        self.name = str(next(iter(self._notifier)).service_name)
        self.owed: list[str] = []
        self.warned = False

    def takes(self, text: str) -> bool:
        """Send a message; tell whether the service took it."""
        try:
            return bool(self._notifier.notify(body=text, title="KaggleOps"))
        except Exception:  # noqa: BLE001 - a hundred services' clients: none of them ends a watcher
            return False


class Notices:
    """Sends what is new to `addresses` of apprise's, each with its secret.

    Raises UsageError if apprise is not installed, or knows no such address.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._services = [_Service(number, each) for number, each in enumerate(addresses, 1)]
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

        Returns the new value of the tag NOTICED by the sweep's id, where it changed. A service
        that cannot be reached is warned of once, and asked again later; nothing is raised.
        """
        if not self._services:
            return {}
        told = {each.sweep_id: each.still(self._told_of(each)) for each in all_news}
        lines = {each.sweep_id: each.since(told[each.sweep_id]) for each in all_news}
        text = "\n".join(filter(None, lines.values()))
        new = {kind for each in all_news for kind in {*each.rest} - {*told[each.sweep_id].rest}}
        urgent = bool(URGENT & new)
        if text and self._is_time(urgent, told.values(), now) and self._send(text, now):
            for each in all_news:
                if lines[each.sweep_id]:
                    rest = sorted({*each.rest, *told[each.sweep_id].rest})
                    told[each.sweep_id] = _Told(now.timestamp(), each.counts, rest)
        self._told |= told
        return {
            each.sweep_id: json.dumps(vars(told[each.sweep_id]))
            for each in all_news
            if told[each.sweep_id] != _Told.of(each.told)
        }

    def _told_of(self, news: News) -> _Told:
        # Its tag may not have been written; or another watcher has told more since.
        return max(_Told.of(news.told), self._told.get(news.sweep_id, _Told()), key=lambda e: e.at)

    def _is_time(self, urgent: bool, told: Iterable[_Told], now: datetime) -> bool:
        if self._failed_at is not None:
            return now - self._failed_at >= PAUSE
        passed = [now.timestamp() - each.at for each in told]
        # Whose clock is ahead, or whoever has written the tag, silences nobody.
        return urgent or all(each < 0 or each >= PAUSE.total_seconds() for each in passed)

    def _send(self, text: str, now: datetime) -> bool:
        """Send a message to all, and tell whether any of them took it."""
        taken = False
        failed = False
        for service in self._services:
            # What it was owed goes along: apprise lets time pass between two messages.
            if service.takes("\n".join([*service.owed, text])):
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


def _clipped(text: str) -> str:
    return redacted(printable(text)).replace("\n", " ")[:_LONGEST]
