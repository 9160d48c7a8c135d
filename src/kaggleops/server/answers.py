"""How MLflow's answers are changed: mistakes get a reason, downloads take little memory."""

import json
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import anyio
from flask import Response, request
from graphql import GraphQLError
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from starlette.middleware.wsgi import WSGIResponder
from starlette.types import Receive, Scope, Send
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
    if problem := _problem():
        doing = f"reading what was sent to {request.path}"
        return _as_response(MlflowException(f"{doing}: {problem}.", INVALID_PARAMETER_VALUE))
    return None


def _problem() -> str:
    content: Any = {}
    if request.content_length and not request.path.endswith(_CONTENT_IS_NO_JSON):
        content = request.get_json(force=True, silent=True)
        if isinstance(content, str):  # as old clients send it
            with suppress(ValueError):
                content = json.loads(content)
        if not isinstance(content, dict):
            return "it is not a JSON object"
    if request.path == "/graphql" and not isinstance(content.get("query"), str):
        return "it contains no query"
    # One that would keep MLflow busy while all others wait.
    for asked in (request.args.get("filter"), content.get("filter")):
        if isinstance(asked, str) and (len(asked) > _LONGEST or asked.lower().count("and") > _MOST):
            return f"a filter has {_LONGEST:,} characters and {_MOST} conditions at most"
    return ""


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

_MOST_WAITING = 2  # parts of a response, of 1 MB each at most: with those in hand it is 4 MB


class Wsgi:
    """An ASGI application that a WSGI application answers, as Starlette's `WSGIMiddleware`.

    There a response waits in a queue without a limit: 200 MB read from the disk are in memory for a
    slow browser. Here the producer waits instead.
    """

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        responder = WSGIResponder(self._closed, scope)
        for unlimited in (responder.stream_send, responder.stream_receive):
            await unlimited.aclose()
        queue = anyio.create_memory_object_stream[MutableMapping[str, Any]](_MOST_WAITING)
        responder.stream_send, responder.stream_receive = queue
        await responder(receive, send)

    def _closed(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[Any]:
        # Starlette does not close it: that deletes the temporary file of an artifact.
        with closing(self._app(environ, start_response)) as parts:
            yield from parts
