"""The operations on objects and buckets, except uploads."""

import gzip
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from tests.fakes.gcs import listing
from tests.fakes.gcs.store import (
    ApiError,
    Bucket,
    Conditions,
    FakeObject,
    Store,
    bad_request,
    whole_number,
)
from tests.fakes.gcs.wire import Request, Response, json_response

SETTABLE = frozenset(
    {
        "cacheControl",
        "contentDisposition",
        "contentEncoding",
        "contentLanguage",
        "contentType",
        "customTime",
        "metadata",
        "storageClass",
    }
)
"""What an object's owner may say about it."""

_COMPUTED = frozenset(
    {
        "kind",
        "id",
        "selfLink",
        "mediaLink",
        "name",
        "bucket",
        "generation",
        "metageneration",
        "size",
        "md5Hash",
        "crc32c",
        "etag",
        "timeCreated",
        "updated",
        "timeStorageClassUpdated",
        "componentCount",
        "timeDeleted",
    }
)
_BUCKET_FIELDS = frozenset({"location", "locationType", "projectNumber", "iamConfiguration"})
_LIST_FIELDS = frozenset({"items", "prefixes", "nextPageToken"})
KNOWN_FIELDS = SETTABLE | _COMPUTED | _BUCKET_FIELDS | _LIST_FIELDS

_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


def resource(found: FakeObject, base_url: str, testbench: bool = False) -> dict[str, Any]:
    """Return the object's resource as the JSON API shows it."""
    path = f"b/{found.bucket}/o/{quote(found.key, safe='')}"
    query = f"generation={found.generation}&alt=media"
    shown = {
        "kind": "storage#object",
        "id": f"{found.bucket}/{found.key}/{found.generation}",
        "selfLink": f"{base_url}/storage/v1/{path}",
        "mediaLink": f"{base_url}/download/storage/v1/{path}?{query}",
        "name": found.key,
        "bucket": found.bucket,
        "generation": str(found.generation),
        "metageneration": str(found.metageneration),
        "storageClass": "STANDARD",
        **found.fields,
        "size": None if testbench and not found.data else str(len(found.data)),
        "md5Hash": found.md5,
        "crc32c": found.crc32c,
        "etag": found.etag,
        "timeCreated": found.created,
        "updated": found.updated,
        "timeStorageClassUpdated": found.created,
        "componentCount": found.components,
        "timeDeleted": found.deleted,
    }
    return {name: value for name, value in shown.items() if value is not None}


def settable(
    content: Mapping[str, Any], *, besides: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Return what the owner's JSON sets, if there is nothing else in it."""
    unknown = content.keys() - SETTABLE - besides
    if unknown:
        raise bad_request(f"Invalid JSON payload received. Unknown name {sorted(unknown)}")
    return {name: value for name, value in content.items() if name in SETTABLE}


class Objects:
    """Each method answers one operation; `Router` says which."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, request: Request) -> Response:
        if request.query.get("softDeleted") == "true":
            generation = whole_number("generation", request.query.get("generation"))
            place = self._store.bucket(request.bucket or "", "read")
            found = place.soft_deleted.get((request.key or "", generation or 0))
            if found is None:
                raise self._store.no_such_object(request.bucket or "", request.key or "")
            return self._shown(request, found)
        return self._shown(request, self._found(request))

    def restore(self, request: Request) -> Response:
        generation = whole_number("generation", request.query.get("generation"))
        restored = self._store.restore(request.bucket or "", request.key or "", generation or 0)
        return self._shown(request, restored)

    def get_media(self, request: Request) -> Response:
        found = self._found(request)
        data, status = found.data, 200
        headers = [
            ("Content-Type", found.fields.get("contentType", "application/octet-stream")),
            ("ETag", found.etag),
            ("X-Goog-Generation", str(found.generation)),
            ("X-Goog-Metageneration", str(found.metageneration)),
            ("X-Goog-Storage-Class", "STANDARD"),
            ("X-Goog-Stored-Content-Length", str(len(data))),
            ("X-Goog-Hash", f"crc32c={found.crc32c}"),
        ]
        if found.md5:
            headers.append(("X-Goog-Hash", f"md5={found.md5}"))
        encoding = found.fields.get("contentEncoding", "identity")
        headers.append(("X-Goog-Stored-Content-Encoding", encoding))
        if encoding == "gzip" and "gzip" not in request.headers.get("Accept-Encoding", ""):
            # Served unpacked, and then always whole.
            return Response(200, headers, gzip.decompress(data), media=True)
        if encoding != "identity":
            headers.append(("Content-Encoding", encoding))
        if wanted := request.headers.get("Range"):
            start, stop = _range(wanted, len(data))
            headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}"))
            data, status = data[start:stop], 206
        return Response(status, headers, data, media=True)

    def list(self, request: Request) -> Response:
        with self._store.lock:
            place = self._store.bucket(request.bucket or "", "read")
            objects = dict(place.objects)
            old = list(place.old.values()) if request.query.get("versions") == "true" else []
        items, prefixes, token = listing.select(
            objects | {each.key: each for each in old if each.key not in objects}, request.query
        )
        if old:
            every = sorted((*objects.values(), *old), key=lambda each: each.generation)
            items = [each for item in items for each in every if each.key == item.key]
        content = {
            "kind": "storage#objects",
            "items": [self._resource(item, request) for item in items],
            "prefixes": prefixes,
            "nextPageToken": token,
        }
        return self._json(request, {name: value for name, value in content.items() if value})

    def patch(self, request: Request) -> Response:
        changes = settable(request.json())
        found = self._found_for_change(request)
        fields: dict[str, Any] = {**found.fields, **changes}
        if "metadata" in changes:
            fields["metadata"] = {**found.fields.get("metadata", {}), **(changes["metadata"] or {})}
            for name, value in list(fields["metadata"].items()):
                if value is None:
                    del fields["metadata"][name]
        return self._amend(request, {name: v for name, v in fields.items() if v is not None})

    def update(self, request: Request) -> Response:
        # The client sends back the resource that it got, of which only these count.
        fields = settable(request.json(), besides=_COMPUTED | {"acl", "owner"})
        self._found_for_change(request)
        return self._amend(request, fields)

    def delete(self, request: Request) -> Response:
        self._store.delete(request.bucket or "", request.key or "", request.query)
        return Response(204)

    def compose(self, request: Request) -> Response:
        content = request.json()
        if content.keys() - {"kind", "sourceObjects", "destination"}:
            raise bad_request("Parse Error")
        sources = content.get("sourceObjects") or []
        if not 1 <= len(sources) <= 32:
            raise bad_request("The number of source components must be between 1 and 32.")
        fields = settable(content.get("destination") or {}, besides=_COMPUTED)
        with self._store.lock:
            parts = [self._component(request.bucket or "", source) for source in sources]
            made = self._store.put(
                request.bucket or "",
                request.key or "",
                b"".join(part.data for part in parts),
                fields,
                Conditions.of(request.query),
                components=sum(part.components or 1 for part in parts),
            )
        return self._shown(request, made)

    def get_bucket(self, request: Request) -> Response:
        return self._json(
            request, _bucket_resource(self._store.bucket(request.bucket or "", "read"))
        )

    def insert_bucket(self, request: Request) -> Response:
        content = request.json()
        name = content.pop("name", "")
        if not _BUCKET_NAME.fullmatch(name):
            raise bad_request(f"Invalid bucket name: '{name}'")
        if content.keys() - {"location", "storageClass", "iamConfiguration", "labels"}:
            raise bad_request(f"Invalid JSON payload received. Unknown name {sorted(content)}")
        if "project" not in request.query:
            raise bad_request("Required parameter: project")
        return self._json(request, _bucket_resource(self._store.create_bucket(name, content)))

    def list_buckets(self, request: Request) -> Response:
        if "project" not in request.query:
            raise bad_request("Required parameter: project")
        with self._store.lock:
            items = [_bucket_resource(bucket) for bucket in self._store.buckets.values()]
        return self._json(request, {"kind": "storage#buckets", "items": items})

    def _found(self, request: Request) -> FakeObject:
        generation = whole_number("generation", request.query.get("generation"))
        conditions = Conditions.of(request.query)
        with self._store.lock:
            return self._store.find(request.bucket or "", request.key or "", conditions, generation)

    def _found_for_change(self, request: Request) -> FakeObject:
        bucket = self._store.bucket(request.bucket or "", "write")
        found = bucket.objects.get(request.key or "")
        if found is None:
            raise self._store.no_such_object(request.bucket or "", request.key or "")
        return found

    def _amend(self, request: Request, fields: Mapping[str, Any]) -> Response:
        made = self._store.amend(request.bucket or "", request.key or "", fields, request.query)
        return self._shown(request, made)

    def _component(self, bucket: str, source: Mapping[str, Any]) -> FakeObject:
        conditions = Conditions.of(source.get("objectPreconditions") or {})
        generation = whole_number("generation", source.get("generation"))
        try:
            return self._store.find(bucket, source.get("name", ""), conditions, generation)
        except ApiError as error:
            raise (ApiError(412, error.message) if error.status == 304 else error) from None

    def _shown(self, request: Request, found: FakeObject) -> Response:
        return self._json(request, self._resource(found, request))

    def _resource(self, found: FakeObject, request: Request) -> dict[str, Any]:
        return resource(found, request.base_url, self._store.testbench)

    @staticmethod
    def _json(request: Request, content: Mapping[str, Any]) -> Response:
        return json_response(listing.mask(content, request.query.get("fields"), KNOWN_FIELDS))


def _range(wanted: str, size: int) -> tuple[int, int]:
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
    if not match or match.groups() == ("", ""):
        raise bad_request(f"Invalid range {wanted!r}")
    first, last = match.groups()
    if not first:
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), min(int(last) + 1 if last else size, size)
    if start >= stop:
        refused = ApiError(416, "The requested range cannot be satisfied.", "InvalidRange")
        refused.headers = [("Content-Range", f"bytes */{size}")]
        raise refused
    return start, stop


def _bucket_resource(bucket: Bucket) -> dict[str, Any]:
    return {
        "kind": "storage#bucket",
        "id": bucket.name,
        "name": bucket.name,
        "projectNumber": "1234567890",
        "metageneration": "1",
        "location": "US-EAST1",
        "locationType": "region",
        "storageClass": "STANDARD",
        **bucket.fields,
    }
