"""The tracking store over an index: MLflow's own SQL store, whose writes go to the bucket first."""

import functools
import inspect
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any

from mlflow.entities import Experiment, LifecycleStage
from mlflow.entities.trace_metrics import MetricViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    ErrorCode,
)
from mlflow.tracing.constant import TraceTagKey
from mlflow.utils.search_utils import SearchTraceUtils
from mlflow.utils.validation import MAX_EXPERIMENT_NAME_LENGTH

from kaggleops.replica.searching import RunSearch
from kaggleops.replica.writing import WriteThrough, index_url, replica_of, write_through
from kaggleops.tracking.base import mlflow_errors
from kaggleops.tracking.unsupported import UnsupportedTracking

_WRITES = """
    rename_experiment delete_experiment restore_experiment
    set_experiment_tag delete_experiment_tag
    create_run update_run_info delete_run restore_run _hard_delete_run
    log_metric log_param log_batch set_tag delete_tag
    log_inputs log_outputs record_logged_model
    create_logged_model finalize_logged_model delete_logged_model _hard_delete_logged_model
    log_logged_model_params set_logged_model_tags delete_logged_model_tag
    start_trace deprecated_start_trace_v2 deprecated_end_trace_v2 delete_traces
    set_trace_tag delete_trace_tag
    create_assessment update_assessment delete_assessment
"""

_READS = (
    "batch_get_",
    "calculate_",
    "filter_",
    "find_",
    "get_",
    "list_",
    "query_",
    "resolve_",
    "sanitize_",
    "search_",
    "sum_",
    # What calls the methods above, later or several of them:
    "end_async_logging",
    "flush_async_logging",
    "log_batch_async",
    "log_metric_async",
    "log_param_async",
    "log_spans_async",
    "set_model_versions_tags",
    "set_tag_async",
    "shut_down_async_logging",
    # What a store says of itself:
    "supports_",
)


_NOT_INDEXED = {"span": "spans", "issue": "issues", TraceTagKey.LINKED_PROMPTS: "prompts"}
"""What a filter can ask about traces and a bucket's index does not know."""


def _answerable(search: Callable[..., Any]) -> Any:
    """Refuse filters by what is not in the index, which MLflow's own store answers with nothing."""
    signature = inspect.signature(search)

    @functools.wraps(search)
    def searching(store: RunSearch, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(store, *args, **kwargs).arguments
        for asked in [value for name, value in given.items() if "filter" in name and value]:
            for clause in SearchTraceUtils.parse_search_filter_for_search_traces(asked):
                if (
                    clause["comparator"].upper() == "RLIKE"
                    and store.engine.dialect.name == "sqlite"
                ):
                    raise MlflowException(
                        f"searching for traces by {asked!r}: an index in SQLite has no RLIKE, as "
                        "one pattern can keep a whole server busy. Use LIKE or ILIKE.",
                        INVALID_PARAMETER_VALUE,
                    )
                if what := _NOT_INDEXED.get(clause["type"]) or _NOT_INDEXED.get(clause["key"]):
                    raise MlflowException(
                        f"searching for traces by {asked!r}: the index of a bucket does not know "
                        f"their {what}. Filter by names, status, tags, metadata or assessments.",
                        INVALID_PARAMETER_VALUE,
                    )
        return search(store, *args, **kwargs)

    return searching


class _Free:
    """Names of experiments that were found free: who then creates one, gets it all the same.

    `mlflow.set_experiment` asks first. Refused, because somebody else was faster meanwhile, it
    would go on in Default without a word.
    """

    def __init__(self) -> None:
        self._names: deque[str] = deque(maxlen=1000)
        """One for each who was told so, and has not created it since."""
        self._lock = Lock()

    def told(self, name: str) -> None:
        if len(name) <= MAX_EXPERIMENT_NAME_LENGTH:
            with self._lock:
                self._names.append(name)

    def take(self, name: str) -> bool:
        """Tell whether somebody was told so; once for each."""
        with self._lock, suppress(ValueError):
            self._names.remove(name)
            return True
        return False


@replica_of(UnsupportedTracking, "tracking", _WRITES, _READS)
class ReplicaTrackingStore(RunSearch):
    """MLflow's tracking API over an index.

    Args:
        store_uri: `kaggleops+` and the index's address as SQLAlchemy has it.
    """

    def __init__(self, store_uri: str) -> None:
        with mlflow_errors():
            self.through: WriteThrough = write_through(index_url(store_uri))
        super().__init__(index_url(store_uri), self.through.artifact_root)

        self._free = _Free()

    def get_experiment_by_name(self, experiment_name: str) -> Experiment | None:
        found = super().get_experiment_by_name(experiment_name)
        if found is None:
            self._free.told(experiment_name)
        return found

    def create_experiment(self, name: str, *args: Any, **kwargs: Any) -> str:
        was_free = self._free.take(name)
        try:
            made: str = self.through.write(
                self.through.tracking.create_experiment, name, *args, **kwargs
            )
        except MlflowException as error:
            if not was_free or error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
            found = super().get_experiment_by_name(name)
            if found is None or found.lifecycle_stage != LifecycleStage.ACTIVE:
                raise
            made = str(found.experiment_id)
        return made

    search_traces = _answerable(RunSearch.search_traces)
    find_completed_sessions = _answerable(RunSearch.find_completed_sessions)
    calculate_trace_filter_correlation = _answerable(RunSearch.calculate_trace_filter_correlation)

    def query_trace_metrics(
        self, experiment_ids: list[str], view_type: MetricViewType, *args: Any, **kwargs: Any
    ) -> Any:
        if view_type == MetricViewType.SPANS:
            raise MlflowException(
                "counting spans: the index of a bucket does not know the spans of its traces.",
                INVALID_PARAMETER_VALUE,
            )
        return super().query_trace_metrics(experiment_ids, view_type, *args, **kwargs)

    def _initialize_store_state(self) -> None:
        """Not what MLflow does here: it would make a default experiment that is in no bucket."""
