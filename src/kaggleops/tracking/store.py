"""The tracking store: MLflow's own file store over a working copy of the bucket.

Reads check for a newer version in the bucket first, with one cheap request for each entity.
Writes go to the working copy, and from there to the bucket within the flush interval; what others
wait for (a new experiment or run, a final status, a deletion) goes at once.
"""

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mlflow.entities import (
    Assessment,
    LifecycleStage,
    LoggedModel,
    LoggedModelParameter,
    LoggedModelTag,
    Metric,
    RunStatus,
    RunTag,
    TraceInfo,
)
from mlflow.exceptions import MissingConfigException, MlflowException
from mlflow.store.tracking.file_store import FileStore
from mlflow.utils.validation import (
    _resolve_experiment_ids_and_locations,
    _validate_tag_name,
    _validate_trace_tag,
)
from mlflow.utils.yaml_utils import write_yaml

from kaggleops.bucket import BucketUnavailableError
from kaggleops.errors import UsageError
from kaggleops.layout import parse_key
from kaggleops.mlruns import EntityId, Kind
from kaggleops.mlruns.folder import replace_file
from kaggleops.mlruns.validation import TRACE_INFO
from kaggleops.tags import CANCELLED
from kaggleops.tracking.base import changing, mlflow_errors, reading
from kaggleops.tracking.names import LONGEST_PART, check_name, check_text
from kaggleops.tracking.runs import RunStore
from kaggleops.tracking.unsupported import UnsupportedTracking

_Entry = TypeVar("_Entry", LoggedModelParameter, LoggedModelTag)


class BucketTrackingStore(UnsupportedTracking, RunStore):
    """MLflow's tracking API over a bucket. What it has of logged models and traces is here."""

    # -- logged models: finding (hooks of the file store) --------------------------------------

    def _find_model_root(self, model_id: str) -> tuple[str | None, str | None]:
        found = self._found(Kind.LOGGED_MODEL, model_id)
        return (found.experiment_id, str(self._working.path(found))) if found else (None, None)

    def _get_model_metric_path(self, experiment_id: str, model_id: str, metric_key: str) -> str:
        super()._get_model_metric_path(experiment_id, model_id, metric_key)  # checks the name
        return self._file_of_model(model_id, f"metrics/{metric_key}")

    def _file_of_model(self, model_id: str, path: str) -> str:
        check_name(path.partition("/")[2], "key")
        return str(self._working.file_for(self._model(model_id), path))

    def _model(self, model_id: str, *, refresh: bool = False) -> EntityId:
        called = f"Model '{model_id}'"
        return self._required(Kind.LOGGED_MODEL, model_id, called, refresh=refresh)

    # -- logged models: reading ---------------------------------------------------------------

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

    # -- logged models: changing --------------------------------------------------------------

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

    finalize_logged_model = changing(FileStore.finalize_logged_model, _model, now=True)
    delete_logged_model = changing(
        FileStore.delete_logged_model, partial(_model, refresh=True), now=True
    )
    delete_logged_model_tag = changing(FileStore.delete_logged_model_tag, _model)

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

    # -- traces: finding (hooks of the file store) ---------------------------------------------

    def _find_trace_dir(self, trace_id: str, assert_exists: bool = False) -> str | None:
        entity_id = self._trace(trace_id) if assert_exists else self._found(Kind.TRACE, trace_id)
        return str(self._working.path(entity_id)) if entity_id else None

    def _trace(self, trace_id: str, *, refresh: bool = False) -> EntityId:
        called = f"Trace with ID '{trace_id}'"
        return self._required(Kind.TRACE, trace_id, called, refresh=refresh)

    def _get_trace_info_from_dir(self, trace_dir: str) -> TraceInfo | None:
        try:
            return super()._get_trace_info_from_dir(trace_dir)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            # The only one that MLflow skips, with a warning, where it lists traces.
            name = Path(trace_dir).name
            raise MissingConfigException(f"Trace {name} cannot be read: {error}") from error

    def _write_dict_to_trace_sub_folder(
        self, trace_dir: str, sub_folder: str, dictionary: dict[str, str]
    ) -> None:
        # The file store makes no folder for a key with a slash in it.
        (Path(trace_dir) / sub_folder).mkdir(exist_ok=True)
        for key, value in dictionary.items():
            _validate_tag_name(key)
            check_name(key, "key")
            check_text(value, "value")
            path = f"{sub_folder}/{key}"
            home = EntityId(Kind.TRACE, Path(trace_dir).parents[1].name, Path(trace_dir).name)
            file = self._working.file_for(home, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(file, self._writeable_value(value).encode(), Path(trace_dir))

    # -- traces: reading ----------------------------------------------------------------------

    get_trace_info = reading(FileStore.get_trace_info, _trace)
    get_assessment = reading(FileStore.get_assessment, _trace)

    def search_traces(
        self, experiment_ids: list[str] | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        locations = _resolve_experiment_ids_and_locations(experiment_ids, kwargs.get("locations"))
        self._bring_all(locations, Kind.TRACE)
        with self._working.still():
            return super().search_traces(experiment_ids, *args, **kwargs)

    # -- traces: changing ---------------------------------------------------------------------

    def _save_assessment(self, assessment: Assessment) -> None:
        # The file store's own makes 5.0 of 5: its way leads through a message that has no integers.
        values = assessment.to_dictionary()
        for kind in ("feedback", "expectation"):
            if "value" in values.get(kind, {}):
                values[kind]["value"] = getattr(assessment, kind).value
        file = Path(self._get_assessment_path(assessment.trace_id, assessment.assessment_id))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_yaml(str(file.parent), file.name, values, overwrite=True)

    def start_trace(self, trace_info: TraceInfo) -> TraceInfo:
        entity_id = EntityId(Kind.TRACE, str(trace_info.experiment_id), trace_info.trace_id)
        # It names a folder, and in a bucket that is one, a file with a longer name.
        if parse_key(entity_id.key) != entity_id or len(trace_info.trace_id) > LONGEST_PART - 10:
            problem = f"Invalid trace ID: {trace_info.trace_id!r}"
            raise MlflowException.invalid_parameter_value(problem)
        for key in (*trace_info.tags, *trace_info.trace_metadata):
            _validate_tag_name(key)
            check_name(key, "key")
        begun = None
        with mlflow_errors(), suppress(BucketUnavailableError):  # then it is new: versions merge
            begun = self._working.locate(Kind.TRACE, trace_info.trace_id)
        with self._changing(*([begun] if begun else [])):
            if begun:  # a client that got no answer sends it again
                (self._working.path(begun) / TRACE_INFO).unlink(missing_ok=True)
            started: TraceInfo = super().start_trace(trace_info)
            self._note_trace(started.experiment_id, started.trace_id)
        return started

    def deprecated_start_trace_v2(self, experiment_id: str, *args: Any, **kwargs: Any) -> Any:
        with self._changing():
            started = super().deprecated_start_trace_v2(experiment_id, *args, **kwargs)
            self._note_trace(experiment_id, started.request_id)
        return started

    def _note_trace(self, experiment_id: str, trace_id: str) -> None:
        entity_id = EntityId(Kind.TRACE, experiment_id, trace_id)
        self._working.adopt(entity_id)
        self._working.changed(entity_id)
        self._with_home(entity_id)

    deprecated_end_trace_v2 = changing(FileStore.deprecated_end_trace_v2, _trace)
    delete_trace_tag = changing(FileStore.delete_trace_tag, _trace)
    update_assessment = changing(FileStore.update_assessment, _trace)
    delete_assessment = changing(FileStore.delete_assessment, _trace)

    def set_trace_tag(self, trace_id: str, key: str, value: str) -> None:
        _validate_trace_tag(key, value)
        with self._changing(self._trace(trace_id)):
            super().set_trace_tag(trace_id, key, value)

    create_assessment = changing(
        FileStore.create_assessment, lambda store, new: store._trace(new.trace_id)
    )

    def _delete_traces(self, experiment_id: str, *args: Any, **kwargs: Any) -> int:
        with mlflow_errors():
            self._working.bring_all(Kind.TRACE, experiment_id)
        with self._working.still():
            deleted: int = super()._delete_traces(experiment_id, *args, **kwargs)
        with mlflow_errors():
            for entity_id in self._working.held(Kind.TRACE, experiment_id):
                if not self._working.path(entity_id).exists():
                    self._working.delete(entity_id)
        return deleted


def _one_word(text: str | None) -> str | None:
    return text and re.sub(r"\s", "\N{NO-BREAK SPACE}", text)


def cancel(tracking_uri: str, run_id: str) -> None:
    """Set a run to KILLED in the bucket; the process that runs it sees that, and ends.

    Raises UsageError if there is no such run, or it has ended already.
    """
    doing = f"cancelling run {run_id}"
    store = BucketTrackingStore(tracking_uri)
    try:
        run = store.get_run(run_id)
    except MlflowException as error:
        raise UsageError(doing, str(error), "`kaggleops status` lists the last runs.") from error
    if RunStatus.is_terminated(RunStatus.from_string(run.info.status)):
        raise UsageError(doing, f"it has ended already, as {run.info.status}")
    if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
        hint = "Restore it in the UI first, or leave it: a deleted sweep goes no further."
        raise UsageError(doing, "it was deleted", hint)
    # What tells it from a run whose machine was stopped.
    store.set_tag(run_id, RunTag(CANCELLED, f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"))
    store.update_run_info(run_id, RunStatus.KILLED, time.time_ns() // 1_000_000, None)
    store.flush()
