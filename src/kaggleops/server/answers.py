"""How MLflow's answers are changed: mistakes get a reason, downloads little memory, pages speed."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
from flask import Response, request
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from graphql import GraphQLError
from mlflow.exceptions import MlflowException
from mlflow.protos import service_pb2
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.utils.proto_json_utils import message_to_json
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as AsgiMessage
from werkzeug.exceptions import HTTPException

from kaggleops.index.search import PAGE, as_json, plain

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

        async def send_counted(message: AsgiMessage) -> None:
            await send(message)
            flow.sent(len(message.get("body", b"")))

        return await app(scope, receive, send_counted)

    return counting


# -- pages of runs, and charts ----------------------------------------------------------------
# Half of the time of a search was spent on protobuf messages and JSON: MLflow makes one for each of
# some 6,000 params, tags and metrics of a page of 100 runs, and goes through them three more times
# to write them: protobuf's own conversion, which puts integers into strings, a second one which
# brings them back, and Python's slow way to JSON, for the sake of line breaks
# (`mlflow/utils/proto_json_utils.py`, 3.17). What runs have logged never becomes messages here
# (search.py). The points of a chart do, and hold nothing but texts and numbers: one pass is enough.

_HISTORIES = (
    service_pb2.GetMetricHistory.Response,
    service_pb2.GetMetricHistoryBulkInterval.Response,
)
_PLAIN = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_DOUBLE)


def write_quickly(app: "Flask") -> None:
    """Let MLflow's application answer searches for runs and charts this way."""
    from mlflow.server import handlers

    def quickly(view: Callable[..., Any]) -> Callable[..., Any]:
        def search(*args: Any, **kwargs: Any) -> Any:
            token = PAGE.set({})
            try:
                return view(*args, **kwargs)
            finally:
                PAGE.reset(token)

        return search

    points = (service_pb2.Metric, service_pb2.MetricWithRunId)
    if all(_is_plain(each.DESCRIPTOR) for each in points):
        handlers.message_to_json = to_json
        for name in {each.endpoint for each in app.url_map.iter_rules() if _searches(each.rule)}:
            app.view_functions[name] = quickly(app.view_functions[name])


def _searches(path: str) -> bool:
    return path.endswith("/mlflow/runs/search")


def to_json(message: Message, **options: Any) -> str:
    """Write an answer as MLflow does (runs and points without line breaks), and empty it."""
    if isinstance(message, _HISTORIES):
        points = [_plain(each) for each in message.metrics]
        message.ClearField("metrics")
        history = json.loads(message_to_json(message, **options))
        return _compact(history | ({"metrics": points} if points else {}))
    written = str(message_to_json(message, **options))
    logged = PAGE.get()
    if not logged or not isinstance(message, service_pb2.SearchRuns.Response):
        return written
    page = json.loads(written)
    for run in page["runs"]:
        run["data"] = plain(logged[run["info"]["run_id"]])
    return _compact(page)


def _compact(content: object) -> str:
    return json.dumps(content, separators=(",", ":"))


def _plain(message: Message) -> dict[str, Any]:
    values = {field.name: value for field, value in message.ListFields()}
    value = values.get("value")
    if type(value) is float:
        values["value"] = as_json(value)
    return values


def _is_plain(descriptor: Descriptor) -> bool:
    return all(field.type in _PLAIN for field in descriptor.fields)
