"""Requests that give up in time, and that may be repeated or not.

Whatever may be asked twice is: after a broken connection, a 429 or a 5xx. What starts something is
not, as each one that arrives may start it.
"""

from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from kaggleops.errors import KaggleOpsError


class NotThereError(KaggleOpsError):
    """The platform has no such thing, or does not show it to this user: it answers the same."""


class NoAnswerError(KaggleOpsError):
    """Nobody knows whether a request arrived."""


class SilenceError(NoAnswerError):
    """Nothing came for as long as somebody waits for it."""


class NotTakenError(KaggleOpsError):
    """The platform looked at it and does not take it."""


CONNECT, READ = 10.0, 60.0
"""Seconds until a connection, and between two bytes of an answer, after which it is given up."""

_TRIES = 5
_LONGEST_WAIT = 60.0  # seconds, whatever a Retry-After asks for


class _Retry(Retry):
    def get_retry_after(self, response: Any) -> float | None:
        after: float | None = super().get_retry_after(response)
        return None if after is None else min(after, _LONGEST_WAIT)


_ANY: dict[str, Any] = {
    "total": _TRIES,
    "allowed_methods": None,
    "backoff_factor": 0.5,
    "raise_on_status": False,
}
ASK_AGAIN = _Retry(**_ANY, status_forcelist=[429, 500, 502, 503, 504])
ASK_ONCE = _Retry(**_ANY, status_forcelist=[429], read=0, other=0)  # a 429 was not looked at


class _Adapter(HTTPAdapter):
    """Sends with a time-out, which the client never asks for."""

    def __init__(self, retry: Retry, silence: float) -> None:
        super().__init__(max_retries=retry)
        self._timeout = (CONNECT, silence)

    def send(self, request: Any, **how: Any) -> Any:  # type: ignore[override]
        return super().send(request, **{**how, "timeout": self._timeout})


def session(silence: float = READ, *, again: bool = True, tries: int = _TRIES) -> requests.Session:
    """Return a session of HTTP that gives up after so many seconds without a byte.

    A request may be repeated (if `again`, after faults, too), so many times at most.
    """
    made = requests.Session()
    mount(made, (ASK_AGAIN if again else ASK_ONCE).new(total=tries), silence)
    return made


def mount(on: requests.Session, retry: Retry, silence: float) -> None:
    """Let a session of HTTP give up after so many seconds of silence, and repeat requests so."""
    for scheme in ("http://", "https://"):
        on.mount(scheme, _Adapter(retry, silence))
