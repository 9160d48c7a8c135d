"""Uploads: a body alone, a body with its metadata, and one in resumable chunks."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from tests.fakes.gcs.listing import mask
from tests.fakes.gcs.objects import KNOWN_FIELDS, resource, settable
from tests.fakes.gcs.store import (
    ApiError,
    Conditions,
    FakeObject,
    Store,
    bad_request,
    crc32c_of,
    md5_of,
)
from tests.fakes.gcs.wire import Request, Response, json_response, parse_json

_CHUNK_UNIT = 256 * 1024
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


@dataclass
class _Session:
    bucket: str
    metadata: dict[str, Any]
    conditions: Conditions
    total: int | None
    received: bytearray = field(default_factory=bytearray)
    made: FakeObject | None = None


class Uploads:
    """Each method answers one operation; `Router` says which."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sessions: dict[str, _Session] = {}

    def name_of(self, request: Request) -> str | None:
        """Return which object a request uploads, as far as that can be told."""
        if session := self._sessions.get(request.query.get("upload_id", "")):
            return session.metadata["name"]
        if "name" in request.query:
            return request.query["name"]
        try:
            multipart = request.query.get("uploadType") == "multipart"
            content = _parts(request)[0][1] if multipart else request.body
            return parse_json(content).get("name")
        except ApiError:
            return None

    def media(self, request: Request) -> Response:
        metadata = {"contentType": request.headers.get("Content-Type"), **_named(request, {})}
        return self._finish(request, request.bucket or "", metadata, request.body)

    def multipart(self, request: Request) -> Response:
        metadata_part, media_part = _parts(request)
        metadata = _named(request, parse_json(metadata_part[1]))
        metadata.setdefault("contentType", media_part[0].get("content-type"))
        return self._finish(request, request.bucket or "", metadata, media_part[1])

    def start(self, request: Request) -> Response:
        metadata = _named(request, parse_json(request.body) if request.body else {})
        metadata.setdefault("contentType", request.headers.get("X-Upload-Content-Type"))
        settable(metadata, besides=_UPLOAD_FIELDS)
        total = request.headers.get("X-Upload-Content-Length")
        session = _Session(
            request.bucket or "",
            metadata,
            Conditions.of(request.query),
            int(total) if total else None,
        )
        with self._store.lock:
            there = self._store.bucket(session.bucket, "write").objects.get(metadata["name"])
            if not self._store.testbench:  # which checks only once everything has come
                session.conditions.check(there)
            upload_id = secrets.token_hex(16)
            self._sessions[upload_id] = session
        query = urlencode({**request.query, "upload_id": upload_id})
        location = f"{request.base_url}{request.path}?{query}"
        return Response(200, [("Location", location), ("X-GUploader-UploadID", upload_id)])

    def chunk(self, request: Request) -> Response:
        session = self._session(request)
        if session.made:
            return self._shown(request, session.made)
        content_range = request.headers.get("Content-Range")
        if content_range is None:
            start, total = 0, len(request.body)
        else:
            start, total = _placed(content_range, len(request.body), len(session.received))
        if total is not None and session.total not in (None, total):
            raise bad_request("The total differs from the one announced.")
        if start > len(session.received):
            raise bad_request(f"The chunk starts at {start}, not {len(session.received)}.")
        # What is there already is not taken again.
        body = _damaged(request.body, request.damage)
        session.received += body[len(session.received) - start :]
        if request.damage == "partial":
            del session.received[len(session.received) // _CHUNK_UNIT * _CHUNK_UNIT :]
            return _incomplete(session)
        if total is None or len(session.received) < total:
            if len(session.received) % _CHUNK_UNIT:
                raise bad_request("All chunks but the last must be multiples of 256 KiB.")
            return _incomplete(session)
        hashes = _hashes(request.headers.get("X-Goog-Hash"))
        session.made = self._make(
            session.bucket,
            session.metadata,
            bytes(session.received),
            session.conditions,
            hashes,
        )
        return self._shown(request, session.made)

    def status(self, request: Request) -> Response:
        session = self._session(request)
        return self._shown(request, session.made) if session.made else _incomplete(session)

    def cancel(self, request: Request) -> Response:
        self._session(request)
        del self._sessions[request.query["upload_id"]]
        return Response(499)

    def expire(self) -> None:
        """Forget all sessions, as the service does after a week or a mishap."""
        self._sessions.clear()

    def _session(self, request: Request) -> _Session:
        session = self._sessions.get(request.query["upload_id"])
        if session is None:
            raise ApiError(404, "Not Found", "notFound")
        return session

    def _finish(
        self, request: Request, bucket: str, metadata: dict[str, Any], data: bytes
    ) -> Response:
        hashes = _hashes(request.headers.get("X-Goog-Hash"))
        data = _damaged(data, request.damage)
        made = self._make(bucket, metadata, data, Conditions.of(request.query), hashes)
        return self._shown(request, made)

    def _make(
        self,
        bucket: str,
        metadata: dict[str, Any],
        data: bytes,
        conditions: Conditions,
        hashes: dict[str, str],
    ) -> FakeObject:
        fields = settable(metadata, besides=_UPLOAD_FIELDS)
        given = {name: metadata[name] for name in ("md5Hash", "crc32c") if name in metadata}
        for name, value in {**given, **hashes}.items():
            label, actual = ("MD5 hash", md5_of) if name == "md5Hash" else ("CRC32C", crc32c_of)
            if value != actual(data):
                message = (
                    f'Provided {label} "{value}" doesn\'t match calculated {label} '
                    f'"{actual(data)}".'
                )
                if self._store.testbench:
                    raise ApiError(412, "Checksum mismatch")
                raise bad_request(message)
        fields = {name: value for name, value in fields.items() if value is not None}
        return self._store.put(bucket, metadata["name"], data, fields, conditions)

    def _shown(self, request: Request, made: FakeObject) -> Response:
        shown = resource(made, request.base_url, self._store.testbench)
        return json_response(mask(shown, request.query.get("fields"), KNOWN_FIELDS))


_UPLOAD_FIELDS = frozenset({"name", "bucket", "md5Hash", "crc32c"})


def _named(request: Request, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata with the object's name, from wherever it was given."""
    in_query = request.query.get("name")
    name = metadata.get("name", in_query)
    if not name:
        raise bad_request("Required")
    if in_query not in (None, name):
        raise bad_request(f"Value '{name}' in content does not agree with value '{in_query}'.")
    if name in (".", "..") or len(name.encode()) > 1024 or "\n" in name or "\r" in name:
        raise bad_request(f"Invalid object name: {name!r}")
    return {**metadata, "name": name}


def _parts(request: Request) -> list[tuple[Mapping[str, str], bytes]]:
    """Return headers and body of each of the two parts."""
    boundary = re.search(r'boundary="?([^";]+)"?', request.headers.get("Content-Type", ""))
    if not boundary:
        raise bad_request("Missing boundary in the Content-Type.")
    mark = b"--" + boundary.group(1).encode()
    start, *parts = (b"\n" + request.body).split(b"\n" + mark)
    if start.strip() or len(parts) != 3 or not parts[-1].startswith(b"--"):
        raise bad_request("Malformed multipart body.")
    return [_part(part) for part in parts[:-1]]


def _part(part: bytes) -> tuple[Mapping[str, str], bytes]:
    # The official client ends its lines in CR LF, gcsfs in LF; the service takes both.
    newline = b"\r\n" if part.startswith(b"\r\n") else b"\n"
    head, blank, body = part.partition(newline * 2)  # rclone's media has no headers at all
    if not blank:
        raise bad_request("Malformed multipart body.")
    headers = {}
    for line in head.decode().split(newline.decode())[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return headers, body[:-1] if newline == b"\r\n" else body


def _placed(content_range: str, length: int, received: int) -> tuple[int, int | None]:
    """Return where a chunk starts and how long the whole is, if that is known by now."""
    match = _CONTENT_RANGE.fullmatch(content_range)
    if not match:
        raise bad_request(f"Invalid Content-Range {content_range!r}")
    first, last, total = match.groups()
    if first is None:
        return received, int(total)
    if int(last) - int(first) + 1 != length:
        raise bad_request("The Content-Range does not fit the body.")
    return int(first), None if total == "*" else int(total)


def _incomplete(session: _Session) -> Response:
    received = len(session.received)
    return Response(308, [("Range", f"bytes=0-{received - 1}")] if received else [])


def _hashes(header: str | None) -> dict[str, str]:
    given = dict(part.strip().split("=", 1) for part in (header or "").split(",") if part)
    if given.keys() - {"md5", "crc32c"}:
        raise bad_request(f"Invalid X-Goog-Hash {header!r}")
    names = {"md5": "md5Hash", "crc32c": "crc32c"}
    return {names[name]: value for name, value in given.items()}


def _damaged(data: bytes, how: str | None) -> bytes:
    if how == "partial":
        return data[: len(data) // 2]
    return data[:-1] + bytes([data[-1] ^ 0xFF]) if how == "corrupt" and data else data
