"""How MLflow's answers are changed: mistakes get a reason, downloads take little memory."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
from flask import Response, request
from graphql import GraphQLError
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from werkzeug.exceptions import HTTPException

if TYPE_CHECKING:
    from flask import Flask

# -- mistakes ---------------------------------------------------------------------------------
# MLflow takes every request for one of its own clients', and fails over any other: with status 500,
# which clients repeat for minutes, and without a reason.

_CONTENT_IS_NO_JSON = "/upload-artifact"
_LONGEST, _MOST = 20_000, 100  # of a filter: read in under a second


def answer_mistakes(app: "Flask") -> None:
    """Let MLflow's application, after its password check, answer any request with a reason."""
    app.before_request(_refuse_content)
    app.register_error_handler(Exception, _answer)


def _refuse_content() -> Response | None:
    return _problem_with(request.args.get("filter")) or _refuse_body()


def _problem_with(asked: object) -> Response | None:
    """Refuse a filter that would keep MLflow busy while all others wait."""
    if isinstance(asked, str) and (len(asked) > _LONGEST or asked.lower().count("and") > _MOST):
        return _refused(f"a filter has {_LONGEST:,} characters and {_MOST} conditions at most")
    return None


def _refuse_body() -> Response | None:
    if not request.content_length or request.path.endswith(_CONTENT_IS_NO_JSON):
        return None if request.path != "/graphql" else _refused("it contains no query")
    content = request.get_json(force=True, silent=True)
    if isinstance(content, str):  # as old clients send it
        try:
            content = json.loads(content)
        except ValueError:
            content = None
    if not isinstance(content, dict):
        return _refused("it is not a JSON object")
    if request.path == "/graphql" and not isinstance(content.get("query"), str):
        return _refused("it contains no query")
    return _problem_with(content.get("filter"))


def _refused(problem: str) -> Response:
    doing = f"reading what was sent to {request.path}"
    return _as_response(MlflowException(f"{doing}: {problem}.", INVALID_PARAMETER_VALUE))


def _answer(error: Exception) -> Response | HTTPException:
    from kaggleops.index.write_through import as_answer

    if isinstance(error, HTTPException):
        return error
    if isinstance(error, GraphQLError):
        return _as_response(MlflowException(error.message, INVALID_PARAMETER_VALUE))
    return _as_response(as_answer(error))


def _as_response(error: MlflowException) -> Response:
    content = error.serialize_as_json()
    return Response(content, error.get_http_status_code(), mimetype="application/json")


# -- downloads --------------------------------------------------------------------------------
# MLflow's web application hands a response to the ASGI side through a queue without a limit: 200 MB
# read from the disk wait there in memory for a slow browser. Here the producer waits instead.

_MOST_WAITING = 4 << 20  # bytes of one response

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Flow:
    """The bytes of a response that are produced and not sent; used in the event loop only."""

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
"""Of the response being produced; a thread that works for a request has its context."""


def produce_slowly(app: WsgiApp) -> WsgiApp:
    """Let a WSGI application wait until there is room for more of its response."""

    def slow(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        flow = _flow.get()
        response = app(environ, start_response)
        try:
            for chunk in response:
                if flow is not None:
                    # Also stops waiting if the request is given up.
                    anyio.from_thread.run(flow.produced, len(chunk))
                yield chunk
        finally:
            if close := getattr(response, "close", None):
                close()  # deletes the temporary file of an artifact

    return slow


def count_sent(app: ASGIApp) -> ASGIApp:
    """Let an ASGI application tell `produce_slowly` what was sent."""

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
