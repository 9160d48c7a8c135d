"""What the object stores of our own have in common: a log of requests, and misbehaviour."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from tests.fakes import wire
from tests.fakes.faults import Fault, Faults
from tests.fakes.wire import Delivery, HttpServer


@dataclass
class Request(wire.Request):
    """One request, and once it has been routed what it is about."""

    cls: str = "free"
    bucket: str | None = None
    key: str | None = None
    damage: str | None = None
    """A fault has chosen it: what it uploads is to arrive "corrupt" or "partial"."""


@dataclass
class Response(wire.Response):
    media: bool = False
    """The body is an object's content."""


class RefusedError(Exception):
    """A refusal in the service's own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.headers: list[tuple[str, str]] = []


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


class ObjectServer(ABC):
    """A server, from `start` (or `with`) until `stop`.

    Args:
        latency: seconds that each request takes longer.
    """

    request_type: ClassVar[type[Request]] = Request
    verbs: ClassVar[dict[str, tuple[str, ...]]] = {}
    """How the service calls what every kind can do: "read", "write", "list", "delete"."""
    lists_checksums: ClassVar[bool] = True
    """Whether its listings tell them."""
    passing: ClassVar[tuple[int, ...]] = (503, 429)
    """With what it answers whoever had better try again."""

    def __init__(self, latency: float = 0.0) -> None:
        self.latency = latency
        self._faults = Faults()
        self._stopping = threading.Event()
        self._log: list[Logged] = []
        self._http: HttpServer | None = None
        self.url = ""

    def start(self) -> Self:
        self._http = HttpServer(self._answer, self.request_type)
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

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # What each kind has to say

    @abstractmethod
    def _route(self, request: Request) -> Callable[[Any], Response]:
        """Note in the request what it is about, and return what answers it.

        Raises:
            RefusedError: the service knows no such request.
        """

    @abstractmethod
    def _refused(self, request: Request, error: RefusedError) -> Response:
        """Return a refusal as the service writes it (what answers a request may raise one)."""

    @abstractmethod
    def _failure(self, status: int, message: str | None) -> RefusedError:
        """Return what the service says along with a status."""

    @abstractmethod
    def _can_have(self, kind: int | str, request: Request) -> bool:
        """Tell whether such a fault can strike such a request."""

    @abstractmethod
    def create_bucket(self, name: str, *, versioned: bool = False) -> None:
        """Make a bucket; a versioned one keeps what is overwritten or deleted."""

    @abstractmethod
    def delete_bucket(self, name: str) -> None: ...

    @abstractmethod
    def objects(self, bucket: str) -> Mapping[str, Any]:
        """Return what the bucket holds now, by key."""

    @abstractmethod
    def put(self, bucket: str, key: str, data: bytes, **fields: Any) -> Any:
        """Write as somebody else would, past all faults and counters."""

    @abstractmethod
    def remove(self, bucket: str, key: str) -> None:
        """Delete as somebody else would, past all faults and counters."""

    @abstractmethod
    def age(self, bucket: str, key: str, hours: float) -> None:
        """Let an object have been written so many hours earlier."""

    @abstractmethod
    def deny(
        self, bucket: str, *, read: bool = False, write: bool = False, status: int = 403
    ) -> None:
        """Refuse reads (lists included) or writes (deletions included), until `allow`.

        A `status` of 401 says that whoever asks was signed in for too long.
        """

    @abstractmethod
    def allow(self, bucket: str) -> None: ...

    @abstractmethod
    def address(self, bucket: str, prefix: str = "") -> str:
        """Return what this project calls a bucket here."""

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
        where: Callable[[Any], bool] = lambda request: True,
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
                (to that page, nothing done), "garbled" (done, the answer's text cut in half). And
                what S3 can do: "error-in-200" (a refusal, nothing done, under a status of 200).
            times: how many requests at most; None for all until `heal`.
            op: only this operation, as the service calls it ("objects.insert", "PutObject", …) or
                as all do (see `verbs`).
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
            ops = self.verbs.get(op, (op,)) if op else (request.op,)
            meant = request.op in ops and key in (None, request.key)
            return meant and self._can_have(kind, request) and where(request)

        return self._faults.add(
            Fault(kind, times, chosen, retry_after, message, then, probability, seed, status)
        )

    def heal(self) -> None:
        """End all misbehaviour."""
        self._faults.clear()

    def _answer(self, request: Request) -> tuple[Response, Delivery]:
        self._stopping.wait(self.latency)
        message = ""
        fault = None
        if request.path == _LOGIN:
            return _login_page(200), "whole"
        try:
            carry_out = self._route(request)
            fault = self._faults.strike(request)
            response, delivery = self._struck(fault, carry_out, request)
        except RefusedError as error:
            message = error.message
            response = self._refused(request, error)
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
        self, fault: Fault | None, carry_out: Callable[[Any], Response], request: Request
    ) -> tuple[Response, Delivery]:
        """Answer as the fault, if there is one, has it."""
        kind = fault.kind if fault else None
        if fault and isinstance(kind, int):
            refusal = self._failure(kind, fault.message)
            if fault.retry_after is not None:
                refusal.headers = [("Retry-After", f"{fault.retry_after:g}")]
            raise refusal
        if kind == "reset":
            return Response(0), "not"
        if fault and kind == "page":
            return _login_page(fault.status), "whole"
        if kind == "error-in-200":
            response = self._refused(request, self._failure(500, None))
            response.status = 200
            return response, "whole"
        if kind == "redirect":
            return Response(302, [("Location", f"{self.url}{_LOGIN}")]), "whole"
        if fault and kind == "hang":
            fault.hang(self._stopping)
        request.damage = kind if kind in ("corrupt", "partial") else None
        response = carry_out(request)
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
