"""Which of MLflow's routes a server of ours offers. What does not stand here is not there.

A route is a method and a path as MLflow's web application writes it (`<name>` is one part of it).
A new MLflow can bring routes that start programs, call others or hand out files of the server's
machine, and none of them is offered before somebody has put it into `_OFFERED`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, RequestRedirect

if TYPE_CHECKING:
    from flask import Flask

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
    "nothing is told to others": "3.0/mlflow/ui-telemetry",
    "nobody asks for it, or asks otherwise": """
        /graphql /build 2.0mlflow/experiments/search-datasets 2.0/mlflow/unified-traces
    """,
}
"""Why parts of MLflow are not offered: those paths, and all below them, whatever the method."""

GRAPHQL = {
    *("mlflowGetExperiment", "mlflowGetRun", "mlflowSearchRuns", "mlflowSearchDatasets"),
    *("mlflowGetMetricHistoryBulkInterval", "mlflowListArtifacts", "mlflowSearchModelVersions"),
}
"""What `POST /graphql` can be asked for."""

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
    """Return why a path of MLflow's is not offered; None if there is no word about it."""
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
    """Return whether an application that was made by `keep_offered` answers a request."""
    if path != "/" and not {"", ".", ".."}.isdisjoint(path.split("/")[1:]):
        return False  # written in another way than a browser and MLflow's clients do
    try:
        app.url_map.bind("").match(path, method)
    except (HTTPException, RequestRedirect):
        return False
    return True
