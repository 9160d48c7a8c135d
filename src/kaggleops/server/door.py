"""Which requests get in: to a name of this server, from its own pages, for a route that it offers.

Somebody else's web page can send requests to this machine through the browser of whoever reads it:
to another port of `localhost`, or to a name of its own that points here. MLflow's own guard takes
`10.evil.com` for an address and lets every page of this machine write, so it is switched off, and
this one stands before everything.

A route is a method and a path as MLflow's web application writes it (`<name>` is one part of it).
A new MLflow can bring routes that start programs, call others or hand out files of the server's
machine, and none of them is offered before somebody has put it into `_OFFERED`.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, NamedTuple

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, RequestRedirect

from kaggleops.printable import printable

if TYPE_CHECKING:
    from flask import Flask

Address = IPv4Address | IPv6Address

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:[0-9]{1,5})?")
_SHOWN_IN_A_NOTEBOOK = "/static-files/lib/notebook-trace-renderer/"
_ASKED = (b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode")
_CODES = {
    400: "BAD_REQUEST",
    403: "PERMISSION_DENIED",
    404: "ENDPOINT_NOT_FOUND",
    413: "REQUEST_LIMIT_EXCEEDED",
    501: "NOT_IMPLEMENTED",
    503: "TEMPORARILY_UNAVAILABLE",
}

_MOST = 32 << 20  # bytes in a request: twice the largest field MLflow takes, a dataset's profile
_MOST_AT_ONCE = 128 << 20  # bytes in all requests being answered, each of which is held in memory
_SMALL = 1 << 20  # bytes in a request that waits for no other: sending slowly keeps nobody out


class Refusal(NamedTuple):
    """Why a request is not let in."""

    status: int
    reason: str

    def response(self, path: str) -> Response:
        """Return the answer to a request for a path: one line."""
        line = printable(self.reason)
        headers = {"X-Content-Type-Options": "nosniff"}
        if self.status in (413, 503):
            headers["Connection"] = "close"  # else all that is sent would be read, and dropped
        if path.startswith((*_APIS, "/v1/")):  # as MLflow's clients and its UI read an error
            content = json.dumps({"error_code": _CODES[self.status], "message": line})
            return Response(content, self.status, headers, "application/json")
        return Response(f"{line}\n", self.status, headers, "text/plain")


def not_offered(method: str, path: str) -> Refusal:
    """Return the refusal of what is not offered."""
    doing = f"{method} {path[:200]} is not offered here"
    reason = reason_against(path)
    return Refusal(501, f"{reason} ({doing})") if reason else Refusal(404, doing)


class Door:
    """An ASGI application that only gets requests that are let in.

    Args:
        app: the application.
        offers: returns whether it answers a method and a path.
        listens: the address of this machine on which it listens. If that is all of them, any
            address is this server's: an attacker's page would need a name that points here.
        names: other names of the server; loopback is known.
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
        """Answer a request, or refuse it."""
        if scope["type"] == "websocket":  # nothing here uses them
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
            if message["type"] == "http.disconnect":  # half of a file is not to be kept as one
                return Refusal(400, "the request broke off")
            part = message.get("body", b"")
            content.append(part)
            size += len(part)
            self._held += len(part)
            if size > _MOST:
                return Refusal(413, f"a request holds {_MOST >> 20} MiB at most")
            if size > _SMALL and self._held > _MOST_AT_ONCE:
                return Refusal(503, "too much is being sent here at once: try again later")
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


# -- routes -------------------------------------------------------------------------------------

_OFFERED = """
GET   / /health /version /static-files/<path:path>
GET   /get-artifact /model-versions/get-artifact
POST  /graphql

# Below /api/…/mlflow and, for the UI, /ajax-api/…/mlflow
GET   3.0 server-info

GET   2.0 experiments/get experiments/get-by-name experiments/search
POST  2.0 experiments/create experiments/delete experiments/restore experiments/search
POST  2.0 experiments/update experiments/set-experiment-tag experiments/delete-experiment-tag
POST  /ajax-api/2.0/mlflow/experiments/search-datasets

GET   2.0 runs/get
POST  2.0 runs/create runs/delete runs/restore runs/search runs/update
POST  2.0 runs/log-batch runs/log-inputs runs/log-metric runs/log-model runs/log-parameter
POST  2.0 runs/outputs runs/set-tag runs/delete-tag
GET   2.0 metrics/get-history metrics/get-history-bulk-interval
GET   /ajax-api/2.0/mlflow/metrics/get-history-bulk

GET   2.0 artifacts/list
POST  /ajax-api/2.0/mlflow/upload-artifact

GET   2.0 logged-models/<model_id>
POST  2.0 logged-models logged-models/search logged-models/<model_id>/params
PATCH 2.0 logged-models/<model_id> logged-models/<model_id>/tags
DELETE 2.0 logged-models/<model_id> logged-models/<model_id>/tags/<tag_key>
GET   2.0 logged-models/<model_id>/artifacts/directories
GET   /ajax-api/2.0/mlflow/logged-models/<model_id>/artifacts/files

GET   2.0 registered-models/get registered-models/search registered-models/alias
GET   2.0 registered-models/get-latest-versions
POST  2.0 registered-models/create registered-models/rename registered-models/set-tag
POST  2.0 registered-models/alias registered-models/get-latest-versions
PATCH 2.0 registered-models/update
DELETE 2.0 registered-models/delete registered-models/delete-tag registered-models/alias
GET   2.0 model-versions/get model-versions/search model-versions/get-download-uri
POST  2.0 model-versions/create model-versions/set-tag model-versions/transition-stage
PATCH 2.0 model-versions/update
DELETE 2.0 model-versions/delete model-versions/delete-tag

GET   2.0 traces traces/<request_id>/info
GET   /ajax-api/2.0/mlflow/get-trace-artifact /ajax-api/3.0/mlflow/get-trace-artifact
POST  2.0 traces traces/delete-traces
PATCH 2.0 traces/<request_id> traces/<request_id>/tags
DELETE 2.0 traces/<request_id>/tags
GET   3.0 traces/get traces/batchGet traces/<trace_id>
POST  3.0 traces traces/search traces/batchGetInfos traces/delete-traces traces/metrics
POST  3.0 traces/calculate-filter-correlation traces/<trace_id>/assessments
PATCH 3.0 traces/<trace_id>/tags
DELETE 3.0 traces/<trace_id>/tags
GET   3.0 traces/<trace_id>/assessments/<assessment_id>
PATCH 3.0 traces/<trace_id>/assessments/<assessment_id>
DELETE 3.0 traces/<trace_id>/assessments/<assessment_id>

# With --auth only: these routes are in no other application
GET   /signup
GET   2.0 users/get users/list users/current
POST  2.0 users/create
POST  /api/2.0/mlflow/users/create-ui
PATCH 2.0 users/update-password users/update-admin
DELETE 2.0 users/delete
GET   3.0 users/current/permissions users/permissions/list users/permissions/get users/roles/list
POST  3.0 users/permissions/grant users/permissions/revoke
GET   3.0 roles/get roles/list roles/permissions/list roles/users/list
POST  3.0 roles/create roles/assign roles/permissions/add
PATCH 3.0 roles/update roles/permissions/update
DELETE 3.0 roles/delete roles/unassign roles/permissions/remove
"""

REFUSED = {
    "the assistant starts programs": "3.0/mlflow/assistant",
    "jobs start programs": """
        3.0/jobs 3.0/mlflow/jobs 3.0/mlflow/scorer/invoke 3.0/mlflow/issues/invoke
        3.0/mlflow/genai/evaluate/invoke 3.0/mlflow/prompt-optimization
    """,
    "the gateway calls other services with keys that it keeps": """
        /gateway 3.0/mlflow/gateway 2.0/mlflow/gateway-proxy 2.0/mlflow/runs/create-promptlab-run
    """,
    "webhooks call other servers": "2.0/mlflow/webhooks",
    "demo data is not this bucket's": "3.0/mlflow/demo",
    "MCP servers and skills are not kept in a bucket": "3.0/mlflow/mcp-servers 3.0/mlflow/skills",
    "evaluation datasets are not kept in a bucket": "3.0/mlflow/datasets",
    "scorers, issues, label schemas and review queues are not kept in a bucket": """
        3.0/mlflow/scorers 3.0/mlflow/issues 3.0/mlflow/label-schemas 3.0/mlflow/review-queues
    """,
    "links from traces to runs and prompts are not kept in a bucket": """
        2.0/mlflow/traces/link-to-run 2.0/mlflow/traces/link-prompts
    """,
    "REST OTLP span logging is not supported": "/v1/traces 2.0/mlflow/get-online-trace-details",
    "artifacts go to the bucket, and not through here": """
        2.0/mlflow-artifacts 2.0/mlflow/artifacts/presigned-download-url
        2.0/mlflow/artifacts/presigned-upload-url
    """,
    "a bucket is one workspace": "3.0/mlflow/workspaces",
    "no telemetry is sent": "3.0/mlflow/ui-telemetry",
    "neither the UI nor MLflow's clients use it": """
        /graphql /build 2.0mlflow/experiments/search-datasets 2.0/mlflow/unified-traces
    """,
}
"""Why parts of MLflow are not offered: those paths, and all below them, whatever the method."""

GRAPHQL = {
    *("mlflowGetExperiment", "mlflowGetRun", "mlflowSearchRuns", "mlflowSearchDatasets"),
    *("mlflowGetMetricHistoryBulkInterval", "mlflowListArtifacts", "mlflowSearchModelVersions"),
}
"""The queries that `POST /graphql` answers."""

_APIS = ("/api/", "/ajax-api/")


def _offered() -> Iterator[tuple[str, str]]:
    for line in _OFFERED.splitlines():
        method, *paths = line.partition("#")[0].split() or ("",)
        if paths and paths[0].startswith("/"):
            yield from ((method, path) for path in paths)
        elif paths:
            version, *paths = paths
            for api in _APIS:
                yield from ((method, f"{api}{version}/mlflow/{path}") for path in paths)


OFFERED = frozenset(_offered())
"""The routes that are offered, each as its method and its path."""


def reason_against(path: str) -> str | None:
    """Return why a path of MLflow's is not offered, if a reason is known."""
    for api in _APIS:
        path = path.removeprefix(api)
    for reason, refused in REFUSED.items():
        if any(path == each or path.startswith(f"{each}/") for each in refused.split()):
            return reason
    return None


def keep_offered(app: "Flask") -> None:
    """Take every route that is not offered out of MLflow's web application."""
    offered = Map()
    for rule in app.url_map.iter_rules():
        methods = {each for each in rule.methods or () if (each, rule.rule) in OFFERED}
        if methods:
            offered.add(type(rule)(rule.rule, **{**rule.get_empty_kwargs(), "methods": methods}))
    app.url_map = offered
    from mlflow.server.graphql.graphql_schema_extensions import schema

    for kind in (schema.graphql_schema.query_type, schema.graphql_schema.mutation_type):
        for name in kind.fields.keys() - GRAPHQL:
            del kind.fields[name]


def is_offered(app: "Flask", method: str, path: str) -> bool:
    """Return whether an application answers a request, after `keep_offered`."""
    if path != "/" and not {"", ".", ".."}.isdisjoint(path.split("/")[1:]):
        return False  # written in another way than a browser and MLflow's clients do
    try:
        app.url_map.bind("").match(path, method)
    except (HTTPException, RequestRedirect):
        return False
    return True
