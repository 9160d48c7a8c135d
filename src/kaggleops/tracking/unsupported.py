"""What MLflow's interface has and a bucket cannot keep: each says so in one line, and what to do.

MLflow's own file store has none of it either; there it ends in a bare NotImplementedError, or in
advice about a file store that nobody here uses.
"""

import re
from collections.abc import Callable
from typing import NoReturn

from mlflow.exceptions import MlflowNotImplementedException
from mlflow.store.model_registry.abstract_store import AbstractStore as AbstractRegistry
from mlflow.store.tracking.abstract_store import AbstractStore

_SERVER = "use an MLflow server with a database: mlflow server --backend-store-uri sqlite:///x.db"

# By what methods are called: what they would keep, and what to do instead.
_TRACKING = {
    r".*mcp_.*": ("MCP servers", f"For their registry, {_SERVER}"),
    r".*dataset.*": (
        "Evaluation datasets",
        f"Log the data with mlflow.log_input or as an artifact, or {_SERVER}",
    ),
    r"log_spans|get_trace|batch_get_trace(s|_infos)|get_online_trace_details": (
        "Single spans",
        "mlflow.get_trace and mlflow.search_traces return traces with their spans",
    ),
    r"query_trace_metrics|calculate_trace_.*|find_completed_sessions|archive_traces": (
        "Statistics over traces",
        f"Take them from what mlflow.search_traces returns, or {_SERVER}",
    ),
    r"(un)?link_(traces|prompts)_.*": (
        "Links from traces to runs and prompts",
        "Tag the trace with mlflow.set_trace_tag and search for the tag",
    ),
    r".*scor(er|ing)(?!s_across).*": (
        "Scorers",
        f"Keep the scorer in the code that evaluates, or {_SERVER}",
    ),
    r".*(issue|label_schema|review_queue|user_queue).*": (
        "Issues, label schemas and review queues",
        f"Assess a trace with mlflow.log_feedback, or {_SERVER}",
    ),
    r".*(gateway|secret|endpoint|guardrail|budget).*": (
        "The AI gateway's endpoints, secrets, guardrails and budgets",
        f"For the gateway, {_SERVER}",
    ),
}
_REGISTRY = {r".*webhook.*": ("Webhooks", f"A bucket calls nobody; for webhooks, {_SERVER}")}


class NotInABucketError(MlflowNotImplementedException, NotImplementedError):
    """A bucket cannot keep this. (Both of the errors by which MLflow's own code finds out.)"""


class UnsupportedTracking:
    """The methods of a tracking store that a bucket has no place for."""


class UnsupportedRegistry:
    """The methods of a model registry that a bucket has no place for."""


def _refuse(store: type, interface: type, table: dict[str, tuple[str, str]]) -> None:
    for pattern, (what, instead) in table.items():
        for name in filter(re.compile(pattern).fullmatch, dir(interface)):
            if not name.startswith("_") and not hasattr(store, name):
                message = f"{name}: {what} are not kept in a bucket. {instead}."
                setattr(store, name, _refusal(name, message))


def _refusal(name: str, message: str) -> Callable[..., NoReturn]:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise NotInABucketError(message)

    refuse.__name__ = name
    return refuse


_refuse(UnsupportedTracking, AbstractStore, _TRACKING)
_refuse(UnsupportedRegistry, AbstractRegistry, _REGISTRY)
