"""The connections to whatever speaks Amazon's S3 protocol, and what can go wrong with them.

Only this file knows boto3's errors: which pass by themselves, and what to tell the user of the
others. A proxy's page in a service's place is a fault that passes: no service answers without an
ETag where it sends or takes an object, nor with a list that doesn't say whether it goes on.
"""

import os
import re
import threading
from contextlib import suppress
from typing import Any, NamedTuple

from kaggleops.bucket.base import AccessDeniedError, BucketError, BucketUnavailableError
from kaggleops.bucket.conditions import UnsafeServiceError
from kaggleops.bucket.patience import InterruptedTransferError, OutOfPatienceError
from kaggleops.errors import KaggleOpsError, UsageError, first_line

try:
    import boto3
    import botocore.exceptions as failures
    import urllib3.exceptions
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import ClientError, NoCredentialsError
    from botocore.parsers import ResponseParserError
except ImportError as error:
    raise UsageError(
        "opening an s3:// bucket", f"{error.name} is not installed", "pip install 'kaggleops[s3]'"
    ) from error

_PASSING_CODES = {
    *("BadDigest", "ConditionalRequestConflict", "InternalError", "OperationAborted"),
    *("RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling"),
    "XAmzContentSHA256Mismatch",
}
_REFUSED_KEYS = {
    *("ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"),
    *("TokenRefreshRequired", "Unauthorized", "AuthorizationHeaderMalformed"),
}
_BROKEN_CONNECTION = (
    failures.HTTPClientError,
    failures.ConnectionError,
    failures.IncompleteReadError,
    ResponseParserError,
    urllib3.exceptions.HTTPError,
    ConnectionError,
)
_NO_CREDENTIALS = (
    *(failures.NoCredentialsError, failures.PartialCredentialsError),
    *(failures.CredentialRetrievalError, failures.NoAuthTokenError),
    *(failures.ProfileNotFound, failures.ConfigParseError, failures.ConfigNotFound),
    *(failures.SSOError, failures.TokenRetrievalError),
)
_LOGIN = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile in "
    "~/.aws/credentials that has them."
)
# The part of a service's host name that is its region.
_REGION = re.compile(
    r"(?:s3[.-](?:dualstack\.)?(?P<after>[a-z]+-[a-z0-9-]+)|(?P<alone>[a-z]{2,4}\d+))\..+\..+"
)


class ForeignAnswerError(InterruptedTransferError):
    """Something between us and the service has answered in its place."""


class Endpoint(NamedTuple):
    """Where a service answers."""

    scheme: str
    """`https`, or `http` without TLS."""
    host: str
    """With its port; "" for Amazon, or wherever the usual variables and profiles lead."""

    @property
    def url(self) -> str | None:
        """Where it answers; None for Amazon, or wherever the settings lead."""
        return f"{self.scheme}://{self.host}" if self.host else None

    @property
    def region(self) -> str | None:
        """Return the region that its requests are signed for; None for the profile's own."""
        named = _REGION.fullmatch(self.host)
        if self.host.endswith(".r2.cloudflarestorage.com"):
            return "auto"
        if named and self.host.endswith(".amazonaws.com"):
            return named["after"]
        # Other hosts may only look as if they named one. (boto3 knows just the second variable.)
        if found := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
            return found
        return named["after"] or named["alone"] if named else None


_clients: dict[Any, tuple[Any, Any]] = {}
_one_at_a_time = threading.Lock()


def _unlocked_after_fork() -> None:
    global _one_at_a_time
    _one_at_a_time = threading.Lock()


os.register_at_fork(after_in_child=_unlocked_after_fork)


def connect(endpoint: Endpoint, timeout: tuple[float, float], *, signed: bool = True) -> Any:
    """Return boto3's client for a service, with the machine's own credentials.

    The `timeout` is in seconds, to connect and between two bytes. One that is not `signed` may read
    what is public. Raises BotoCoreError if the settings of the machine are wrong.
    """
    # A client is not to be used on both sides of a fork, and takes a tenth of a second to make.
    wanted, settings = (os.getpid(), endpoint, timeout, signed), _settings()
    with _one_at_a_time:  # of many threads, each would make one, of 13 MB
        made, client = _clients.get(wanted, (None, None))
        if made != settings:
            session = boto3.session.Session()
            client = session.client(
                "s3",
                endpoint_url=endpoint.url,
                region_name=endpoint.region or session.region_name or "us-east-1",
                config=Config(
                    signature_version=None if signed else UNSIGNED,
                    connect_timeout=timeout[0],
                    read_timeout=timeout[1],
                    max_pool_connections=32,
                    # Our own `Patience` does that, as long for a bucket of any kind.
                    retries={"total_max_attempts": 1, "mode": "standard"},
                    # Not every service knows the checksums that Amazon's does: Content-MD5 they do.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    s3={"addressing_style": "path" if endpoint.host else "auto"},
                    user_agent_extra="kaggleops",
                ),
            )
            _clients[wanted] = settings, client
    return client


def _settings() -> Any:
    """Return what a client is made from: one that has read a file never reads it again."""
    variables = sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_"))
    states = []
    for name, usual in (("SHARED_CREDENTIALS", "credentials"), ("CONFIG", "config")):
        # Not Path's: a user without a home has no such file, which is no error.
        file = os.path.expanduser(os.environ.get(f"AWS_{name}_FILE") or f"~/.aws/{usual}")  # noqa: PTH111
        with suppress(OSError):
            state = os.stat(file)  # noqa: PTH116
            states.append((name, state.st_ino, state.st_mtime_ns, state.st_size))
    return variables, states


def status_of(error: Exception) -> int:
    """Return the status with which the service has refused; 0 for any other error."""
    answer = getattr(error, "response", None)
    metadata = answer.get("ResponseMetadata", {}) if isinstance(answer, dict) else {}
    return int(metadata.get("HTTPStatusCode", 0))


def code_of(error: Exception) -> str:
    """Return the service's own word for why it refuses, such as `NoSuchKey`."""
    answer = getattr(error, "response", None)
    return str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, dict) else ""


def is_passing(error: Exception) -> bool:
    """Tell whether the same request may succeed a little later."""
    if isinstance(error, ClientError):
        status = status_of(error)
        passing = code_of(error) in _PASSING_CODES or _is_page(error)
        return passing or status in {408, 429} or (status >= 500 and status != 501)
    if isinstance(error, failures.SSLError):
        lasting = re.search("CERTIFICATE|HANDSHAKE_FAILURE", str(error))
        return not lasting and not _speaks_no_tls(error)
    if _cannot_be_sent(error):
        return False
    return isinstance(error, (InterruptedTransferError, *_BROKEN_CONNECTION))


def _speaks_no_tls(error: Exception) -> bool:
    return isinstance(error, failures.SSLError) and "WRONG_VERSION_NUMBER" in str(error)


def _cannot_be_sent(error: Exception) -> bool:
    return isinstance(error, failures.HTTPClientError) and isinstance(
        error.kwargs.get("error"), ValueError
    )


def _headers(error: ClientError) -> Any:
    return error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})


def _other_region(error: ClientError) -> str:
    """Return the region that the service names because a request was signed for another."""
    if status_of(error) not in {301, 307, 400}:
        return ""
    told = error.response.get("Error", {}).get("Region")
    return str(told or _headers(error).get("x-amz-bucket-region", ""))


def _is_page(error: ClientError) -> bool:
    kind = _headers(error).get("content-type", "")
    # The answer to a HEAD has no words, but the service's own number of the request.
    is_redirect = 300 <= status_of(error) < 400 and status_of(error) != 304
    is_redirect = is_redirect and "x-amz-request-id" not in _headers(error)
    return not code_of(error).isalpha() and ("html" in kind or is_redirect)


def explain(error: Exception, doing: str, uri: str) -> Exception:
    """Return the error to raise for what the client raised: `error` itself if it is our mistake."""
    match error:
        case KaggleOpsError():
            return error
        case OutOfPatienceError():
            problem = f"{_describe(error.cause)}{error.lasted}"
            hint = "Try again later; if it stays, check this machine's network and the address."
            return BucketUnavailableError(doing, problem, hint)
        case NoCredentialsError():
            return AccessDeniedError(doing, "no access key was found", _LOGIN)
        case _ if isinstance(error, _NO_CREDENTIALS):
            return AccessDeniedError(doing, f"the access key cannot be used: {error}", _LOGIN)
        case _ if _cannot_be_sent(error):
            problem = "the access key has a character that no request can carry, such as a line end"
            return AccessDeniedError(doing, problem, _LOGIN)
        case ClientError() if region := _other_region(error):
            hint = f"Set AWS_REGION={region}; a host in the address has to be that region's, too."
            return UsageError(doing, f"the bucket lies in the region {region}", hint)
        case ClientError() if code_of(error) in _REFUSED_KEYS or status_of(error) == 401:
            problem = f"the access key was refused ({_message(error)})"
            return AccessDeniedError(doing, problem, f"It may be of another service. {_LOGIN}")
        case ClientError() if code_of(error) == "RequestTimeTooSkewed":
            problem = "this machine's clock differs too much from the service's"
            return AccessDeniedError(doing, problem, "Set the clock, and try again.")
        case ClientError() if status_of(error) == 501:
            problem = f"the service does not know what is asked of it ({_message(error)})"
            return UnsafeServiceError(doing, problem, "docs/buckets.md says which services do.")
        case ClientError() if status_of(error) == 403:
            hint = f"Check the name. Ask the owner of {uri} for a key that may use its objects."
            return AccessDeniedError(doing, _message(error), hint)
        case _ if is_passing(error):
            return BucketUnavailableError(doing, _describe(error), "Try again later.")
        case _ if _speaks_no_tls(error):
            plain = uri.replace("s3://", "s3+http://", 1)
            hint = f"Without TLS its address is {plain} (as an endpoint: http://…). Check the port."
            return BucketError(doing, "what answers there speaks no TLS", hint)
        case ClientError() | failures.SSLError():
            return BucketError(doing, _describe(error))
        case failures.BotoCoreError() | ValueError():
            hint = "Check the address and the AWS_ variables."
            return UsageError(doing, f"S3's client says: {error}", hint)
        case _:
            return error


def _message(error: ClientError) -> str:
    told = error.response.get("Error", {})
    said = str(told.get("Message") or told.get("Code") or status_of(error))
    return said if len(said) < 300 and "<" not in said else str(told.get("Code"))


def _describe(error: Exception) -> str:
    match error:
        case ForeignAnswerError():
            return f"what answers is not the service ({error}: a proxy's page?)"
        case ClientError() if _is_page(error):
            return f"what answers is not the service (a {status_of(error)}: a proxy's page?)"
        case ClientError():
            return f"the service answers {status_of(error)}: {_message(error)}"
        case InterruptedTransferError():
            return f"the transfer breaks off: {error}"
        case failures.ConnectTimeoutError() | failures.ReadTimeoutError():
            return "the service does not answer in time"
        case ResponseParserError():
            return "what answers is not the service"
        case failures.EndpointConnectionError():
            return f"the service cannot be reached ({_cause(error)})"
        case failures.SSLError():
            said = first_line(error)[:200]
            what = "its certificate is refused" if "CERTIFICATE" in said else "TLS fails"
            return f"there is no safe connection to the service: {what} ({said})"
        case _:
            return f"the connection to the service fails ({type(error).__name__})"


def _cause(error: failures.EndpointConnectionError) -> str:
    said = str(error.kwargs.get("error", ""))
    if "resolve" in said:
        return "there is no host of that name"
    return said.rpartition("] ")[2].strip(")'") or "no connection"
