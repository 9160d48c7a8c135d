"""Who gets in: requests to a name of this server's, from its own pages, for what it offers.

A web page of somebody else's can send requests to this machine through the browser of whoever looks
at it: to another port of `localhost`, or to a name of its own that it lets point here. MLflow's own
guard takes `10.evil.com` for an address and lets every page of this machine write, so that one is
switched off, and this one stands before everything.
"""

import json
import re
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kaggleops.printable import printable
from kaggleops.server.routes import reason_against

Address = IPv4Address | IPv6Address

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:[0-9]{1,5})?")
_SHOWN_IN_A_NOTEBOOK = "/static-files/lib/notebook-trace-renderer/"
_ASKED = (b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode")
_APIS = ("/api/", "/ajax-api/", "/v1/")
_CODES = {
    403: "PERMISSION_DENIED",
    404: "ENDPOINT_NOT_FOUND",
    413: "REQUEST_LIMIT_EXCEEDED",
    501: "NOT_IMPLEMENTED",
    503: "TEMPORARILY_UNAVAILABLE",
}

_MOST = 32 << 20
"""Bytes in a request: twice the largest field that MLflow takes, a dataset's profile."""

_MOST_AT_ONCE = 128 << 20
"""Bytes in all requests that are being answered: each lies in memory as a whole."""

_SMALL = 1 << 20
"""Bytes in a request that waits for no other: nobody keeps the others out by sending slowly."""


class Refusal(NamedTuple):
    """Why a request is not let in."""

    status: int
    reason: str

    def response(self, path: str) -> Response:
        """Return the answer to a request for a path: one line."""
        line = printable(self.reason)
        headers = {"X-Content-Type-Options": "nosniff"}
        if self.status in (413, 503):
            headers["Connection"] = "close"  # or else all that is sent would be read, and dropped
        if path.startswith(_APIS):  # as MLflow's clients and its UI read an error
            content = json.dumps({"error_code": _CODES[self.status], "message": line})
            return Response(content, self.status, headers, "application/json")
        return Response(f"{line}\n", self.status, headers, "text/plain")


def not_offered(method: str, path: str) -> Refusal:
    """Return the refusal of what is not offered."""
    doing = f"{method} {path[:200]} is not offered here"
    reason = reason_against(path)
    return Refusal(501, f"{reason} ({doing})") if reason else Refusal(404, doing)


class Door:
    """An application (ASGI) behind a door.

    Args:
        app: what is behind it.
        offers: tells whether that answers a method and a path.
        listens: the address of this machine on which it listens. Where that is all of them, any
            address is this server's: to let a name point to it takes a name.
        names: what else it is called; loopback is known.
    """

    def __init__(
        self,
        app: ASGIApp,
        offers: Callable[[str, str], bool],
        listens: Address,
        names: Iterable[str] = (),
    ) -> None:
        self._app = app
        self._offers = offers
        self._listens = listens
        self._names = {"localhost", *(each.lower() for each in names)}
        self._held = 0
        """Bytes of the requests that are being answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        if scope["type"] == "websocket":  # nothing here talks that way
            return await send({"type": "websocket.close"})
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if refusal := self._refusal(scope):
            return await refusal.response(scope["path"])(scope, receive, send)
        content: list[bytes] = []
        try:
            # Before anybody is asked for a password.
            if refusal := await self._read(receive, content):
                return await refusal.response(scope["path"])(scope, receive, send)
            content[:] = [b"".join(content)]
            return await self._answer(scope, receive, send, content[0])
        finally:
            self._held -= sum(map(len, content))

    async def _read(self, receive: Receive, content: list[bytes]) -> Refusal | None:
        """Read what a request holds, if that is not too much."""
        size, more = 0, True
        while more:
            message = await receive()
            part = message.get("body", b"")
            content.append(part)
            size += len(part)
            self._held += len(part)
            if size > _MOST:
                return Refusal(413, f"a request holds {_MOST >> 20} MiB at most")
            if size > _SMALL and self._held > _MOST_AT_ONCE:
                return Refusal(503, "too much is sent here at once: try again later")
            more = message.get("more_body", False)
        return None

    async def _answer(self, scope: Scope, receive: Receive, send: Send, content: bytes) -> None:
        given: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

        async def receive_whole() -> Message:
            return given.pop() if given else await receive()

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), _NO_SNIFFING]
                if not scope["path"].startswith(_SHOWN_IN_A_NOTEBOOK):
                    message["headers"].append(_NO_FRAMES)
            await send(message)

        await self._app(scope, receive_whole, send_guarded)

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            if name in _ASKED:
                key = name.decode()
                if key in headers:
                    return Refusal(403, f"there is more than one header {key!r}")
                headers[key] = value.decode("latin-1").lower()
        host = headers.get("host", "")
        if not self._is_called(host):
            hint = "if it should be: kaggleops serve --host-name NAME"
            return Refusal(403, f"this server is not called {host[:200]!r}; {hint}")
        origin = headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return Refusal(
                403, f"a page of {origin[:200]!r} is not one of {host!r}, this server's own"
            )
        method, path = scope["method"], scope["path"]
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not (
            method in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate"
        ):
            return Refusal(403, "another page than this server's own asks for this")
        return None if self._offers(method, path) else not_offered(method, path)

    def _is_called(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1]
        if name in self._names:
            return True
        try:
            address = ip_address(name.strip("[]"))
        except ValueError:
            return False
        return address.is_loopback or address == self._listens or self._listens.is_unspecified


_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
_NO_FRAMES = (b"x-frame-options", b"SAMEORIGIN")
