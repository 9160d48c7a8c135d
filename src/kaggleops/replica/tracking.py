"""The tracking store over an index: MLflow's own SQL store, whose writes go to the bucket first."""

from kaggleops.replica.searching import RunSearch
from kaggleops.replica.writing import WriteThrough, index_url, replica_of, write_through
from kaggleops.tracking.base import mlflow_errors
from kaggleops.tracking.unsupported import UnsupportedTracking

_WRITES = """
    create_experiment rename_experiment delete_experiment restore_experiment
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

    def _initialize_store_state(self) -> None:
        """Not what MLflow does here: it would make a default experiment that is in no bucket."""
