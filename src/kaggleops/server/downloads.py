"""Lets an artifact of any size pass through the server without ever being in memory as a whole.

MLflow's web application hands a response to the ASGI side through a queue without a limit: 200 MB
read from the disk wait there in memory for a slow browser. Here, whoever produces waits instead.
"""

from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.from_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MOST_WAITING = 4 << 20  # bytes of one response

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Flow:
    """Counts what of one response was produced and not yet sent. Used in the event loop only."""

    def __init__(self) -> None:
        self._waiting = 0
        self._sent = anyio.Event()

    async def produced(self, size: int) -> None:
        """Return when there is room for this much more."""
        while self._waiting > _MOST_WAITING:
            self._sent = anyio.Event()
            await self._sent.wait()
        self._waiting += size

    def sent(self, size: int) -> None:
        self._waiting -= size
        self._sent.set()


_flow: ContextVar[_Flow | None] = ContextVar("flow", default=None)
"""Of the response that is being made; a thread that works for a request has its context."""


def produce_slowly(app: WsgiApp) -> WsgiApp:
    """Return the web application (WSGI) with responses that wait until there is room for them."""

    def slow(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        flow = _flow.get()
        response = app(environ, start_response)
        try:
            for chunk in response:
                if flow is not None:
                    # Also ends this thread's waiting if the request is given up.
                    anyio.from_thread.run(flow.produced, len(chunk))
                yield chunk
        finally:
            if close := getattr(response, "close", None):
                close()  # deletes the temporary file that an artifact was brought into

    return slow


def count_sent(app: ASGIApp) -> ASGIApp:
    """Return the application (ASGI) that tells `produce_slowly` what was sent."""

    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        flow = _Flow()
        _flow.set(flow)

        async def send_counted(message: Message) -> None:
            await send(message)
            flow.sent(len(message.get("body", b"")))

        return await app(scope, receive, send_counted)

    return counting
