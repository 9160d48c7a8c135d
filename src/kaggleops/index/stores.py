"""MLflow's own SQL stores over an index, whose writes go to the bucket first."""

import functools
import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from mlflow.entities import Experiment, LifecycleStage, Metric
from mlflow.entities.metric import MetricWithRunId
from mlflow.entities.trace_metrics import MetricViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    ErrorCode,
)
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as SqlAlchemyRegistry
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracing.constant import TraceTagKey
from mlflow.utils.search_utils import SearchTraceUtils, SearchUtils
from mlflow.utils.validation import MAX_EXPERIMENT_NAME_LENGTH

from kaggleops.bucket import open_bucket
from kaggleops.index.points import Curve, PointReader, sampled
from kaggleops.index.search import RunSearch
from kaggleops.index.write_through import WriteThrough, index_url, replica_of, write_through
from kaggleops.mlruns import EntityStore
from kaggleops.tracking.base import mlflow_errors
from kaggleops.tracking.unsupported import UnsupportedRegistry, UnsupportedTracking

_PATIENCE = 5.0  # seconds that a chart waits for a bucket out of reach: few requests run at once


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
    def searching(store: SqlAlchemyStore, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(store, *args, **kwargs).arguments
        for asked in [value for name, value in given.items() if "filter" in name and value]:
            for clause in SearchTraceUtils.parse_search_filter_for_search_traces(asked):
                problem, comparator = "", clause["comparator"].upper()
                if comparator == "RLIKE" and store.engine.dialect.name == "sqlite":
                    problem = (
                        "an index in SQLite has no RLIKE, as one pattern can keep a whole server "
                        "busy. Use LIKE or ILIKE."
                    )
                if what := _NOT_INDEXED.get(clause["type"]) or _NOT_INDEXED.get(clause["key"]):
                    problem = (
                        f"the index of a bucket does not know their {what}. Filter by names, "
                        "status, tags, metadata or assessments."
                    )
                if problem:
                    message = f"searching for traces by {asked!r}: {problem}"
                    raise MlflowException(message, INVALID_PARAMETER_VALUE)
        return search(store, *args, **kwargs)

    return searching


def _metric(name: str, curve: Curve, place: int) -> Metric:
    """Return a metric's point as MLflow has it."""
    return Metric(name, curve.values[place], curve.times[place], curve.steps[place])


def _of_run(
    run_id: str, name: str, curve: Curve, places: Iterable[int]
) -> Iterator[MetricWithRunId]:
    for place in places:
        yield MetricWithRunId(_metric(name, curve, place), run_id)


@replica_of(UnsupportedTracking, "tracking", _WRITES, _READS)
class ReplicaTrackingStore(RunSearch):
    """MLflow's tracking API over an index.

    Raises MlflowException if there is no index at its address.
    """

    def __init__(self, store_uri: str) -> None:
        with mlflow_errors():
            self.through: WriteThrough = write_through(index_url(store_uri))
        super().__init__(index_url(store_uri), self.through.artifact_root)
        bucket = open_bucket(self.through.bucket_uri, patience=_PATIENCE)
        self._points = PointReader(self.engine, EntityStore(bucket))

        self._free: deque[str] = deque(maxlen=1000)
        """Names of experiments that were found free, one for each caller who was told so.

        `mlflow.set_experiment` asks first. Were the creation refused then, because somebody else
        was faster, it would silently go on in Default: who was told gets the experiment anyway.
        """

    def get_experiment_by_name(self, experiment_name: str) -> Experiment | None:
        found = super().get_experiment_by_name(experiment_name)
        if found is None and len(experiment_name) <= MAX_EXPERIMENT_NAME_LENGTH:
            self._free.append(experiment_name)
        return found

    def create_experiment(self, name: str, *args: Any, **kwargs: Any) -> str:
        was_free = False
        with suppress(ValueError):
            self._free.remove(name)
            was_free = True
        try:
            create = self.through.tracking.create_experiment
            made: str = self.through.write(create, name, *args, **kwargs)
        except MlflowException as error:
            if not was_free or error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
            found = super().get_experiment_by_name(name)
            if found is None or found.lifecycle_stage != LifecycleStage.ACTIVE:
                raise
            made = str(found.experiment_id)
        return made

    search_traces = _answerable(SqlAlchemyStore.search_traces)
    find_completed_sessions = _answerable(SqlAlchemyStore.find_completed_sessions)
    calculate_trace_filter_correlation = _answerable(
        SqlAlchemyStore.calculate_trace_filter_correlation
    )

    def query_trace_metrics(
        self, experiment_ids: list[str], view_type: MetricViewType, *args: Any, **kwargs: Any
    ) -> Any:
        if view_type == MetricViewType.SPANS:
            problem = "the index of a bucket does not know the spans of its traces."
            raise MlflowException(f"counting spans: {problem}", INVALID_PARAMETER_VALUE)
        return super().query_trace_metrics(experiment_ids, view_type, *args, **kwargs)

    def get_metric_history(
        self,
        run_id: str,
        metric_key: str,
        max_results: int | None = None,
        page_token: str | None = None,
    ) -> PagedList[Metric]:
        begin = max(0, SearchUtils.parse_start_offset_from_page_token(page_token))
        with mlflow_errors():
            curve = self._points.of(run_id, metric_key)
        end = len(curve.times) if max_results is None else begin + max_results
        token = SearchUtils.create_page_token(end) if end < len(curve.times) else None
        places = range(len(curve.times))[begin:end]
        return PagedList([_metric(metric_key, curve, place) for place in places], token)

    def get_metric_history_bulk(
        self, run_ids: list[str], metric_key: str, max_results: int
    ) -> list[MetricWithRunId]:
        found: list[MetricWithRunId] = []
        with mlflow_errors():
            for run_id, curve in self._points.read(sorted(set(run_ids)), metric_key):
                places = range(len(curve.times))[: max_results - len(found)]
                found += _of_run(run_id, metric_key, curve, places)
                if len(found) >= max_results:
                    break
        return found

    def get_max_step_for_metric(self, run_id: str, metric_key: str) -> int:
        with mlflow_errors():
            return max(self._points.of(run_id, metric_key).steps, default=0)

    def get_metric_history_bulk_interval_from_steps(
        self, run_id: str, metric_key: str, steps: list[int], max_results: int
    ) -> list[MetricWithRunId]:
        with mlflow_errors():
            curve = self._points.of(run_id, metric_key)
        wanted = set(steps)
        places = [place for place in curve.by_step() if curve.steps[place] in wanted]
        return list(_of_run(run_id, metric_key, curve, places[:max_results]))

    def get_metric_history_bulk_interval(
        self,
        run_ids: list[str],
        metric_key: str,
        max_results: int,
        start_step: int | None,
        end_step: int | None,
    ) -> list[MetricWithRunId]:
        if (start_step is None) != (end_step is None):
            problem = "start_step and end_step are given together, or neither is"
            raise MlflowException.invalid_parameter_value(f"sampling {metric_key}: {problem}.")
        found: list[MetricWithRunId] = []
        with mlflow_errors():
            for run_id, curve in self._points.read(run_ids, metric_key):
                places = sampled(curve.by_step(start_step, end_step), max(1, max_results))
                found += _of_run(run_id, metric_key, curve, places)
        return found

    def _initialize_store_state(self) -> None:
        """Not what MLflow does here: it would make a default experiment that is in no bucket."""


_REGISTRY_WRITES = """
    create_registered_model update_registered_model rename_registered_model
    delete_registered_model set_registered_model_tag delete_registered_model_tag
    set_registered_model_alias delete_registered_model_alias
    create_model_version update_model_version transition_model_version_stage
    delete_model_version set_model_version_tag delete_model_version_tag
"""

_REGISTRY_READS = (
    "get_",
    "list_",
    "search_",
    # What calls the methods above:
    "copy_model_version",
    "create_prompt",
    "delete_prompt",
    "link_prompt",
    "set_prompt",
)


@replica_of(UnsupportedRegistry, "registry", _REGISTRY_WRITES, _REGISTRY_READS)
class ReplicaRegistryStore(SqlAlchemyRegistry):
    """MLflow's model registry over an index."""

    def __init__(self, store_uri: str) -> None:
        with mlflow_errors():
            self.through: WriteThrough = write_through(index_url(store_uri))
        super().__init__(index_url(store_uri))

    def _initialize_store_state(self) -> None:
        """As in the tracking store: nothing is made that is in no bucket."""
