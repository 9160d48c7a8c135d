"""What MLflow's interface has and a bucket cannot keep: each says so in one line, and what to do.

MLflow's own file store has none of it either; there it ends in a bare NotImplementedError, or in
advice about a file store that nobody here uses.
"""

import re
from typing import NoReturn

from mlflow.exceptions import MlflowNotImplementedException
from mlflow.store.model_registry.abstract_store import AbstractStore as AbstractRegistry
from mlflow.store.tracking.abstract_store import AbstractStore

_SERVER = "use an MLflow server with a database: mlflow server --backend-store-uri sqlite:///x.db"

# What methods are called that keep it, and what to do instead.
_SPANS = r"log_spans|get_trace|batch_get_trace(s|_infos)|get_online_trace_details"
_TRACKING = {
    _SPANS: "mlflow.get_trace and mlflow.search_traces return traces with their spans",
    r".*dataset.*": f"Log the data with mlflow.log_input or as an artifact, or {_SERVER}",
    r"query_trace_metrics|calculate_trace_.*|find_completed_sessions|archive_traces"
    r"|(un)?link_(traces|prompts)_.*|.*mcp_.*|.*scor(er|ing)(?!s_across).*"
    r"|.*(issue|label_schema|review_queue|user_queue).*"
    r"|.*(gateway|secret|endpoint|guardrail|budget).*": f"For that, {_SERVER}",
}
_REGISTRY = {r".*webhook.*": f"For that, {_SERVER}"}


class NotInABucketError(MlflowNotImplementedException, NotImplementedError):
    """A bucket cannot keep this. (Both of the errors by which MLflow's own code finds out.)"""


class UnsupportedTracking:
    """The methods of a tracking store that a bucket has no place for."""


class UnsupportedRegistry:
    """The methods of a model registry that a bucket has no place for."""


def _refuse(store: type, interface: type, table: dict[str, str]) -> None:
    for pattern, instead in table.items():
        for name in filter(re.compile(pattern).fullmatch, dir(interface)):
            if not name.startswith("_") and not hasattr(store, name):
                message = f"{name}: this is not kept in a bucket. {instead}."

                def refuse(*args: object, message: str = message, **kwargs: object) -> NoReturn:
                    raise NotInABucketError(message)

                refuse.__name__ = name
                setattr(store, name, refuse)


_refuse(UnsupportedTracking, AbstractStore, _TRACKING)
_refuse(UnsupportedRegistry, AbstractRegistry, _REGISTRY)
