"""The log of a job while its platform streams it, each line once.

A stream breaks off after some idle minutes and is opened again: whoever opens one here yields the
new lines only, which each platform tells in its own way.
"""

import time
from collections.abc import Callable, Iterable, Iterator

from kaggleops.platforms.http import NoAnswerError, NotThereError, SilenceError

_PAUSE = 1.0  # seconds before a stream that ended is opened again
_FAILURES = 5  # in a row and without a line, after which it is given up


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
