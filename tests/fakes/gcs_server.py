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

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from tests.fakes.faults import Fault, Faults
from tests.fakes.gcs.objects import Objects
from tests.fakes.gcs.routes import Route, Router
from tests.fakes.gcs.store import ApiError, Conditions, FakeObject, Store
from tests.fakes.gcs.uploads import Uploads
from tests.fakes.gcs.wire import Request, Response, error_response
from tests.fakes.wire import Delivery, HttpServer


@dataclass(frozen=True)
class Logged:
    """One request that has been answered. `cls` is its price class: "A", "B" or "free"."""

    method: str
    op: str
    cls: str
    bucket: str | None
    key: str | None
    status: int
    """0 where the connection was broken off instead."""
    message: str = ""


class GcsServer:
    """The server, from `start` (or `with`) until `stop`.

    Args:
        latency: seconds that each request takes longer.
    """

    def __init__(self, latency: float = 0.0) -> None:
        self.latency = latency
        self._store = Store()
        self._uploads = Uploads(self._store)
        self._router = Router(Objects(self._store), self._uploads)
        self._faults = Faults()
        self._stopping = threading.Event()
        self._log: list[Logged] = []
        self._http: HttpServer | None = None
        self.url = ""

    def start(self) -> "GcsServer":
        self._http = HttpServer(self._answer, Request)
        self.url = self._http.url
        return self

    def stop(self) -> None:
        """Stop; nothing is left of it.

        Raises:
            RuntimeError: the fake itself has a bug that a request ran into.
        """
        self._stopping.set()
        if self._http:
            self._http.stop()
            if self._http.broken:
                raise RuntimeError("the fake broke:\n" + "\n".join(self._http.broken))

    def __enter__(self) -> "GcsServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

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

    def delete_bucket(self, name: str) -> None:
        with self._store.lock:
            del self._store.buckets[name]

    def objects(self, bucket: str) -> Mapping[str, FakeObject]:
        """Return what the bucket holds now, by key."""
        with self._store.lock:
            return dict(self._store.buckets[bucket].objects)

    def put(self, bucket: str, key: str, data: bytes, **fields: Any) -> FakeObject:
        """Write as somebody else would, past all faults and counters."""
        return self._store.put(bucket, key, data, fields, Conditions())

    def age(self, bucket: str, key: str, hours: float) -> None:
        """Let an object have been written so many hours earlier."""
        with self._store.lock:
            objects = self._store.buckets[bucket].objects
            then = datetime.fromisoformat(objects[key].updated) - timedelta(hours=hours)
            updated = then.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            objects[key] = replace(objects[key], updated=updated)

    def remove(self, bucket: str, key: str) -> None:
        """Delete as somebody else would, past all faults and counters."""
        self._store.delete(bucket, key, {})

    def deny(
        self, bucket: str, *, read: bool = False, write: bool = False, status: int = 403
    ) -> None:
        """Refuse reads (lists included) or writes (deletions included), until `allow`."""
        with self._store.lock:
            denied = self._store.buckets[bucket].denied
            denied.update({"read": status} if read else {}, **({"write": status} if write else {}))

    def allow(self, bucket: str) -> None:
        with self._store.lock:
            self._store.buckets[bucket].denied.clear()

    # What was asked of it

    @property
    def requests(self) -> list[Logged]:
        """Every request answered since the last `reset_counts`, failed ones included."""
        return list(self._log)

    def count(self, cls: str) -> int:
        """Return how many of them were of class "A", "B" or "free"."""
        return sum(logged.cls == cls for logged in self._log)

    def reset_counts(self) -> None:
        self._log.clear()

    @property
    def connections(self) -> int:
        """How many connections have been made to it so far."""
        return self._http.accepted if self._http else 0

    # Misbehaviour

    def fail(
        self,
        kind: int | str = 503,
        *,
        times: int | None = 1,
        op: str | None = None,
        key: str | None = None,
        where: Callable[[Request], bool] = lambda request: True,
        retry_after: float | None = None,
        message: str | None = None,
        then: Callable[[], object] = lambda: None,
        probability: float = 1.0,
        seed: int = 0,
        status: int = 200,
    ) -> Fault:
        """Let requests fail.

        Args:
            kind: a status to answer instead; "reset" (the connection, before anything is done);
                "lost-response" (done, then reset); "truncate" (done, half of the answer sent);
                "corrupt" (a byte of the content changed, either way); "partial" (less taken of a
                chunk than was sent); "hang" (until `release`); "late" (done, and answered after
                `release`); "stall" (done, half of the answer sent, the rest after `release`); or
                what a proxy does: "page" (its login page with `status`, nothing done), "redirect"
                (to that page, nothing done), "garbled" (done, the JSON cut in half).
            times: how many requests at most; None for all until `heal`.
            op: only this operation ("objects.insert", …).
            key: only this object's.
            where: only requests that this accepts.
            retry_after: seconds to put into the answer's Retry-After.
            message: what to say along with the status.
            then: called each time it has struck, before the client hears of it.
            probability: of each request to be struck, decided by a generator seeded with `seed`.
            seed: see `probability`.
            status: that of a "page".
        """

        def chosen(request: Request) -> bool:
            meant = op in (None, request.op) and key in (None, request.key)
            return meant and _can_have(kind, request) and where(request)

        return self._faults.add(
            Fault(kind, times, chosen, retry_after, message, then, probability, seed, status)
        )

    def heal(self) -> None:
        """End all misbehaviour."""
        self._faults.clear()

    def expire_uploads(self) -> None:
        """Forget all resumable uploads that have begun."""
        self._uploads.expire()

    def _answer(self, request: Request) -> tuple[Response, Delivery]:
        self._stopping.wait(self.latency)
        message = ""
        fault = None
        if request.path == _LOGIN:
            return _login_page(200), "whole"
        try:
            route = self._router.route(request)
            fault = self._faults.strike(request)
            response, delivery = self._struck(fault, route, request)
        except ApiError as error:
            message = error.message
            response = error_response(error, plain=request.op == "objects.get_media")
            delivery = "whole"
        status = 0 if delivery == "not" else response.status
        logged = Logged(
            request.method, request.op, request.cls, request.bucket, request.key, status, message
        )
        self._log.append(logged)
        if fault:
            fault.then()
        return response, delivery

    def _struck(
        self, fault: Fault | None, route: Route, request: Request
    ) -> tuple[Response, Delivery]:
        """Answer as the fault, if there is one, has it."""
        kind = fault.kind if fault else None
        if fault and isinstance(kind, int):
            raise _refusal(fault, kind)
        if kind == "reset":
            return Response(0), "not"
        if fault and kind == "page":
            return _login_page(fault.status), "whole"
        if kind == "redirect":
            return Response(302, [("Location", f"{self.url}{_LOGIN}")]), "whole"
        if fault and kind == "hang":
            fault.hang(self._stopping)
        request.damage = kind if kind in ("corrupt", "partial") else None
        response = route.answer(request)
        if kind == "corrupt" and response.media and response.body:
            response.body = bytes([response.body[0] ^ 0xFF]) + response.body[1:]
        if kind == "garbled":
            response.body = response.body[: len(response.body) // 2]
        if fault and kind == "late":
            fault.hang(self._stopping)
        if fault and kind == "stall":
            response.stream = _stalling(response.body, lambda: fault.hang(self._stopping))
        delivery = {"truncate": "half", "lost-response": "not"}.get(str(kind), "whole")
        return response, delivery


def _refusal(fault: Fault, status: int) -> ApiError:
    error = ApiError(status, fault.message or "We encountered an internal error.", "backendError")
    if fault.retry_after is not None:
        error.headers = [("Retry-After", f"{fault.retry_after:g}")]
    return error


_LOGIN = "/login"


def _login_page(status: int) -> Response:
    page = b"<!DOCTYPE html>\n<html><title>Guest network</title><body>Log in</body></html>"
    return Response(status, [("Content-Type", "text/html")], page)


def _stalling(body: bytes, wait: Callable[[], None]) -> Iterator[bytes]:
    half = max(1, len(body) // 2)
    yield body[:half]
    wait()
    if body[half:]:
        yield body[half:]


def _can_have(kind: int | str, request: Request) -> bool:
    if kind == "garbled":
        return request.op not in ("objects.get_media", "objects.delete", "uploads.status")
    if kind == "partial":
        return request.op == "uploads.chunk"
    return kind != "corrupt" or _has_content(request)


def _has_content(request: Request) -> bool:
    if request.op == "objects.insert":
        return request.query.get("uploadType") != "resumable"  # which only begins it
    return request.op in ("objects.get_media", "uploads.chunk")
