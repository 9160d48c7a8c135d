"""The log of a job: while its platform streams it, each line once, and what was kept of it.

A stream breaks off after some idle minutes and is opened again, at its start or at an entry: it
says again what is known.
"""

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from kaggleops.bucket import ABSENT, Bucket, ObjectNotFoundError
from kaggleops.layout import LEFT_BY_JOBS
from kaggleops.platforms.http import NoAnswerError, NotThereError, SilenceError

_PAUSE = 1.0  # seconds before a stream that ended is opened again
_FAILURES = 5  # in a row and without a line, after which it is given up
_LONGEST = 20_000_000  # bytes at the end of a log that are kept

Entry = TypeVar("Entry", bound=Hashable)


class Once:
    """What has been shown of one log.

    What counts is how often an entry came within one reading: the n-th time is new if no reading
    before it had n of them.
    """

    def __init__(self) -> None:
        self._shown: Counter[Any] = Counter()

    def new(self, reading: Iterable[Entry]) -> Iterator[Entry]:
        """Yield those entries of a reading that no other had."""
        here: Counter[Any] = Counter()
        for entry in reading:
            here[entry] += 1
            if here[entry] > self._shown[entry]:
                self._shown[entry] += 1
                yield entry


def follow(opened: Callable[[], Iterable[str]], ended: Callable[[], bool]) -> Iterator[str]:
    """Yield a log until its job has `ended`; `opened` opens the stream, and yields its new lines.

    Raises KaggleOpsError if the log cannot be read any more, and the job has not ended.
    """
    failures = 0
    while True:
        over = ended()  # asked before it is read: what it says last is read then
        try:
            for line in opened():
                failures = 0
                yield line
        except NotThereError:
            pass  # it waits for a machine
        except NoAnswerError:
            failures += 1
            if failures == _FAILURES and not over:
                raise
        if over:
            return
        time.sleep(_PAUSE)


def until_silent(opened: Callable[[], Iterable[str]]) -> Iterator[str]:
    """Yield what a log has by now: its stream has no end, but falls silent."""
    while True:
        came = False
        try:
            for line in opened():
                came = True
                yield line
        except (SilenceError, NotThereError):
            return  # it has said all for now, or nothing yet
        except NoAnswerError:
            if not came:
                raise
        else:
            return


def keep(bucket: Bucket, run_id: str, file: Path) -> None:
    """Put the end of a log's file (empty for none) into a bucket, in place of an older one."""
    content = b""
    with suppress(FileNotFoundError), file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - _LONGEST))
        content = opened.read(_LONGEST)
    key = LEFT_BY_JOBS[0].format(run_id)
    before = bucket.stat(key)
    bucket.write(key, content, expected=before.version if before else ABSENT)


def kept(bucket: Bucket, run_id: str) -> list[str] | None:
    """Return the lines of the log that a run's last job left in a bucket, None if it left none."""
    try:
        found = bucket.read(LEFT_BY_JOBS[0].format(run_id))
    except ObjectNotFoundError:
        return None
    assert found is not None  # noqa: S101 - it was read unconditionally
    return found.data.decode(errors="replace").removesuffix("\n").split("\n")
