"""Which operation a request asks for, and which parameters that takes. All else is refused."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from tests.fakes.gcs.objects import Objects
from tests.fakes.gcs.store import Conditions, bad_request
from tests.fakes.gcs.uploads import Uploads
from tests.fakes.gcs.wire import Request, Response

_ALWAYS = {"alt", "fields", "prettyPrint", "userProject", "quotaUser", "projection"}
_IF = set(Conditions.NAMES)
_LIST = {
    "prefix",
    "delimiter",
    "startOffset",
    "endOffset",
    "matchGlob",
    "maxResults",
    "pageToken",
    "versions",
    "includeFoldersAsPrefixes",
}

_BUCKETS = r"/storage/v1/b"
_BUCKET = rf"{_BUCKETS}/([^/]+)"
_OBJECT = rf"{_BUCKET}/o/([^/]+)"


@dataclass(frozen=True)
class Route:
    """One operation. `cls` is what Cloud Storage bills it as: "A", "B" or "free".

    https://cloud.google.com/storage/pricing#operations-by-class
    """

    op: str
    cls: str
    method: str
    path: str
    params: set[str]
    answer: Callable[[Request], Response]


class Router:
    """Finds the operation for a request."""

    def __init__(self, objects: Objects, uploads: Uploads) -> None:
        upload = rf"/upload{_BUCKET}/o"
        media = {*_IF, "generation"}
        self._routes = [
            Route("objects.get", "B", "GET", _OBJECT, {*media, "softDeleted"}, objects.get),
            Route("objects.get_media", "B", "GET", f"/download{_OBJECT}", media, objects.get_media),
            Route("objects.list", "A", "GET", f"{_BUCKET}/o", _LIST, objects.list),
            Route("objects.patch", "A", "PATCH", _OBJECT, media, objects.patch),
            Route("objects.update", "A", "PUT", _OBJECT, media, objects.update),
            Route("objects.delete", "free", "DELETE", _OBJECT, media, objects.delete),
            Route("objects.compose", "A", "POST", f"{_OBJECT}/compose", _IF, objects.compose),
            Route("objects.restore", "A", "POST", f"{_OBJECT}/restore", media, objects.restore),
            Route("buckets.get", "B", "GET", _BUCKET, set(), objects.get_bucket),
            Route("buckets.insert", "A", "POST", _BUCKETS, {"project"}, objects.insert_bucket),
            Route("buckets.list", "A", "GET", _BUCKETS, {"project"}, objects.list_buckets),
        ]  # fmt: skip
        params = {"name", "uploadType", "upload_id", *_IF}
        self._name_of = uploads.name_of
        self._uploads = {
            "media": Route("objects.insert", "A", "POST", upload, params, uploads.media),
            "multipart": Route("objects.insert", "A", "POST", upload, params, uploads.multipart),
            "resumable": Route("objects.insert", "A", "POST", upload, params, uploads.start),
            # A resumable upload is billed once, however many chunks it has.
            "chunk": Route("uploads.chunk", "free", "PUT", upload, params, uploads.chunk),
            "status": Route("uploads.status", "free", "PUT", upload, params, uploads.status),
            "cancel": Route("uploads.cancel", "free", "DELETE", upload, params, uploads.cancel),
        }

    def route(self, request: Request) -> Route:
        """Return the operation, and note in the request which it is and on what.

        Raises:
            ApiError: there is no such operation, or it does not take these parameters.
        """
        found = self._match(request)
        if found is None:
            raise bad_request(f"No such operation: {request.method} {request.path}")
        route, names = found
        request.op, request.cls = route.op, route.cls
        request.bucket, request.key = (*names, None, None)[:2]
        if request.path.startswith("/upload"):
            request.key = self._name_of(request)
        unknown = request.query.keys() - route.params - _ALWAYS
        if unknown:
            raise bad_request(f"Unknown parameters of {route.op}: {sorted(unknown)}")
        if {"If-Match", "If-None-Match"} & set(request.headers):
            raise bad_request("The fake has no preconditions on ETags.")
        return route

    def _match(self, request: Request) -> tuple[Route, list[str]] | None:
        if match := re.fullmatch(rf"/upload{_BUCKET}/o", request.path):
            upload = self._upload(request)
            return (upload, _unquoted(match)) if upload else None
        for route in self._routes:
            match = re.fullmatch(route.path, request.path)
            if match and request.method == route.method:
                if route.op == "objects.get" and request.query.get("alt") == "media":
                    route = self._routes[1]
                return route, _unquoted(match)
        return None

    def _upload(self, request: Request) -> Route | None:
        if "upload_id" not in request.query:
            kind = request.query.get("uploadType", "")
            return self._uploads.get(kind) if request.method == "POST" else None
        if request.method == "DELETE":
            return self._uploads["cancel"]
        if request.method not in ("PUT", "POST"):  # gcsfs posts its chunks
            return None
        asks = request.headers.get("Content-Range") == "bytes */*"
        return self._uploads["status" if asks else "chunk"]


def _unquoted(match: re.Match[str]) -> list[str]:
    try:
        return [unquote(name, errors="strict") for name in match.groups()]
    except UnicodeDecodeError:
        raise bad_request("The path is not UTF-8.") from None
