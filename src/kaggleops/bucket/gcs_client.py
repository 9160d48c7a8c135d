"""The connections to Cloud Storage, and what can go wrong with them.

Google's client raises errors of five libraries (its own, api_core, auth, requests, urllib3). Only
this file knows them: which pass by themselves, and what to tell the user of the others.

A proxy or a hotel's network may answer in Cloud Storage's place: its login page with status 200, a
redirect to that, an error page. Google's client takes the page for an object's content, and half of
a JSON for a mistake of the program; here such an answer is a fault that passes.
"""

import asyncio
import http.client
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, BinaryIO
from urllib.parse import quote

import google.auth
import requests
import urllib3
from google.api_core import exceptions as answers
from google.auth import exceptions as auth
from requests.adapters import HTTPAdapter

from kaggleops.bucket.base import AccessDeniedError, BucketError, BucketUnavailableError
from kaggleops.bucket.kaggle_hook import add_on_is_on, storage_library
from kaggleops.bucket.patience import InterruptedTransferError, OutOfPatienceError
from kaggleops.errors import KaggleOpsError

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
    """Return the error to raise for what the client raised: `error` itself if it is our mistake."""
    match error:
        case KaggleOpsError():
            return error
        case OutOfPatienceError():
            problem = f"{_describe(error.cause)}{error.lasted}"
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


class ForeignAnswerError(requests.ConnectionError):
    """Something between us and Cloud Storage has answered in its place."""


class GoogleAdapter(HTTPAdapter):
    """Sends requests for tokens, and raises `ForeignAnswerError` for answers not of Google's."""

    def send(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        """Send the request; the content of a download is not read here."""
        answer = super().send(request, *args, **kwargs)
        if self.is_foreign(request, answer):
            kind = answer.headers.get("Content-Type", "no type")
            answer.close()
            said = f"a {answer.status_code} of the type {kind}"
            raise ForeignAnswerError(said, request=request, response=answer)
        return answer

    def is_foreign(self, request: requests.PreparedRequest, answer: requests.Response) -> bool:
        """Tell whether that is no answer of Google's: it redirects nobody and shows no page."""
        return 300 <= answer.status_code < 400 or answer.content.lstrip().startswith(b"<")


class CloudStorageAdapter(GoogleAdapter):
    """The same for the requests of Cloud Storage's JSON API."""

    def is_foreign(self, request: requests.PreparedRequest, answer: requests.Response) -> bool:
        """Tell whether that is no answer of Cloud Storage's."""
        status = answer.status_code
        if status == 308:  # of an upload that goes on
            return "Location" in answer.headers
        if status >= 300:  # an error is in JSON, or one plain line
            return status != 304 and super().is_foreign(request, answer)
        if "alt=media" in str(request.url):
            return "X-Goog-Generation" not in answer.headers
        if "Location" in answer.headers:  # an upload has begun
            return False
        content = answer.content.strip()
        if request.method == "DELETE" and not content:
            return False
        return not (content.startswith(b"{") and b'"storage#' in content and content.endswith(b"}"))


_PIECE = 1 << 20
_AT_ONCE, _REQUEST_TIMEOUT = 32, 60.0  # small objects; seconds


def connect() -> Any:
    """Return a `google.cloud.storage.Client` with the machine's own credentials.

    With `STORAGE_EMULATOR_HOST` set, the client goes there, without any. Raises
    google.auth.exceptions.DefaultCredentialsError if there are none.
    """
    # Else the client asks for the bucket's own metadata in a thread behind our backs, for traces
    # that nobody collects: one request more, and a 403 for whoever may only use the objects.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    # Half a second, which whoever only opens a bucket need not wait for.
    storage = storage_library()
    credentials = None
    if add_on_is_on() and os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        # Else the add-on's would come before those that the sign-in has named.
        credentials, _ = google.auth.default(scopes=storage.Client.SCOPE)
    # Without a project, which only creating buckets needs: a Colab login has none, and the client
    # would refuse it.
    client = storage.Client(project=None, credentials=credentials)
    session = client._http
    # More connections than requests keeps by itself: a thread more would open and close its own.
    # (With client certificates, the session has an adapter of its own that must stay.)
    if not getattr(session, "is_mtls", False):
        session.mount("https://", CloudStorageAdapter(pool_maxsize=32))
        session.mount("http://", CloudStorageAdapter(pool_maxsize=32))
        tokens = session._auth_request.session
        tokens.mount("https://", GoogleAdapter(max_retries=3))
        tokens.mount("http://", GoogleAdapter(max_retries=3))
    return client


def download(
    client: Any,
    bucket: str,
    name: str,
    into: BinaryIO,
    *,
    timeout: tuple[float, float],
    generation: int | None = None,
    unless: int | None = None,
    part: str = "",
    begun: Callable[[Mapping[str, str]], object] = lambda headers: None,
) -> None:
    """Write an object's content, as it is stored, to where a stream stands.

    What came before an error stays in it. The `timeout` is in seconds, to connect and between two
    bytes; `generation` None is the live one, `unless` one that is not to be sent, `part` what the
    header Range asks for ("" for all of it). `begun` gets the headers before anything is written.
    Raises GoogleAPICallError if Cloud Storage refuses, or (NotModified) has nothing but `unless`.
    """
    headers = {"Accept-Encoding": "gzip"}  # else what is stored so would come otherwise
    headers |= {"Range": part} if part else {}
    params = {"alt": "media", "generation": generation, "ifGenerationNotMatch": unless}
    # Not by `download_to_file`: it reads pieces of 8 kB, and takes three times as long.
    with client._http.get(
        f"{client.api_endpoint}/download/storage/v1/b/{bucket}/o/{quote(name, safe='')}",
        params={key: value for key, value in params.items() if value is not None},
        headers=headers,
        stream=True,
        timeout=timeout,
    ) as answer:
        if not answer.ok or answer.status_code == HTTPStatus.NOT_MODIFIED:
            raise answers.from_http_response(answer)
        if part and answer.status_code != 206:
            raise ForeignAnswerError("a whole for a part", response=answer)
        begun(answer.headers)
        for piece in answer.raw.stream(_PIECE, decode_content=False):
            into.write(piece)


def read_objects(
    client: Any, objects: Sequence[tuple[str, int]], take: Callable[[str, bytes], None]
) -> None:
    """Hand out the contents of many small objects by gcsfs, as they come and unverified.

    Its one thread waits for all the requests, which takes the processor a quarter of the time that
    google-cloud-storage needs for as many (docs/benchmarks.md). One that is gone is left out; after
    any other fault that stays, all that have not come are.

    `objects` are names, each with its bucket before it, and generations (which gcsfs of 2025, as
    Colab has it, passes over: then what is there now may come). What `take` raises ends this.
    """
    # Else it tries gRPC first, for a minute where that leads nowhere.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    # What it has to say it also raises; the rest would be stack traces for a mistyped address.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    from fsspec.asyn import sync
    from gcsfs import GCSFileSystem
    from google.auth.credentials import AnonymousCredentials

    waiting = deque(objects)

    async def read() -> None:
        while waiting:
            name, generation = waiting.popleft()
            try:
                content = await files._cat_file(name, generation=generation)
            except FileNotFoundError:
                continue
            except Exception:  # noqa: BLE001 - whatever it is, they are read again one by one
                waiting.clear()
            else:
                take(name, content)

    async def read_all() -> None:
        try:
            async with asyncio.TaskGroup() as readers:
                for _ in range(_AT_ONCE):
                    readers.create_task(read())
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    login = client._credentials
    try:
        files = GCSFileSystem(
            token="anon" if isinstance(login, AnonymousCredentials) else login,
            endpoint_url=client.api_endpoint,
            requests_timeout=_REQUEST_TIMEOUT,
            skip_instance_cache=True,
        )
        sync(files.loop, read_all)
    finally:
        waiting.clear()  # who is interrupted leaves nobody at work
