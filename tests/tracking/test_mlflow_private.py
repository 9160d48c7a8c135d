"""Every private name of MLflow's that this project uses, with its parameters as they are today.

MLflow may change these in any release without a word. A name that is new here belongs in the table;
one that MLflow changed has to be looked at wherever it is used.
"""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from mlflow.tracking import fluent

import kaggleops

USED = """
mlflow.store.artifact.artifact_repo.ArtifactRepository
    _download_file(self, remote_file_path, local_path)
mlflow.store.model_registry.file_store.FileStore
    _get_all_registered_model_paths(self)
    _get_file_model_version_from_dir(self, directory)
    _get_model_version_aliases(self, directory)
    _get_model_version_tags_from_dir(self, directory)
    _get_registered_model_alias_path(self, name, alias)
    _get_registered_model_from_path(self, model_path)
    _get_registered_model_path(self, name)
    _get_registered_model_tag_path(self, name, tag_name)
    _get_registered_model_version_tag_path(self, name, version, tag_name)
    _read_yaml(root, file_name, retries)
mlflow.store.model_registry.sqlalchemy_store.SqlAlchemyStore
    _initialize_store_state(self)
mlflow.store.tracking.file_store.FileStore
    _create_experiment_with_id(self, name, experiment_id, artifact_uri, tags)
    _delete_traces(self, experiment_id, max_timestamp_millis, max_traces, trace_ids)
    _find_model_root(self, model_id)
    _find_run_root(self, run_uuid, validate_structure)
    _find_trace_dir(self, trace_id, assert_exists)
    _get_all_inputs(self, run_info)
    _get_all_model_metrics(self, model_id, model_dir)
    _get_artifact_dir(self, experiment_id, run_uuid)
    _get_assessment_path(self, trace_id, assessment_id)
    _get_dataset_id(dataset_name, dataset_digest)
    _get_experiment_path(self, experiment_id, view_type, assert_exists)
    _get_experiment_tag_path(self, experiment_id, tag_name)
    _get_metric_from_file(parent_path, metric_name, run_id, exp_id)
    _get_model_metric_from_line(model_id, metric_name, metric_line)
    _get_model_metric_path(self, experiment_id, model_id, metric_key)
    _get_param_path(self, experiment_id, run_uuid, param_name)
    _get_resource_files(self, root_dir, subfolder_name)
    _get_run_dir(self, experiment_id, run_uuid)
    _get_run_info(self, run_uuid)
    _get_tag_path(self, experiment_id, run_uuid, tag_name)
    _get_trace_info_from_dir(self, trace_dir)
    _hard_delete_logged_model(self, model_id)
    _hard_delete_run(self, run_id)
    _is_valid_run_directory(self, run_dir)
    _log_model_metric(self, experiment_id, model_id, run_id, metric)
    _log_run_param(self, run_info, param)
    _read_yaml(root, file_name, retries)
    _save_assessment(self, assessment)
    _search_datasets(self, experiment_ids)
    _search_runs(
        self, experiment_ids, filter_string, run_view_type, max_results, order_by, page_token
    )
    _set_run_tag(self, run_info, tag)
    _validate_experiment_does_not_exist(self, name)
    _validate_new_param_value(self, param_path, param_key, run_id, new_value)
    _write_dict_to_trace_sub_folder(self, trace_dir, sub_folder, dictionary)
    _writeable_value(self, tag_value)
mlflow.store.tracking.file_store
    _make_persisted_run_info_dict(run_info)
mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore
    _get_model_outputs_bulk(self, run_ids, session)
    _get_run_inputs(self, session, run_uuids)
    _initialize_store_state(self)
    _search_runs(
        self, experiment_ids, filter_string, run_view_type, max_results, order_by, page_token
    )
    _validate_max_results_param(self, max_results, allow_null)
mlflow.store.tracking.sqlalchemy_store
    _get_orderby_clauses(order_by_list, session)
    _get_sqlalchemy_filter_clauses(parsed, session, dialect)
mlflow.store.model_registry.file_store
    _validate_model_name(name)
mlflow.utils.validation
    _parse_experiment_ids(experiment_ids)
    _resolve_experiment_ids_and_locations(experiment_ids, locations)
    _validate_batch_log_data(metrics, params, tags)
    _validate_batch_log_limits(metrics, params, tags)
    _validate_dataset_inputs(dataset_inputs)
    _validate_experiment_artifact_location_length(artifact_location)
    _validate_experiment_name(experiment_name)
    _validate_experiment_tag(key, value)
    _validate_length_limit(entity_name, limit, value, truncate)
    _validate_metric(key, value, timestamp, step, path)
    _validate_metric_name(name, path)
    _validate_param_keys_unique(params)
    _validate_run_id(run_id, path)
    _validate_tag(key, value, path)
    _validate_tag_name(name, path)
    _validate_trace_tag(key, value)
mlflow.store.db.utils
    _get_alembic_config(db_url, alembic_dir)
"""


def _used() -> list[tuple[str, str]]:
    found, owner = [], ""
    lines = re.sub(r"\(\n +(.*)\n +\)", r"(\1)", USED).strip().splitlines()
    for line in lines:
        if line.startswith(" "):
            found.append((owner, line.strip()))
        else:
            owner = line
    return found


def _named(dotted: str) -> Any:
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError:
        module, _, name = dotted.rpartition(".")
        return getattr(importlib.import_module(module), name)


def test_they_are_there_as_they_were() -> None:
    for owner, signature in _used():
        name = signature.partition("(")[0]
        found = inspect.getattr_static(_named(owner), name)
        function = found.__func__ if isinstance(found, staticmethod | classmethod) else found
        assert f"{name}({', '.join(inspect.signature(function).parameters)})" == signature, owner
    assert fluent._active_run_stack.get_all_thread_values() is not None


def _modules() -> Iterator[tuple[ModuleType, ast.Module]]:
    for each in pkgutil.walk_packages(kaggleops.__path__, "kaggleops."):
        text = Path(each.module_finder.path, f"{each.name.rpartition('.')[2]}.py")  # type: ignore[union-attr]
        text = text if text.is_file() else text.with_suffix("") / "__init__.py"
        if "mlflow" in (source := text.read_text()) and "__main__" not in each.name:
            yield importlib.import_module(each.name), ast.parse(source)


def test_no_other_is_used() -> None:
    known = {(owner, signature.partition("(")[0]) for owner, signature in _used()}
    used = set()
    for module, tree in _modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlflow"):
                names = [each.name for each in node.names if _is_private(each.name)]
                used |= {(getattr(_named(node.module or ""), n).__module__, n) for n in names}
            elif isinstance(node, ast.ClassDef) and hasattr(module, node.name):
                used |= set(_of_class(getattr(module, node.name), node))
    assert used <= known
    assert {each for each in known if each[0] != "mlflow.store.db.utils"} <= used


def _of_class(cls: type, node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Yield what a class overrides or calls of the classes of MLflow's that it extends."""
    names = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
    names |= {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
    theirs = [each for each in cls.__mro__ if each.__module__.startswith("mlflow")]
    for name in filter(_is_private, names):
        owner = next((each for each in theirs if name in vars(each)), None)
        if owner is not None:
            yield f"{owner.__module__}.{owner.__qualname__}", name


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")
