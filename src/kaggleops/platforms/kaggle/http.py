"""Requests that give up in time, may be repeated or not, and fail with one line.

Whatever may be asked twice is: after a broken connection, a 429 or a 5xx. A push is not, as each
one that arrives starts a session.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from kaggleops.errors import KaggleOpsError, UsageError

CONNECT, READ = 10.0, 60.0
"""Seconds until a connection, and between two bytes of an answer, after which it is given up."""

_TRIES = 5
_LONGEST_WAIT = 60.0  # seconds, whatever a Retry-After asks for


class NotThereError(KaggleOpsError):
    """Kaggle has no such thing, or does not show it to this user: it answers the same."""


class NoAnswerError(KaggleOpsError):
    """Nobody knows whether a request arrived."""


class NotTakenError(KaggleOpsError):
    """Kaggle looked at it and does not take it."""


class _Retry(Retry):
    def get_retry_after(self, response: Any) -> float | None:
        after: float | None = super().get_retry_after(response)
        return None if after is None else min(after, _LONGEST_WAIT)


_BUSY = [429]  # such a request was not looked at
ASK_AGAIN = _Retry(
    total=_TRIES,
    allowed_methods=None,
    status_forcelist=[*_BUSY, 500, 502, 503, 504],
    backoff_factor=0.5,
    raise_on_status=False,
)
ASK_ONCE = _Retry(
    total=_TRIES,
    read=0,
    other=0,
    allowed_methods=None,
    status_forcelist=_BUSY,
    backoff_factor=0.5,
    raise_on_status=False,
)


class _Adapter(HTTPAdapter):
    """Sends with a time-out, which the client never asks for."""

    def __init__(self, retry: Retry, silence: float) -> None:
        super().__init__(max_retries=retry)
        self._timeout = (CONNECT, silence)

    def send(self, request: Any, **how: Any) -> Any:  # type: ignore[override]
        return super().send(request, **{**how, "timeout": self._timeout})


def session(silence: float = READ, *, again: bool = True) -> requests.Session:
    """Return a session of HTTP that gives up in time.

    Args:
        silence: seconds without a byte after which it does.
        again: whether a request may be repeated.
    """
    made = requests.Session()
    mount(made, ASK_AGAIN if again else ASK_ONCE, silence)
    return made


def mount(on: requests.Session, retry: Retry, silence: float) -> None:
    """Let a session of HTTP give up after so many seconds of silence, and repeat requests so."""
    for scheme in ("http://", "https://"):
        on.mount(scheme, _Adapter(retry, silence))


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn what the client raises into our errors."""
    try:
        yield
    except requests.HTTPError as error:
        raise _of_status(doing, error) from error
    except requests.RequestException as error:
        problem = f"no answer from Kaggle ({type(error).__name__})"
        hint = "Check this machine's network; https://www.kagglestatus.com says how Kaggle is."
        raise NoAnswerError(doing, problem, hint) from error
    except ValueError as error:  # the client's word for what it finds wrong by itself
        raise UsageError(doing, str(error)) from error


def _of_status(doing: str, error: requests.HTTPError) -> KaggleOpsError:
    status = error.response.status_code if error.response is not None else 0
    if status == 401:
        hint = "Renew them: `kaggle auth login`."
        return UsageError(doing, "Kaggle does not accept this machine's credentials", hint)
    if status in (403, 404):
        return NotThereError(doing, f"Kaggle has no such thing for this user ({status})")
    if status == 429:
        return KaggleOpsError(doing, "Kaggle asks for fewer requests (429)", "Try again later.")
    if status >= 500:
        return NoAnswerError(doing, f"Kaggle has a fault ({status})", "Try again later.")
    return NotTakenError(doing, f"Kaggle refused it: {error}")
