"""A Cloud Storage of our own on a loopback port, for Google's real clients to talk to.

Strict: what it does not know is a 400, so that nothing passes here that the real service refuses.
It keeps generations and preconditions to the letter, which the emulators on PyPI do not.

    with GcsServer() as server:
        server.create_bucket("b")
        os.environ["STORAGE_EMULATOR_HOST"] = server.url

It speaks two dialects: the service's, and that of Google's storage-testbench, which words and times
some refusals otherwise (`server.testbench = True`; its new buckets keep old generations, too).

Left out because nobody here asks for it: ACLs, holds, folders, encryption keys, notifications, the
XML API, gRPC and batches.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar

from tests.fakes import object_server
from tests.fakes.gcs.objects import Objects
from tests.fakes.gcs.routes import Router
from tests.fakes.gcs.store import ApiError, Conditions, FakeObject, Store
from tests.fakes.gcs.uploads import Uploads
from tests.fakes.gcs.wire import Request, Response, error_response
from tests.fakes.object_server import ObjectServer, RefusedError


class GcsServer(ObjectServer):
    """The server, from `start` (or `with`) until `stop`. See `ObjectServer`."""

    request_type = Request
    verbs: ClassVar = {
        "read": ("objects.get_media",),
        "write": ("objects.insert", "uploads.chunk"),
        "list": ("objects.list",),
        "delete": ("objects.delete",),
    }

    def __init__(self, latency: float = 0.0) -> None:
        super().__init__(latency)
        self._store = Store()
        self._uploads = Uploads(self._store)
        self._router = Router(Objects(self._store), self._uploads)

    # What is in it

    @property
    def testbench(self) -> bool:
        """Whether it speaks the testbench's dialect."""
        return self._store.testbench

    @testbench.setter
    def testbench(self, speaks: bool) -> None:
        self._store.testbench = speaks

    def create_bucket(self, name: str, *, versioned: bool = False) -> None:
        """Make a bucket; a versioned one keeps old generations and deletes softly."""
        policy = {"softDeletePolicy": {"retentionDurationSeconds": "604800"}} if versioned else {}
        made = self._store.create_bucket(name, dict(policy))
        made.versioned = made.versioned or versioned

    def address(self, bucket: str, prefix: str = "") -> str:
        return f"gs://{bucket}" + (f"/{prefix}" if prefix else "")

    def delete_bucket(self, name: str) -> None:
        with self._store.lock:
            del self._store.buckets[name]

    def objects(self, bucket: str) -> Mapping[str, FakeObject]:
        with self._store.lock:
            return dict(self._store.buckets[bucket].objects)

    def put(self, bucket: str, key: str, data: bytes, **fields: Any) -> FakeObject:
        return self._store.put(bucket, key, data, fields, Conditions())

    def age(self, bucket: str, key: str, hours: float) -> None:
        with self._store.lock:
            objects = self._store.buckets[bucket].objects
            then = datetime.fromisoformat(objects[key].updated) - timedelta(hours=hours)
            updated = then.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            objects[key] = replace(objects[key], updated=updated)

    def remove(self, bucket: str, key: str) -> None:
        self._store.delete(bucket, key, {})

    def deny(
        self, bucket: str, *, read: bool = False, write: bool = False, status: int = 403
    ) -> None:
        with self._store.lock:
            denied = self._store.buckets[bucket].denied
            denied.update({"read": status} if read else {}, **({"write": status} if write else {}))

    def allow(self, bucket: str) -> None:
        with self._store.lock:
            self._store.buckets[bucket].denied.clear()

    def expire_uploads(self) -> None:
        """Forget all resumable uploads that have begun."""
        self._uploads.expire()

    def _route(self, request: Request) -> Callable[[Any], Response]:  # type: ignore[override]
        return self._router.route(request).answer

    def _refused(self, request: object_server.Request, error: RefusedError) -> Response:
        return error_response(error, plain=request.op == "objects.get_media")

    def _failure(self, status: int, message: str | None) -> RefusedError:
        return ApiError(status, message or "We encountered an internal error.", "backendError")

    def _can_have(self, kind: int | str, request: object_server.Request) -> bool:
        if kind == "garbled":
            return request.op not in ("objects.get_media", "objects.delete", "uploads.status")
        if kind == "partial":
            return request.op == "uploads.chunk"
        return kind != "corrupt" or _has_content(request)


def _has_content(request: Request) -> bool:
    if request.op == "objects.insert":
        return request.query.get("uploadType") != "resumable"  # which only begins it
    return request.op in ("objects.get_media", "uploads.chunk")
