"""Trying again: what every kind of bucket on a network does until its patience ends."""

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


class InterruptedTransferError(Exception):
    """An upload or a download broke off in a way that only trying it again can mend."""


class OutOfPatienceError(Exception):
    """The last (`cause`) of the passing faults that were tried again for so many seconds."""

    def __init__(self, cause: Exception, seconds: float) -> None:
        super().__init__(cause, seconds)
        self.cause = cause
        seconds = round(seconds, 1)
        self.lasted = f", and so for {seconds:g} s" if seconds else ""
        """What to say after the fault."""


class Patience:
    """Repeats a call until it succeeds, fails for good, or `seconds` have gone by.

    `is_passing` tells whether the same request may succeed a little later. It waits as long as the
    service asks for in `Retry-After`, and can be given to Google's client for a `Retry`.
    """

    def __init__(self, seconds: float, is_passing: Callable[[Exception], bool]) -> None:
        self.seconds = seconds
        self._is_passing = is_passing

    def __call__(self, call: Callable[[], _T], **_: Any) -> Callable[[], _T]:
        """Return `call`, made patient."""

        def patient() -> _T:
            began = time.monotonic()
            # From a second as Google and Amazon advise, unless there is little time for it.
            longest = min(1.0, self.seconds / 100)
            while True:
                try:
                    return call()
                except Exception as error:
                    if not self._is_passing(error):
                        raise
                    # Not all come back at once.
                    pause = min(random.uniform(0, 2 * longest), 30.0)  # noqa: S311
                    pause = max(pause, _asked_for(error))
                    passed = time.monotonic() - began
                    if passed + pause > self.seconds:
                        raise OutOfPatienceError(error, passed) from error
                time.sleep(pause)
                longest *= 2

        return patient


def _asked_for(error: Exception) -> float:
    """Return for how many seconds a service asks to be left alone, as requests or botocore say."""
    answer: Any = getattr(error, "response", None)
    if isinstance(answer, dict):
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    else:
        headers = getattr(answer, "headers", None) or {}
    asked_for = str(headers.get("retry-after", ""))
    return float(asked_for) if asked_for.isdecimal() else 0.0
