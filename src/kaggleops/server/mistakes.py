"""What is answered to a question that MLflow's web application does not understand.

It takes every question for one of its own clients', and fails over any other: with status 500,
which clients repeat for minutes, and without a reason.
"""

import json
from typing import TYPE_CHECKING

from flask import Response, request
from graphql import GraphQLError
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from werkzeug.exceptions import HTTPException

if TYPE_CHECKING:
    from flask import Flask

_CONTENT_IS_NO_JSON = "/upload-artifact"
_LONGEST, _MOST = 20_000, 100  # of a filter: read in under a second


def answer_mistakes(app: "Flask") -> None:
    """Let an application answer with a status and a reason whatever it is asked.

    Args:
        app: MLflow's, with its passwords if it has some: who does not know one learns nothing.
    """
    app.before_request(_refuse_content)
    app.register_error_handler(Exception, _answer)


def _refuse_content() -> Response | None:
    return _problem_with(request.args.get("filter")) or _refuse_body()


def _problem_with(asked: object) -> Response | None:
    """Refuse a filter that takes MLflow longer to read than all others wait."""
    if isinstance(asked, str) and (len(asked) > _LONGEST or asked.lower().count("and") > _MOST):
        problem = f"a filter has {_LONGEST:,} characters and {_MOST} conditions at most"
        return _refused(problem)
    return None


def _refuse_body() -> Response | None:
    if not request.content_length or request.path.endswith(_CONTENT_IS_NO_JSON):
        return None if request.path != "/graphql" else _refused("it holds no query")
    content = request.get_json(force=True, silent=True)
    if isinstance(content, str):  # as old clients send it
        try:
            content = json.loads(content)
        except ValueError:
            content = None
    if not isinstance(content, dict):
        return _refused("it is no object in JSON")
    if request.path == "/graphql" and not isinstance(content.get("query"), str):
        return _refused("it holds no query")
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
