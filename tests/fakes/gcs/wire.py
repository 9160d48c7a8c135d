"""What Cloud Storage's requests and answers have beyond HTTP: what they are about, and JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.fakes import object_server
from tests.fakes.gcs.store import bad_request
from tests.fakes.object_server import RefusedError, Response


@dataclass
class Request(object_server.Request):
    """One request, and once it has been routed what it is about."""

    def json(self) -> dict[str, Any]:
        return parse_json(self.body)


def parse_json(text: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except ValueError:
        raise bad_request("Parse Error") from None
    if not isinstance(parsed, dict):
        raise bad_request("Parse Error")
    return parsed


def json_response(content: Mapping[str, Any], status: int = 200) -> Response:
    body = json.dumps(content).encode()
    return Response(status, [("Content-Type", "application/json; charset=UTF-8")], body)


def error_response(error: RefusedError, *, plain: bool) -> Response:
    """Return Cloud Storage's JSON of an error; downloads get the message alone."""
    if error.status == 304:
        return Response(304)
    if plain:
        headers = [("Content-Type", "text/html; charset=UTF-8"), *error.headers]
        return Response(error.status, headers, error.message.encode())
    detail = {"message": error.message, "domain": "global", "reason": getattr(error, "reason", "")}
    content = {"code": error.status, "message": error.message, "errors": [detail]}
    response = json_response({"error": content}, error.status)
    response.headers += error.headers
    return response
