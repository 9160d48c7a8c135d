"""Logged models in the bucket: a model's own params, tags, metrics and status."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from mlflow.entities import (
    LoggedModel,
    LoggedModelParameter,
    LoggedModelStatus,
    LoggedModelTag,
    Metric,
)
from mlflow.store.tracking.file_store import FileStore
from mlflow.utils.validation import _validate_tag_name

from kaggleops.mlruns import EntityId, Kind
from kaggleops.tracking.base import changing, mlflow_errors, reading
from kaggleops.tracking.names import check_name, check_text
from kaggleops.tracking.runs import RunStore

_Entry = TypeVar("_Entry", LoggedModelParameter, LoggedModelTag)


class LoggedModelStore(RunStore):
    """The part of the tracking store that knows logged models."""

    # -- finding (hooks of the file store) ----------------------------------------------------

    def _find_model_root(self, model_id: str) -> tuple[str | None, str | None]:
        entity_id = self._found(Kind.LOGGED_MODEL, model_id)
        if entity_id is None:
            return None, None
        return entity_id.experiment_id, str(self._working.path(entity_id))

    def _get_model_metric_path(self, experiment_id: str, model_id: str, metric_key: str) -> str:
        super()._get_model_metric_path(experiment_id, model_id, metric_key)  # checks the name
        return self._file_of_model(model_id, f"metrics/{metric_key}")

    def _file_of_model(self, model_id: str, path: str) -> str:
        check_name(path.partition("/")[2], "key")
        return str(self._working.file_for(self._model(model_id), path))

    def _model(self, model_id: str, *, refresh: bool = False) -> EntityId:
        called = f"Model '{model_id}'"
        return self._required(Kind.LOGGED_MODEL, model_id, called, refresh=refresh)

    # -- reading ------------------------------------------------------------------------------

    get_logged_model = reading(FileStore.get_logged_model, _model)

    def search_logged_models(self, experiment_ids: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        self._bring_all(experiment_ids, Kind.LOGGED_MODEL)
        with self._working.still():
            return super().search_logged_models(experiment_ids, *args, **kwargs)

    def _get_all_model_metrics(self, model_id: str, model_dir: str) -> list[Metric]:
        # All points, as MLflow's SQL store has it, and of each metric the last one first, which a
        # search compares; the file store has that one alone.
        found = []
        folder, names = self._get_resource_files(model_dir, FileStore.METRICS_FOLDER_NAME)
        for name in names:
            lines = dict.fromkeys(Path(folder, name).read_text().splitlines())
            points = [self._get_model_metric_from_line(model_id, name, line) for line in lines]
            found += sorted(points, key=lambda at: (at.step, at.timestamp, at.value), reverse=True)
        return found

    # -- changing -----------------------------------------------------------------------------

    def create_logged_model(
        self,
        experiment_id: str = "0",
        name: str | None = None,
        source_run_id: str | None = None,
        tags: list[LoggedModelTag] | None = None,
        params: list[LoggedModelParameter] | None = None,
        model_type: str | None = None,
    ) -> LoggedModel:
        # Before anything is written: half a model would be sent, and read by nobody.
        for field, text in (("name", name), ("model_type", model_type)):
            check_text(text, field)
        for each in (*(tags or ()), *(params or ())):
            _validate_tag_name(each.key)
            check_name(each.key, "key")
            check_text(each.value, "value")
        with self._changing():
            created: LoggedModel = super().create_logged_model(
                experiment_id, name, source_run_id, tags, params, model_type
            )
            entity_id = EntityId(Kind.LOGGED_MODEL, created.experiment_id, created.model_id)
            self._working.changed(entity_id)
            needed = self._with_home(entity_id)
        self._send_now(*needed)
        return created

    def finalize_logged_model(self, model_id: str, status: LoggedModelStatus) -> LoggedModel:
        entity_id = self._model(model_id)
        with self._changing(entity_id):
            model: LoggedModel = super().finalize_logged_model(model_id, status)
        self._send_now(entity_id)
        return model

    def log_logged_model_params(self, model_id: str, params: list[LoggedModelParameter]) -> None:
        with self._changing(self._model(model_id)):
            super().log_logged_model_params(model_id, self._with_room(model_id, "params", params))

    def set_logged_model_tags(self, model_id: str, tags: list[LoggedModelTag]) -> None:
        with self._changing(self._model(model_id)):
            super().set_logged_model_tags(model_id, self._with_room(model_id, "tags", tags))

    def _with_room(self, model_id: str, folder: str, entries: Sequence[_Entry]) -> list[_Entry]:
        """Return params or tags under the names that they can have beside the others."""
        root = self._working.path(self._model(model_id)) / folder
        named = []
        for each in entries:
            _validate_tag_name(each.key)
            check_text(each.value, "value")
            file = Path(self._file_of_model(model_id, f"{folder}/{each.key}"))
            named.append(type(each)(file.relative_to(root).as_posix(), each.value))
        return named

    delete_logged_model_tag = changing(FileStore.delete_logged_model_tag, _model)

    def delete_logged_model(self, model_id: str) -> None:
        entity_id = self._model(model_id, refresh=True)
        with self._changing(entity_id):
            super().delete_logged_model(model_id)
        self._send_now(entity_id)

    def _hard_delete_logged_model(self, model_id: str) -> None:
        entity_id = self._model(model_id)
        with mlflow_errors():
            self._working.delete(entity_id)

    def _log_model_metric(
        self, experiment_id: str, model_id: str, run_id: str, metric: Metric
    ) -> None:
        entity_id = self._model(model_id)
        # As the file store can read it back: plain numbers, and fields without spaces.
        plain = Metric(
            metric.key,
            float(metric.value),
            int(metric.timestamp),
            int(metric.step),
            dataset_name=_one_word(metric.dataset_name),
            dataset_digest=_one_word(metric.dataset_digest),
        )
        super()._log_model_metric(experiment_id, model_id, run_id, plain)
        self._working.changed(entity_id)


def _one_word(text: str | None) -> str | None:
    return text and re.sub(r"\s", "\N{NO-BREAK SPACE}", text)
