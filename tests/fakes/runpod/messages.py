"""What goes over the wire: bodies that are checked, answers, problem documents, the live log."""

import json
from collections.abc import Iterator
from typing import Any

from tests.fakes.runpod import contract
from tests.fakes.runpod.pod import Pod
from tests.fakes.wire import Request, Response


class ApiError(Exception):
    """A refusal, as a problem document."""

    def __init__(self, status: int, detail: str, errors: list[str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors or []
        self.headers: list[tuple[str, str]] = []


def shown(pod: Pod, ssh_keys: list[str]) -> dict[str, Any]:
    """Return a pod as the API shows it."""
    body = pod.body
    let_in = body.get("startSsh") and "22/tcp" in body.get("ports", []) and ssh_keys
    direct = {
        "host": "192.0.2.7",
        "port": 34446,
        "username": "root",
        "command": "ssh root@192.0.2.7 -p 34446",
    }
    return {
        "id": pod.id,
        "name": body["name"],
        "status": pod.status,
        "actions": ["terminate"],
        "image": body.get("image", "the template's"),
        "args": body.get("args", ""),
        "disk": body.get("disk", 20),
        "mounts": body.get("mounts", {}),
        "ports": body.get("ports", []),
        "env": body.get("env", {}),
        "registry": body.get("registry"),
        "gpu": {"id": body["gpu"]["id"], "count": body["gpu"].get("count", 1)},
        "cloud": body.get("cloud", "SECURE"),
        "dataCenterId": pod.data_center,
        "cudaVersion": "12.8",
        "ssh": {"proxy": None, "direct": direct if let_in and pod.starts else None},
        "template": None,
        "cost": pod.price if pod.alive else 0.0,
        "locked": False,
        "globalNetworking": {"enabled": False},
        "runtime": None,
        "createdAt": pod.created,
        "startedAt": None,
    }


def stream(events: Iterator[tuple[str, str]], drop: int | None) -> Iterator[bytes]:
    """Yield a log as server-sent events; broken off after `drop` of them."""
    yield b": the log\n\n"
    for number, (when, line) in enumerate(events):
        if number == drop:
            raise ConnectionResetError
        data = json.dumps({"ts": when, "source": "container", "line": line})
        yield f"id: {when}\ndata: {data}\n\n".encode()


def parsed(request: Request, schema: str) -> dict[str, Any]:
    """Return what a request says.

    Raises:
        ApiError: the OpenAPI document does not allow it.
    """
    try:
        body = json.loads(request.body)
    except ValueError:
        raise ApiError(422, "Request validation failed.", ["the body is no JSON"]) from None
    if errors := contract.violations(schema, body):
        raise ApiError(422, "Request validation failed.", errors)
    return dict(body)


def json_response(schema: str, content: dict[str, Any], status: int = 200) -> Response:
    """Return an answer, which the OpenAPI document has to allow too."""
    errors = contract.violations(schema, content)
    assert not errors, errors  # the fake's own mistake
    body = json.dumps(content).encode()
    return Response(status, [("Content-Type", "application/json")], body)


def problem(error: ApiError) -> Response:
    """Return a problem document (RFC 9457)."""
    content = {"title": "Refused", "status": error.status, "detail": error.detail}
    headers = [("Content-Type", "application/problem+json"), *error.headers]
    body = json.dumps(content | ({"errors": error.errors} if error.errors else {})).encode()
    return Response(error.status, headers, body)
