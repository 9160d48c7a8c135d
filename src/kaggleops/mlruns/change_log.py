"""The change log: how a reader learns what has changed without listing the bucket.

One small object, `mlruns/changes.json`, holds the newest announcements. A writer announces an
entity **before** it writes it: "this key may change, look at it for so many seconds". A reader
(poll.py) asks for that object, one cheap request that brings nothing while nothing was
announced, and beside it only for the entities that are still open.

1. Before every write, the log has been seen to hold an announcement of that entity by this writer,
   and not one of the oldest. So whoever reads the log and then the bucket either knows that the
   entity is open, or learns of it with the next look at the log.
2. The log holds the newest `CAPACITY` announcements. It says what it has dropped: a reader that
   has not seen that yet knows that it has to list the bucket.
3. No two machines' clocks are compared. A reader counts an announcement's seconds from when it
   first saw it; its writer renews it when half of them have gone by since it was made.
4. A writer that is killed leaves its announcements open; readers let go of them in time. One that
   is done says so (`close`): that means one last look.
5. Losing the log loses nothing. A missing or damaged one is begun anew, under another id, by the
   next writer, and every reader lists once. (Where somebody deletes it, what is being written at
   that very moment shows with its writer's next write, or with the next listing.)
"""

import json
import math
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise

from kaggleops.bucket import (
    ABSENT,
    Bucket,
    ConflictError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    Version,
)
from kaggleops.errors import KaggleOpsError
from kaggleops.layout import LOG_KEY, EntityId, Kind

FORMAT = 1
CAPACITY = 500

_LONG = 12 * 3600.0
_SHORT = 600.0
_LONGEST = 7 * 24 * 3600.0
_LAST = 2**53  # of the announcements: what every JSON and every database can count to
MOST = 10 * CAPACITY  # announcements: each costs its readers a request
MAX_BYTES = 8 << 20
MAX_KEY = 1024  # characters
_MAX_ID = 255
ATTEMPTS = 30
_LONGEST_PAUSE = 2.0  # seconds


def seconds_open(kind: Kind) -> float:
    """Return for how many seconds an announced entity may change."""
    # A run changes for hours, and each renewal costs a write. Anything else is written and left
    # alone, so nobody has to look at it for long, and nobody has to close it.
    return _LONG if kind is Kind.RUN else _SHORT


@dataclass(frozen=True)
class Announcement:
    """An object that may change."""

    key: str  # which
    writer: str  # who may change it: the random id of a process's session
    open_for: float  # for how many seconds after a reader has first seen this; 0 for a last look
    sequence: int  # its number in the log; every later one has a higher


@dataclass(frozen=True)
class Log:
    """The log's whole content."""

    # of this log; one that was begun anew has another
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    sequence: int = 0  # the number of its newest announcement
    dropped: int = 0  # the highest number of those that were dropped for want of room
    # the newest announcements, oldest first; one a key and writer
    entries: tuple[Announcement, ...] = ()

    def announcing(self, promises: Mapping[str, float], writer: str, capacity: int) -> "Log":
        """Return the log with announcements of these keys, each for so many seconds."""
        if self.sequence + len(promises) > _LAST:
            return Log().announcing(promises, writer, capacity)
        kept = [each for each in self.entries if each.writer != writer or each.key not in promises]
        added = [
            Announcement(key, writer, open_for, self.sequence + number)
            for number, (key, open_for) in enumerate(promises.items(), 1)
        ]
        entries = (*kept, *added)
        surplus = entries[: max(0, len(entries) - capacity)]
        return replace(
            self,
            sequence=self.sequence + len(added),
            dropped=max([self.dropped, *(each.sequence for each in surplus)]),
            entries=entries[len(surplus) :],
        )

    def to_bytes(self) -> bytes:
        """Return the log as it stands in its object."""
        content = {"format": FORMAT, **asdict(self)}
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Log":
        """Read a log back; raise `BrokenLogError` where it is damaged or of another format."""
        try:
            content = json.loads(data)
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']!r}")
            if len(content["entries"]) > MOST:
                raise ValueError(f"it has more than {MOST} entries")
            entries = tuple(
                Announcement(
                    a_text(each["key"], MAX_KEY),
                    a_text(each["writer"]),
                    some_seconds(each["open_for"]),
                    a_number(each["sequence"]),
                )
                for each in content["entries"]
            )
            newest, dropped = a_number(content["sequence"]), a_number(content["dropped"])
            log = cls(a_text(content["id"]), newest, dropped, entries)
            numbers = [log.dropped, *(each.sequence for each in entries)]
            if any(former >= latter for former, latter in pairwise((*numbers, log.sequence + 1))):
                raise ValueError("its numbers are out of order")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            problem = f"it is not a change log ({type(error).__name__}: {str(error)[:100]})"
            hint = "It is skipped; the next writer begins a new one."
            raise BrokenLogError(f"reading {LOG_KEY}", problem, hint) from error
        return log


class BrokenLogError(KaggleOpsError):
    """A change log that is damaged: readers list the bucket, and writers begin another."""


def a_text(value: object, longest: int = _MAX_ID) -> str:
    """Return a text of so many characters at most; raise ValueError for anything else."""
    # No halves of characters and no NUL, which neither JSON nor a database would take back.
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise ValueError(f"{str(value)[:40]!r} stands for a name")
    return value


def a_number(value: object) -> int:
    """Return a number that every JSON and every database can hold, or raise ValueError."""
    if type(value) is not int or not 0 <= value <= _LAST:
        raise ValueError(f"{str(value)[:40]} stands for a number")
    return value


def some_seconds(value: object) -> float:
    """Return for how many seconds an object may change, or raise ValueError."""
    if not isinstance(value, int | float) or value is True or not 0 <= value < math.inf:
        raise ValueError(f"{str(value)[:40]} stands for seconds")
    return float(min(value, _LONGEST))


Moment = tuple[float, ...]
"""The seconds of several clocks of one machine."""


class ChangeLog:
    """Announces what one process is about to change. Thread-safe.

    Args:
        bucket: whose log.
        writer: an id that no other process has; a random one by default.
        seconds_open: for how many seconds an entity of a kind is announced.
        capacity: how many announcements the log holds.
        clock: this machine's clocks; time has passed if any of them says so.
    """

    def __init__(
        self,
        bucket: Bucket,
        writer: str | None = None,
        *,
        seconds_open: Callable[[Kind], float] = seconds_open,
        capacity: int = CAPACITY,
        # The one stands still while the machine sleeps, the other can be set.
        clock: Callable[[], Moment] = lambda: (time.monotonic(), time.time()),
    ) -> None:
        self._bucket = bucket
        self._writer = writer or secrets.token_hex(6)
        self._seconds_open = seconds_open
        self._capacity = capacity
        self._clock = clock
        self._lock = threading.Lock()
        self._log: Log | None = None
        self._version: Version | None = None
        self._made: dict[str, Moment] = {}

    def announce(self, entity_ids: Iterable[EntityId]) -> None:
        """Make sure that readers look at these entities; call it before each write of them.

        Costs one cheap request where the log holds them already, and one write where it does not
        and nobody else has written it meanwhile. After a BucketError the entities should not be
        written either.
        """
        promises = {each.key: self._seconds_open(each.kind) for each in entity_ids}
        if not promises:
            return
        with self._lock:
            if self._version is None or not self._lacking(promises):
                self._look()
            self._write(lambda: self._lacking(promises))

    def close(self, entity_ids: Iterable[EntityId]) -> None:
        """Say that this writer is done with these entities; call it after their last write.

        After a BucketError readers look longer than they need to.
        """
        keys = {each.key for each in entity_ids}
        with self._lock:
            if keys and self._version is None:
                self._look()

            def open_ones() -> dict[str, float]:
                mine = (each for each in self._entries if each.writer == self._writer)
                return dict.fromkeys(sorted(keys - {e.key for e in mine if not e.open_for}), 0.0)

            self._write(open_ones)

    def _look(self) -> None:
        try:
            found = self._bucket.read(LOG_KEY, unless=self._version, at_most=MAX_BYTES)
        except ObjectNotFoundError:
            self._log, self._version = None, ABSENT
            return
        except ObjectTooLargeError as error:
            self._log, self._version = None, error.version
            return
        if found is not None:
            self._log, self._version = None, found.version
            with suppress(BrokenLogError):
                self._log = Log.from_bytes(found.data)

    def _lacking(self, promises: Mapping[str, float]) -> dict[str, float]:
        """Return those that the log lacks, or is about to drop or readers to let go of."""
        # What others announce between a look at the log and the write must not drop it.
        newest = self._entries[-(3 * self._capacity // 4) :]
        safe = {(each.key, each.open_for) for each in newest if each.writer == self._writer}
        return {
            key: open_for
            for key, open_for in promises.items()
            if (key, open_for) not in safe or self._age(key) > open_for / 2
        }

    @property
    def _entries(self) -> tuple[Announcement, ...]:
        return self._log.entries if self._log else ()

    def _age(self, key: str) -> float:
        if key not in self._made:
            return math.inf
        return max(now - then for now, then in zip(self._clock(), self._made[key], strict=True))

    def _write(self, needed: Callable[[], Mapping[str, float]]) -> None:
        """Announce what is needed, which is asked anew whenever others have written the log."""
        for attempt in range(ATTEMPTS):
            made = self._clock()  # before any reader can see it
            promises = needed()
            if not promises:
                return
            log = (self._log or Log()).announcing(promises, self._writer, self._capacity)
            expected = self._version or ABSENT
            try:
                self._version = self._bucket.write(LOG_KEY, log.to_bytes(), expected=expected)
            except ConflictError:
                if attempt == ATTEMPTS - 1:
                    raise
                pause(attempt)
                self._look()
            else:
                self._log = log
                self._made.update(dict.fromkeys(promises, made))
                return


def pause(attempt: int) -> None:
    """Wait a while after a conflict: writers that collide once would collide again."""
    time.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.02 * 2**attempt)))  # noqa: S311
