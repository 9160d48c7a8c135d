"""What can go wrong with Cloud Storage: what passes by itself, and what to tell the user.

Google's client raises errors of five libraries (its own, api_core, auth, requests, urllib3). Only
this file knows them.
"""

import functools
import http.client
import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import requests
import urllib3
from google.api_core import exceptions as answers
from google.api_core.retry import exponential_sleep_generator, retry_target
from google.auth import exceptions as auth

from kaggleops.bucket.base import AccessDeniedError, BucketError, BucketUnavailableError
from kaggleops.bucket.gcs_answers import ForeignAnswerError
from kaggleops.errors import KaggleOpsError

_T = TypeVar("_T")

_BROKEN_CONNECTION = (
    ConnectionError,
    http.client.HTTPException,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
    urllib3.exceptions.HTTPError,
    auth.TransportError,
)

_NOT_JSON = (json.JSONDecodeError, requests.exceptions.JSONDecodeError)

_LOGIN = (
    "Run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to the "
    "file of a service account's key."
)


class InterruptedTransferError(Exception):
    """An upload or a download broke off in a way that only trying it again can mend."""


class Patience:
    """Repeats a call until it succeeds, fails for good, or `seconds` have gone by.

    It can be given to Google's client wherever that takes a `Retry`. Unlike one, it waits as long
    as the service asks for in `Retry-After`.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, call: Callable[[], _T], **_: Any) -> Callable[[], _T]:
        """Return `call`, made patient."""
        return functools.partial(self._call, call)

    def _call(self, call: Callable[[], _T]) -> _T:
        pauses = _Pauses(self.seconds)
        try:
            return retry_target(
                call, is_passing, pauses, timeout=self.seconds, on_error=pauses.heed
            )
        except answers.RetryError as error:
            raise _OutOfPatienceError(error.cause, self.seconds) from error


class _OutOfPatienceError(Exception):
    """The last of the passing faults that outlasted the patience."""

    def __init__(self, cause: Exception, seconds: float) -> None:
        super().__init__(cause, seconds)
        self.cause = cause
        self.seconds = seconds


class _Pauses:
    """Exponential pauses with jitter, and no shorter than the service asks for."""

    def __init__(self, patience: float) -> None:
        # From a second as Google advises, unless there is little time for it.
        self._usual: Iterator[float] = exponential_sleep_generator(min(1.0, patience / 100), 30.0)
        self._asked_for = 0.0

    def heed(self, error: Exception) -> None:
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        asked_for = headers.get("Retry-After", "")
        self._asked_for = float(asked_for) if asked_for.isdecimal() else 0.0

    def __iter__(self) -> Iterator[float]:
        return self

    def __next__(self) -> float:
        return max(next(self._usual), self._asked_for)


def is_passing(error: Exception) -> bool:
    """Tell whether the same request may succeed a little later."""
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

    if isinstance(error, answers.GoogleAPICallError):
        status = int(error.code or 0)
        damaged = status == 400 and "match calculated" in message_of(error)
        return damaged or status in {408, 429} or status >= 500
    if isinstance(error, InvalidResponse):
        status = error.response.status_code
        return status in {408, 429} or status >= 500
    if isinstance(error, auth.GoogleAuthError):
        return isinstance(error, auth.TransportError) or error.retryable
    # Not JSON: something between us and Cloud Storage has answered in its place.
    passing = (DataCorruption, InterruptedTransferError, *_NOT_JSON, *_BROKEN_CONNECTION)
    return isinstance(error, passing)


def message_of(error: Exception) -> str:
    """Return the service's own words, without the client's (which quote URLs and status codes)."""
    response = getattr(error, "response", None)
    if response is None:
        return str(getattr(error, "message", error))
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        text = response.text.strip()
        return text if text and len(text) < 300 and "<" not in text else str(response.reason)


def explain(error: Exception, doing: str, bucket: str) -> Exception:
    """Return the error to raise for what the client raised: `error` itself if it is our mistake.

    Args:
        error: what the client raised.
        doing: what was being done, as for `KaggleOpsError`.
        bucket: the bucket's name.
    """
    match error:
        case KaggleOpsError():
            return error
        case _OutOfPatienceError():
            problem = f"{_describe(error.cause)}, and so for {error.seconds:g} s"
            hint = "Try again later; if it stays, check this machine's network."
            return BucketUnavailableError(doing, problem, hint)
        case auth.DefaultCredentialsError() if not isinstance(error, auth.InvalidOperation):
            return AccessDeniedError(doing, "no Google credentials were found", _LOGIN)
        case auth.GoogleAuthError():
            problem = f"the Google credentials were refused ({error.args[0] if error.args else ''})"
            return AccessDeniedError(doing, problem, f"They may have expired. {_LOGIN}")
        case answers.Unauthorized():
            problem = f"the Google credentials were refused ({message_of(error)})"
            return AccessDeniedError(doing, problem, f"They may have expired. {_LOGIN}")
        case answers.Forbidden():
            role = "Storage Object User (roles/storage.objectUser)"
            hint = f"Ask the owner of gs://{bucket} for the role {role} on it."
            return AccessDeniedError(doing, message_of(error), hint)
        case answers.GoogleAPICallError():
            return BucketError(doing, _describe(error))
        case _ if is_passing(error):
            return BucketUnavailableError(doing, _describe(error), "Try again later.")
        case _:
            return error


def _describe(error: Exception) -> str:
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

    match error:
        case answers.GoogleAPICallError():
            return f"Cloud Storage answers {int(error.code or 0)}: {message_of(error)}"
        case InvalidResponse():
            return f"Cloud Storage answers {error.response.status_code}: {message_of(error)}"
        case DataCorruption():
            return "the content arrives damaged"
        case requests.Timeout():
            return "Cloud Storage does not answer in time"
        case ForeignAnswerError():
            return f"what answers is not Cloud Storage ({error}: a proxy's page?)"
        case json.JSONDecodeError() | requests.exceptions.JSONDecodeError():
            return "what answers is not Cloud Storage"
        case InterruptedTransferError():
            return f"the transfer breaks off: {error}"
        case _:
            return f"the connection to Cloud Storage fails ({type(error).__name__})"
