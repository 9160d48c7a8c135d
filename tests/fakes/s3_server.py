"""An S3 of our own on a loopback port, for boto3 and other real clients to talk to.

Moto answers (one request at a time: its own check and its write are two steps). What it leaves out
or words otherwise than the service is decided here, in front of it: all conditions of writes,
`Content-MD5`, the first part of a multipart object, uploads that nobody knows, and whose key may do
what. Signatures are checked for the keys that `add_key` has made known, and for no others.

    with S3Server() as server:
        server.create_bucket("b")
        boto3.client("s3", endpoint_url=server.url, …)
"""

import base64
import hashlib
import io
import json
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import cache
from typing import Any, ClassVar
from urllib.parse import quote, unquote, urlencode

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import create_backend_app
from moto.s3.models import FakeKey, FakeMultipart, S3Backend, s3_backends

from kaggleops.bucket.conditions import OWN_KEYS, Conditions
from tests.fakes.object_server import ObjectServer, RefusedError, Request, Response

__all__ = ["CONDITIONS", "S3Server", "Stored"]

CONDITIONS = ("write", "multipart", "delete")
"""Of which requests a service can ignore the conditions. And "at once": it looks, and writes later,
so that of several at once more than one wins."""

_MOTO = threading.RLock()
"""Moto's state belongs to the process, and is lent to one server at a time."""

_LARGE = 50_000_000  # bytes

_CONDITIONAL = {
    "PutObject": "write",
    "CompleteMultipartUpload": "multipart",
    "DeleteObject": "delete",
}
_CODES = {
    400: ("RequestTimeout", "Your socket connection was not read from or written to in time."),
    403: ("AccessDenied", "Access Denied"),
    404: ("NoSuchKey", "The specified key does not exist."),
    409: ("ConditionalRequestConflict", "A conflicting operation occurred during this operation."),
    412: ("PreconditionFailed", "At least one of the pre-conditions you specified did not hold"),
    500: ("InternalError", "We encountered an internal error. Please try again."),
    503: ("SlowDown", "Please reduce your request rate."),
}


class S3Error(RefusedError):
    """A refusal, with the code that the service gives it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, f"{code}: {message}")
        self.body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>1</RequestId></Error>"
        ).encode()


@dataclass(frozen=True)
class Stored:
    """What the service keeps of an object."""

    data: bytes
    etag: str
    metadata: Mapping[str, str]
    content_type: str

    @property
    def version(self) -> str:
        """What this project calls its version."""
        return self.etag


class S3Server(ObjectServer):
    """The server, from `start` (or `with`) until `stop`. See `ObjectServer`.

    Args:
        latency: seconds that each request takes longer.
        ignores_conditions: for a service that lies, see `CONDITIONS`.
    """

    verbs: ClassVar = {
        "read": ("GetObject",),
        "write": ("PutObject", "UploadPart", "CompleteMultipartUpload"),
        "list": ("ListObjectsV2",),
        "delete": ("DeleteObject",),
    }
    lists_checksums = False
    passing = (503, 500, 409)

    def __init__(self, latency: float = 0.0, ignores_conditions: Collection[str] = ()) -> None:
        super().__init__(latency)
        self.ignores_conditions = ignores_conditions
        self.proven: Collection[str] = ()
        """Where in the buckets made from now on it is said that the conditions were tried."""
        self.unquoted = False
        """Whether an ETag in quotes is another one to it, as it is to Ceph's gateway."""
        self.opaque = False
        """Whether the ETag of what came in one request is its MD5 backwards, and so another's."""
        self._backends: dict[str, Any] = {}
        self._accounts: dict[str, tuple[str, str]] = {}
        self._made: list[Any] = []
        self._secrets: dict[str, str] = {}
        self._public: set[str] = set()
        self._allowed: dict[str, tuple[str, str]] = {}
        self._denied: dict[str, dict[str, int]] = {}
        self._looked: Counter[str] = Counter()
        self._looked_at = threading.Condition()

    def stop(self) -> None:
        super().stop()
        while self._made:
            self._made.pop().dispose()

    # What is in it

    def create_bucket(self, name: str, *, versioned: bool = False) -> None:
        with self._moto() as moto:
            moto.create_bucket(name, "us-east-1")
            if versioned:
                moto.put_bucket_versioning(name, "Enabled")
        endpoint = self.url.removeprefix("http://")
        found = Conditions(endpoint, name, "2026-11-29T00:00:00Z", multipart=True, delete=True)
        for place in self.proven:
            self.put(name, f"{place}{OWN_KEYS}.json", json.dumps(asdict(found)).encode())

    def address(self, bucket: str, prefix: str = "") -> str:
        host = self.url.removeprefix("http://")
        return f"s3+http://{bucket}@{host}" + (f"/{prefix}" if prefix else "")

    def delete_bucket(self, name: str) -> None:
        with self._moto() as moto:
            moto.buckets.pop(name)
            self._accounts.pop(name)

    def objects(self, bucket: str) -> Mapping[str, Stored]:
        with self._moto() as moto:
            keys = {key: moto.get_object(bucket, key) for key in moto.get_bucket(bucket).keys}
            return {name: _stored(key) for name, key in sorted(keys.items()) if key}

    def versions(self, bucket: str, key: str) -> int:
        """Return how many versions of an object there are, deletions among them."""
        with self._moto() as moto:
            return len(moto.get_bucket(bucket).keys.getlist(key, []))

    def uploads(self, bucket: str) -> Collection[str]:
        """Return the keys of the multipart uploads that have been begun and are still open."""
        with self._moto() as moto:
            return [upload.key_name for upload in moto.get_bucket(bucket).multiparts.values()]

    def put(self, bucket: str, key: str, data: bytes, **metadata: str) -> Stored:
        with self._moto() as moto:
            made = moto.put_object(bucket, key, data)
            made.set_metadata({f"x-amz-meta-{name}": value for name, value in metadata.items()})
            return _stored(made)

    def age(self, bucket: str, key: str, hours: float) -> None:
        with self._moto() as moto:
            found = moto.get_object(bucket, key)
            assert found
            found.last_modified -= timedelta(hours=hours)

    def remove(self, bucket: str, key: str) -> None:
        with self._moto() as moto:
            moto.delete_object(bucket, key)

    # Who may do what

    def deny(
        self, bucket: str, *, read: bool = False, write: bool = False, status: int = 403
    ) -> None:
        verbs = {"read": read, "write": write}
        self._denied[bucket] = {verb: status for verb, denied in verbs.items() if denied}

    def allow(self, bucket: str) -> None:
        self._denied.pop(bucket, None)

    def publish(self, bucket: str) -> None:
        """Let anybody read a bucket who names no key: one that is named has to be known."""
        self._public.add(bucket)

    def add_key(self, access_key_id: str, secret: str, bucket: str = "", prefix: str = "") -> None:
        """Make a key known: from the first on, requests need one, and the right signature.

        Args:
            access_key_id: its public half.
            secret: its other half.
            bucket: the only bucket that it may use; "" for all.
            prefix: how all keys have to begin that it may use there.
        """
        self._secrets[access_key_id] = secret
        self._allowed[access_key_id] = (bucket, prefix)

    # How it answers

    def _route(self, request: Request) -> Callable[[Any], Response]:
        request.bucket, _, key = unquote(request.path.removeprefix("/")).partition("/")
        request.key = key or None
        request.op, request.cls = _operation(request)
        return self._carry_out

    def _refused(self, request: Request, error: RefusedError) -> Response:
        assert isinstance(error, S3Error)
        headers = [("Content-Type", "application/xml"), *error.headers]
        return Response(error.status, headers, error.body)

    def _failure(self, status: int, message: str | None) -> RefusedError:
        if status == 401:
            return S3Error(400, "ExpiredToken", "The provided token has expired.")
        code, says = _CODES.get(status, ("ServiceUnavailable", "Service is unable to answer."))
        if message and message.split(":")[0].isalnum():
            code, _, message = message.partition(": ")
        return S3Error(status, code, message or says)

    def _can_have(self, kind: int | str, request: Request) -> bool:
        if kind == 409:
            return request.op in _CONDITIONAL
        if kind == "corrupt":
            return request.op in ("PutObject", "UploadPart", "GetObject")
        if kind == "error-in-200":
            return request.op in ("CompleteMultipartUpload", "CopyObject")
        return kind != "garbled" or request.op.startswith(("List", "Create", "Complete"))

    def _carry_out(self, request: Request) -> Response:
        if request.damage == "corrupt" and request.method == "PUT":
            request.body = bytes([request.body[0] ^ 0xFF]) + request.body[1:]
        self._check_signature(request)
        self._check_permission(request)
        _check_md5(request)
        for name in ("If-Match", "If-None-Match") if self.opaque else ():
            if told := request.headers.get(name):
                request.headers.replace_header(name, told[::-1])
        if "at once" in self.ignores_conditions:
            with self._moto() as moto:
                self._check_conditions(moto, request)
            self._let_another_be_looked_at(request)
        with self._moto() as moto:
            if "at once" not in self.ignores_conditions:
                self._check_conditions(moto, request)
            is_read = request.op in ("GetObject", "HeadObject")
            part = request.query.pop("partNumber", None) if is_read else None
            response = _piece(moto, request) or _ask(request)
            if part and response.status < 300:
                response = _part(moto, request, int(part))
        response.media = request.op == "GetObject"
        if self.opaque and request.op in ("PutObject", "GetObject", "HeadObject"):
            response.headers = [
                (name, value[::-1] if name.lower() == "etag" else value)
                for name, value in response.headers
            ]
        return response

    def _let_another_be_looked_at(self, request: Request) -> None:
        """Return once a second conditional write of the object has come as far as this one."""
        if request.op != "PutObject" or not {"If-Match", "If-None-Match"} & set(request.headers):
            return
        with self._looked_at:
            self._looked[str(request.key)] += 1
            self._looked_at.notify_all()
            self._looked_at.wait_for(lambda: self._looked[str(request.key)] > 1, timeout=10)

    @contextmanager
    def _moto(self) -> Iterator[S3Backend]:
        """Lend moto's state to this server."""
        with _MOTO:
            s3_backends.clear()
            s3_backends.update(self._backends)
            s3_backends.bucket_accounts = self._accounts
            try:
                yield s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
            finally:
                self._backends = dict(s3_backends)
                for kind in (FakeKey, FakeMultipart):
                    made: list[Any] = kind.instances_tracked  # type: ignore[attr-defined]
                    self._made += made
                    made.clear()

    def _check_conditions(self, moto: S3Backend, request: Request) -> None:
        if request.bucket not in moto.buckets:
            return  # moto says so
        kind = _CONDITIONAL.get(request.op)
        upload = request.query.get("uploadId")
        if upload:
            known = moto.get_bucket(str(request.bucket)).multiparts
            now = moto.get_object(str(request.bucket), str(request.key))
            if kind and now and now.multipart and now.multipart.id == upload:
                return  # done is done, however often it is asked again
            if upload not in known:
                raise S3Error(404, "NoSuchUpload", "The specified upload does not exist.")
        if kind is None or kind in self.ignores_conditions:
            return
        absent, same = (request.headers.get(name) for name in ("If-None-Match", "If-Match"))
        if absent is None and same is None:
            return
        now = moto.get_object(str(request.bucket), str(request.key))
        if absent not in (None, "*") or (absent and kind == "delete"):
            raise S3Error(501, "NotImplemented", "A header you provided is not implemented.")
        if now and same and not self.unquoted:
            same = same.strip('"')
        if now and (absent or (same is not None and same not in ("*", now.etag.strip('"')))):
            raise self._failure(412, None)
        if same is not None and not now:
            raise self._failure(404, None)

    def _check_permission(self, request: Request) -> None:
        is_read = request.method in ("GET", "HEAD")
        denied = self._denied.get(str(request.bucket), {}).get("read" if is_read else "write")
        if denied:
            raise self._failure(denied, None)
        bucket, prefix = self._allowed.get(_access_key(request), ("", ""))
        if not bucket:
            return
        about = request.key or (request.query.get("prefix", "") if is_read else "")
        if request.bucket != bucket or not about.startswith(prefix):
            raise self._failure(403, None)

    def _check_signature(self, request: Request) -> None:
        is_read = request.method in ("GET", "HEAD") and request.bucket in self._public
        if not self._secrets or (is_read and "Authorization" not in request.headers):
            return
        key = _access_key(request)
        if key not in self._secrets:
            unknown = "The AWS Access Key Id you provided does not exist in our records."
            raise S3Error(403, "InvalidAccessKeyId", unknown)
        if _signature(request, key, self._secrets[key]) not in request.headers["Authorization"]:
            wrong = "The request signature we calculated does not match the signature you provided."
            raise S3Error(403, "SignatureDoesNotMatch", wrong)


def _stored(key: FakeKey) -> Stored:
    meta = {name.lower(): value for name, value in key.metadata.items()}
    own = {name.removeprefix("x-amz-meta-"): v for name, v in meta.items() if "-meta-" in name}
    return Stored(key.value, key.etag.strip('"'), own, meta.get("content-type", ""))


def _operation(request: Request) -> tuple[str, str]:
    """Return the name of what is asked for, and its price class."""
    method, query = request.method, request.query
    if not request.bucket:
        return "ListBuckets", "A"
    if request.key is None:
        if method == "GET" and (lists := _LISTS.keys() & query.keys()):
            return _LISTS[lists.pop()], "A"
        name = next(iter(query), "")
        return {
            "HEAD": ("HeadBucket", "B"),
            "GET": (f"GetBucket:{name}" if name else "ListObjects", "A"),
            "PUT": (f"PutBucket:{name}" if name else "CreateBucket", "A"),
            "POST": ("DeleteObjects", "free"),
            "DELETE": ("DeleteBucket", "free"),
        }[method]
    upload = "uploadId" in query
    copy = "x-amz-copy-source" in request.headers
    return {
        "HEAD": ("HeadObject", "B"),
        "GET": ("ListParts", "A") if upload else ("GetObject", "B"),
        "PUT": (("UploadPart" if upload else "CopyObject" if copy else "PutObject"), "A"),
        "POST": ("CompleteMultipartUpload" if upload else "CreateMultipartUpload", "A"),
        "DELETE": ("AbortMultipartUpload" if upload else "DeleteObject", "free"),
    }[method]


_LISTS = {
    "list-type": "ListObjectsV2",
    "versions": "ListObjectVersions",
    "uploads": "ListMultipartUploads",
}


def _check_md5(request: Request) -> None:
    told = request.headers.get("Content-MD5")
    if told and told != base64.b64encode(hashlib.md5(request.body).digest()).decode():
        wrong = "The Content-MD5 you specified did not match what we received."
        raise S3Error(400, "BadDigest", wrong)


def _piece(moto: S3Backend, request: Request) -> Response | None:
    """Return a range of a large object: for each, moto would read all of it into memory."""
    if request.op != "GetObject" or "Range" not in request.headers:
        return None
    if request.bucket not in moto.buckets:
        return None
    version = request.query.get("versionId")
    whole = moto.get_object(str(request.bucket), str(request.key), version)
    if whole is None or whole.size <= _LARGE:
        return None
    head = _ask(replace(request, method="HEAD"))
    headers = {name.lower(): value for name, value in head.headers}
    if head.status != 206:
        return None
    first, last = map(int, headers["content-range"].split()[1].split("/")[0].split("-"))
    with whole.lock:
        whole._value_buffer.seek(first)
        data = whole._value_buffer.read(last + 1 - first)
    kept = [each for each in head.headers if each[0].lower() != "content-length"]
    return Response(206, kept, data)


def _part(moto: S3Backend, request: Request, number: int) -> Response:
    """Return a part of an object, with the object's own ETag and metadata."""
    whole = moto.get_object(str(request.bucket), str(request.key))
    assert whole
    parts = whole.multipart.partlist if whole.multipart else [1]
    if number > len(parts):
        raise S3Error(416, "InvalidPartNumber", "The requested partnumber is not satisfiable")
    data = whole.value
    if whole.multipart:
        sizes = [whole.multipart.parts[each].size for each in parts]
        data = data[sum(sizes[: number - 1]) : sum(sizes[:number])]
    headers = [
        ("ETag", whole.etag),
        ("Last-Modified", whole.last_modified_RFC1123),
        ("Content-Length", str(len(data))),
        *((name, value) for name, value in whole.metadata.items()),
    ]
    if whole.multipart:
        headers.append(("x-amz-mp-parts-count", str(len(parts))))
    return Response(206, headers, data)


@cache
def _application() -> Any:
    return create_backend_app("s3")


def _ask(request: Request) -> Response:
    """Return moto's answer."""
    headers = {f"HTTP_{name.upper().replace('-', '_')}": v for name, v in request.headers.items()}
    for name in ("If-Match", "If-None-Match"):
        if request.op in _CONDITIONAL:  # which have been looked at
            headers.pop(f"HTTP_{name.upper().replace('-', '_')}", None)
    headers.pop("HTTP_TRANSFER_ENCODING", None)
    # Who may read what has been decided: moto knows nothing of `publish`.
    anybody = "AWS4-HMAC-SHA256 Credential=anybody/20260101/us-east-1/s3/aws4_request"
    headers.setdefault("HTTP_AUTHORIZATION", anybody)
    environ = {
        **headers,
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(request.path, "latin-1"),
        "QUERY_STRING": urlencode(request.query, quote_via=quote),
        "RAW_URI": f"{request.path}?{urlencode(request.query, quote_via=quote)}",
        "CONTENT_TYPE": request.headers.get("Content-Type", ""),
        "CONTENT_LENGTH": str(len(request.body)),
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": request.base_url.rpartition(":")[2],
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    started: list[tuple[int, list[tuple[str, str]]]] = []

    def start(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
        started.append((int(status.split()[0]), headers))

    body = b"".join(_application()(environ, start))
    [(status, answered)] = started
    if request.method != "HEAD":
        answered = [each for each in answered if each[0].lower() != "content-length"]
    if (not body and request.method != "HEAD") or status >= 400:  # Flask calls it a page
        answered = [each for each in answered if each[0].lower() != "content-type"]
    return Response(status, answered, body)


def _access_key(request: Request) -> str:
    return request.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]


def _signature(request: Request, access_key_id: str, secret: str) -> str:
    """Return how a request has to be signed."""
    told = request.headers["Authorization"]
    region = told.partition("Credential=")[2].split("/")[2]
    names = told.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    signed = AWSRequest(
        request.method,
        request.base_url + request.path,
        {name: request.headers.get(name, "") for name in names},
        request.body,
        params=request.query,
    )
    signed.context["timestamp"] = request.headers["X-Amz-Date"]
    auth = S3SigV4Auth(Credentials(access_key_id, secret), "s3", region)
    canonical = auth.canonical_request(signed)
    return auth.signature(auth.string_to_sign(signed, canonical), signed)
