"""What MLflow's interface has and a bucket cannot keep: each says so in one line, and what to do.

MLflow's own file store has none of it either; there it ends in a bare NotImplementedError, or in
advice about a file store that nobody here uses.
"""

from collections.abc import Callable
from typing import NoReturn

from mlflow.exceptions import MlflowNotImplementedException

_SERVER = "use an MLflow server with a database: mlflow server --backend-store-uri sqlite:///x.db"

_TRACKING: dict[tuple[str, str], str] = {
    (
        "Evaluation datasets",
        f"Log the data with mlflow.log_input or as an artifact, or {_SERVER}",
    ): """
        create_dataset get_dataset delete_dataset search_datasets upsert_dataset_records
        delete_dataset_records set_dataset_tags delete_dataset_tag get_dataset_experiment_ids
        add_dataset_to_experiments remove_dataset_from_experiments
    """,
    (
        "Single spans",
        "mlflow.get_trace and mlflow.search_traces return traces with their spans",
    ): """
        log_spans get_trace batch_get_traces batch_get_trace_infos get_online_trace_details
    """,
    (
        "Statistics over traces",
        f"Take them from what mlflow.search_traces returns, or {_SERVER}",
    ): """
        query_trace_metrics calculate_trace_filter_correlation find_completed_sessions
        archive_traces
    """,
    (
        "Links from traces to runs and prompts",
        "Tag the trace with mlflow.set_trace_tag and search for the tag",
    ): """
        link_traces_to_run unlink_traces_from_run link_prompts_to_trace
    """,
    (
        "Scorers",
        f"Keep the scorer in the code that evaluates, or {_SERVER}",
    ): """
        register_scorer get_scorer list_scorers list_scorer_versions delete_scorer
        get_active_online_scorers get_online_scoring_configs upsert_online_scoring_config
    """,
    (
        "Issues, label schemas and review queues",
        f"Assess a trace with mlflow.log_feedback, or {_SERVER}",
    ): """
        create_issue get_issue update_issue search_issues
        create_label_schema get_label_schema get_label_schema_by_name list_label_schemas
        update_label_schema delete_label_schema
        create_review_queue get_review_queue get_review_queue_by_name get_or_create_user_queue
        list_review_queues update_review_queue delete_review_queue
        add_items_to_review_queue list_review_queue_items remove_items_from_review_queue
        set_review_queue_item_status
    """,
    (
        "The AI gateway's endpoints, secrets, guardrails and budgets",
        f"For the gateway, {_SERVER}",
    ): """
        create_gateway_secret get_secret_info update_gateway_secret delete_gateway_secret
        list_secret_infos
        create_gateway_model_definition get_gateway_model_definition
        list_gateway_model_definitions update_gateway_model_definition
        delete_gateway_model_definition
        create_gateway_endpoint get_gateway_endpoint list_gateway_endpoints
        update_gateway_endpoint delete_gateway_endpoint
        attach_model_to_endpoint detach_model_from_endpoint
        create_endpoint_binding list_endpoint_bindings delete_endpoint_binding
        set_gateway_endpoint_tag delete_gateway_endpoint_tag
        create_gateway_guardrail get_gateway_guardrail list_gateway_guardrails
        delete_gateway_guardrail add_guardrail_to_endpoint remove_guardrail_from_endpoint
        list_endpoint_guardrail_configs update_endpoint_guardrail_config
        create_budget_policy get_budget_policy list_budget_policies update_budget_policy
        delete_budget_policy sum_gateway_trace_cost
    """,
    (
        "MCP servers",
        f"For their registry, {_SERVER}",
    ): """
        create_mcp_server get_mcp_server search_mcp_servers update_mcp_server delete_mcp_server
        create_mcp_server_version get_mcp_server_version get_mcp_server_version_by_alias
        get_latest_mcp_server_version search_mcp_server_versions update_mcp_server_version
        delete_mcp_server_version set_mcp_server_tag delete_mcp_server_tag
        set_mcp_server_version_tag delete_mcp_server_version_tag set_mcp_server_alias
        delete_mcp_server_alias create_mcp_access_endpoint get_mcp_access_endpoint
        search_mcp_access_endpoints update_mcp_access_endpoint delete_mcp_access_endpoint
        link_mcp_server_versions_to_trace get_mcp_server_versions_for_trace
    """,
}

_REGISTRY: dict[tuple[str, str], str] = {
    (
        "Webhooks",
        f"A bucket calls nobody; for webhooks, {_SERVER}",
    ): """
        create_webhook get_webhook list_webhooks list_webhooks_by_event update_webhook
        delete_webhook test_webhook
    """,
}


class NotInABucketError(MlflowNotImplementedException, NotImplementedError):
    """A bucket cannot keep this. (Both of the errors by which MLflow's own code finds out.)"""


class UnsupportedTracking:
    """The methods of a tracking store that a bucket has no place for."""


class UnsupportedRegistry:
    """The methods of a model registry that a bucket has no place for."""


def _refuse(store: type, table: dict[tuple[str, str], str]) -> None:
    for (what, instead), names in table.items():
        for name in names.split():
            message = f"{name}: {what} are not kept in a bucket. {instead}."
            setattr(store, name, _refusal(name, message))


def _refusal(name: str, message: str) -> Callable[..., NoReturn]:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise NotInABucketError(message)

    refuse.__name__ = name
    return refuse


_refuse(UnsupportedTracking, _TRACKING)
_refuse(UnsupportedRegistry, _REGISTRY)
