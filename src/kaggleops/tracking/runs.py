"""Runs in the bucket: metrics, params, tags, inputs, outputs."""

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from mlflow.entities import (
    DatasetInput,
    LoggedModelInput,
    Metric,
    Param,
    Run,
    RunInfo,
    RunStatus,
    RunTag,
)
from mlflow.entities.lifecycle_stage import LifecycleStage
from mlflow.entities.run_info import check_run_is_active
from mlflow.exceptions import MlflowException
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.tracking.file_store import FileStore, _make_persisted_run_info_dict
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_SOURCE_TYPE
from mlflow.utils.search_utils import SearchUtils
from mlflow.utils.validation import (
    _validate_batch_log_data,
    _validate_batch_log_limits,
    _validate_dataset_inputs,
    _validate_metric,
    _validate_metric_name,
    _validate_param_keys_unique,
    _validate_run_id,
    _validate_tag,
    _validate_tag_name,
)
from mlflow.utils.yaml_utils import write_yaml

from kaggleops.bucket import BucketUnavailableError
from kaggleops.errors import KaggleOpsError
from kaggleops.layout import DEFAULT_ID
from kaggleops.mlruns import EntityId, Kind, experiment, run
from kaggleops.mlruns.folder import now_ms, replace_file
from kaggleops.mlruns.merge_rules import free_name, kept_beside, same_value
from kaggleops.mlruns.ui import commit_tags, with_note
from kaggleops.tags import LEGS, NOTE, PARENT
from kaggleops.tracking.base import as_mlflow_error, changing, mlflow_errors, reading
from kaggleops.tracking.experiments import ExperimentStore
from kaggleops.tracking.live import listeners
from kaggleops.tracking.metric_log import MetricLog, line_of, read_points
from kaggleops.tracking.names import check_name, check_text
from kaggleops.tracking.working_copy import HANDED_OVER

_FURTHER = (
    "The script begins a further run, which goes below the commit's: mlflow.autolog() does at each "
    "fit. For one run of all, put `with mlflow.start_run():` around them (docs/frameworks.md)."
)
_PROJECT = "PROJECT"  # mlflow.entities.SourceType's name of what mlflow.projects begins


class RunStore(ExperimentStore):
    """The part of the tracking store that knows runs."""

    # -- finding (hooks of the file store) ----------------------------------------------------

    def _find_run_root(
        self, run_uuid: str, validate_structure: bool = True
    ) -> tuple[str | None, str | None]:
        _validate_run_id(run_uuid)
        entity_id = self._found(Kind.RUN, run_uuid)
        if entity_id is None:
            return None, None
        folder = str(self._working.path(entity_id))
        if validate_structure and not self._is_valid_run_directory(folder):
            return None, None
        return entity_id.experiment_id, folder

    def _get_run_dir(self, experiment_id: str, run_uuid: str) -> str | None:
        # The file store looks for the experiment first, which a runner needs here all the same: it
        # may have to send it again. A server needs the run alone.
        entity_id = run(experiment_id, run_uuid)
        if self._session.in_server and entity_id in self._working.known:
            return str(self._working.path(entity_id))
        found: str | None = super()._get_run_dir(experiment_id, run_uuid)
        return found

    def _run(self, run_id: str, *, refresh: bool = False) -> EntityId:
        _validate_run_id(run_id)
        return self._required(Kind.RUN, run_id, f"Run '{run_id}'", refresh=refresh)

    def _get_all_inputs(self, run_info: RunInfo) -> Any:
        # A run's folder only names its datasets; they are entities of the experiment.
        inputs = self._working.path(run(run_info.experiment_id, run_info.run_id)) / "inputs"
        for folder in inputs.iterdir() if inputs.is_dir() else ():
            meta = self._read_yaml(str(folder), "meta.yaml")
            if meta["source_type"] == "DATASET":
                dataset = EntityId(Kind.DATASET, run_info.experiment_id, meta["source_id"])
                if dataset not in self._working.known:  # it never changes
                    with mlflow_errors():
                        self._working.bring_readable(dataset)
        return super()._get_all_inputs(run_info)

    # -- reading ------------------------------------------------------------------------------

    get_run = reading(FileStore.get_run, _run)

    def get_metric_history(
        self,
        run_id: str,
        metric_key: str,
        max_results: int | None = None,
        page_token: str | None = None,
    ) -> Any:
        entity_id = self._run(run_id, refresh=True)
        _validate_metric_name(metric_key)
        with self._working.still():
            self._get_run_info(run_id)
            file = self._working.file_for(entity_id, f"metrics/{metric_key}")
            points = read_points(file, run_id, metric_key) if file.is_file() else []
        if max_results is None:
            first = SearchUtils.parse_start_offset_from_page_token(page_token)
            return PagedList(points[first:], None)
        return PagedList(*SearchUtils.paginate(points, page_token, max_results))

    def _get_metric_from_file(
        self, parent_path: str, metric_name: str, run_id: str, exp_id: str
    ) -> Metric:
        points = read_points(Path(parent_path, metric_name), run_id, metric_name)
        return max(points, key=lambda point: (point.step, point.timestamp, point.value))

    # -- where names lie (hooks of the file store) ---------------------------------------------

    def _get_param_path(self, experiment_id: str, run_uuid: str, param_name: str) -> str:
        super()._get_param_path(experiment_id, run_uuid, param_name)  # checks all three
        return self._file_for(experiment_id, run_uuid, "params", param_name)

    def _get_tag_path(self, experiment_id: str, run_uuid: str, tag_name: str) -> str:
        super()._get_tag_path(experiment_id, run_uuid, tag_name)
        return self._file_for(experiment_id, run_uuid, "tags", tag_name)

    def _file_for(self, experiment_id: str, run_id: str, folder: str, name: str) -> str:
        check_name(name, "key")
        return str(self._working.file_for(run(experiment_id, run_id), f"{folder}/{name}"))

    def _search_runs(self, experiment_ids: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        self._bring_all(experiment_ids, Kind.RUN, Kind.DATASET)
        with self._working.still():
            return super()._search_runs(experiment_ids, *args, **kwargs)

    def _search_datasets(self, experiment_ids: Sequence[str]) -> Any:
        self._bring_all(experiment_ids, Kind.RUN, Kind.DATASET)
        with self._working.still():
            return super()._search_datasets(experiment_ids)

    # -- changing -----------------------------------------------------------------------------

    def create_run(
        self,
        experiment_id: str | None,
        user_id: str,
        start_time: int,
        tags: list[RunTag],
        run_name: str | None,
    ) -> Run:
        home = self._experiment(experiment_id or DEFAULT_ID).experiment_id
        _check_new_run(user_id, run_name, tags)
        said = {tag.key: str(tag.value) for tag in tags}
        is_project = said.get(MLFLOW_SOURCE_TYPE) == _PROJECT
        if not is_project and PARENT not in said and (first := self._working.begun_for()):
            # Else a table by commit has a line for each, and none tells which is the commit's.
            said[PARENT] = first
            self._working.warn_once("further runs", _FURTHER)
        tags = [RunTag(*tag) for tag in {**said, **commit_tags(said)}.items()]
        with self._changing():
            created: Run = super().create_run(home, user_id, start_time, tags, run_name)
            new = run(home, created.info.run_id)
            needed = self._with_home(new)
        self._session.run_begins(new)
        if not is_project:
            self._session.claim(new, self.update_run_info)  # else its entry point's process
        try:
            self._send_now(*needed)  # another process, a project's entry point say, may wait for it
        except (SystemExit, KeyboardInterrupt):  # then nobody gets to know of it, who would end it
            self.update_run_info(new.name, RunStatus.KILLED, now_ms(), None)
            raise
        for listener in listeners:
            listener(created.info.run_id, self.log_inputs)
        return created

    def schedule_run(
        self,
        experiment_id: str,
        user_id: str,
        tags: list[RunTag],
        params: list[Param],
        *,
        run_id: str | None = None,
        status: int = RunStatus.SCHEDULED,
    ) -> Run:
        """Create a run that another machine is going to run: SCHEDULED until then.

        Not `create_run` and then its status: who looked meanwhile would see a run that is RUNNING.
        With a `run_id`, whoever makes it again, here or elsewhere, has the same run: one that the
        bucket has is returned as it is there. A parent, which no process runs, may be RUNNING.
        """
        home = self._experiment(experiment_id).experiment_id
        if run_id is not None:
            with mlflow_errors():
                if self._working.bring(run(home, run_id), refresh=True):
                    return self.get_run(run_id)
        with self._changing():
            if run_id is None:
                run_id = super().create_run(home, user_id, now_ms(), tags, None).info.run_id
            else:
                self._create_as(run(home, run_id), user_id, tags)
            super().log_batch(run_id, [], params, [])
            super().update_run_info(run_id, status, None, None)
            needed = self._with_home(run(home, run_id))
        self._session.hand_over(run(home, run_id))
        self._send_now(*needed)
        with self._working.still():
            return super().get_run(run_id)

    def _create_as(self, new: EntityId, user_id: str, tags: list[RunTag]) -> None:
        """Make a run's folder as `FileStore.create_run` does, which draws an id of its own."""
        name = next((tag.value for tag in tags if tag.key == MLFLOW_RUN_NAME), new.name[:8])
        info = RunInfo(
            run_id=new.name,
            run_name=name,
            experiment_id=new.experiment_id,
            artifact_uri=self._get_artifact_dir(new.experiment_id, new.name),
            user_id=user_id,
            status=RunStatus.to_string(RunStatus.SCHEDULED),
            start_time=now_ms(),
            end_time=None,
            lifecycle_stage=LifecycleStage.ACTIVE,
        )
        folder = self._working.path(new)
        for each in ("metrics", "params", "artifacts"):
            (folder / each).mkdir(parents=True, exist_ok=True)
        persisted = {**_make_persisted_run_info_dict(info), "deleted_time": None}
        write_yaml(str(folder), "meta.yaml", persisted)
        for tag in {**{MLFLOW_RUN_NAME: name}, **{tag.key: tag.value for tag in tags}}.items():
            self._set_run_tag(info, _validate_tag(*tag))
        self._working.changed(new)

    def _with_home(self, new: EntityId) -> tuple[EntityId, EntityId]:
        """Let a new entity's experiment be sent with it if the bucket does not have that.

        Only while both are being changed: the working copy is another one after the session's end.
        """
        home = experiment(new.experiment_id)
        if not self._working.in_bucket(home):
            self._working.changed(home)
        return home, new

    def update_run_info(
        self, run_id: str, run_status: int | None, end_time: int | None, run_name: str | None
    ) -> RunInfo:
        entity_id = self._run(run_id)
        check_text(run_name or "", "run_name")
        ends = for_all = run_status is not None and RunStatus.is_terminated(run_status)
        # Nobody says KILLED by the way, as MLflow says FINISHED where a process ends.
        if run_status is not None and ends and run_status != RunStatus.KILLED:
            run_status = self._session.last_status(run_id, run_status)
            for_all = self._session.may_end(entity_id, run_status, end_time)
            if not for_all:
                run_status = None
            if not for_all or run_status == RunStatus.SCHEDULED:
                end_time = None
        with self._changing(entity_id):
            info: RunInfo = super().update_run_info(run_id, run_status, end_time, run_name)
        if run_status == RunStatus.RUNNING:
            self._session.run_begins(entity_id)
            self._session.claim(entity_id, self.update_run_info)
            for listener in listeners:
                listener(run_id, self.log_inputs)
        elif ends:
            self._session.run_ends(entity_id, for_all=for_all)
        return info

    def delete_run(self, run_id: str) -> None:
        entity_id = self._run(run_id, refresh=True)
        with self._changing(entity_id):
            self._working.close_log(entity_id)
            super().delete_run(run_id)
        self._send_now(entity_id)

    restore_run = changing(FileStore.restore_run, partial(_run, refresh=True), now=True)

    def _hard_delete_run(self, run_id: str) -> None:
        entity_id = self._run(run_id)
        with mlflow_errors():
            self._working.delete(entity_id)

    def log_metric(self, run_id: str, metric: Metric) -> None:
        working = self._working
        with working.lock:
            log = working.metric_logs.get(run_id)
            if log is None or not log.accepts(metric):
                _validate_metric(metric.key, metric.value, metric.timestamp, metric.step)
                _check_metric(metric)
                log = log or self._open_metric_log(run_id)
            self._append(log, metric)
            working.changed(log.entity_id)
        try:
            self._session.changed()
        except KaggleOpsError as error:
            raise as_mlflow_error(error) from None
        if metric.model_id is not None:
            with self._changing():
                home = log.entity_id.experiment_id
                self._log_model_metric(home, metric.model_id, run_id, metric)

    def _open_metric_log(self, run_id: str) -> MetricLog:
        entity_id = self._run(run_id)
        with self._working.still():
            info = self._get_run_info(run_id)
            check_run_is_active(info)
            if info.status == RunStatus.to_string(RunStatus.RUNNING):
                self._session.run_begins(entity_id)
            path_of = self._working.file_for
            earlier = None
            if HANDED_OVER in os.environ and path_of(entity_id, f"tags/{LEGS}").is_file():
                earlier = self._working.earlier.setdefault(run_id, {})
            log = MetricLog(entity_id, lambda key: path_of(entity_id, f"metrics/{key}"), earlier)
            self._working.metric_logs[run_id] = log
        return log

    def _append(self, log: MetricLog, metric: Metric) -> None:
        try:
            log.append(metric)
        except OSError as error:
            # Here and not around the whole call: the points before this one are written.
            if not self._session.escape_full_disk(error):
                raise
            self._open_metric_log(log.entity_id.name).append(metric)

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Metric],
        params: Sequence[Param],
        tags: Sequence[RunTag],
    ) -> None:
        with self._changing(self._run(run_id)):
            metrics, params, tags = _validate_batch_log_data(metrics, params, tags)
            _validate_batch_log_limits(metrics, params, tags)
            _validate_param_keys_unique(params)
            for metric in metrics:
                _check_metric(metric)
            for entry in (*params, *tags):
                check_name(entry.key, "key")
                check_text(entry.value, "value")
            info = self._get_run_info(run_id)
            check_run_is_active(info)
            refused: MlflowException | None = None
            for param in params:
                try:
                    self._log_run_param(info, param)
                except MlflowException as error:
                    refused = refused or error  # what it came with is logged
            self._log_metrics(run_id, info.experiment_id, metrics)
            for tag in tags:
                self._set_run_tag(info, tag)
                if tag.key == MLFLOW_RUN_NAME:
                    status = RunStatus.from_string(info.status)
                    self.update_run_info(run_id, status, info.end_time, tag.value)
            if refused:
                raise refused

    def _log_metrics(self, run_id: str, experiment_id: str, metrics: Sequence[Metric]) -> None:
        log = self._working.metric_logs.get(run_id) or self._open_metric_log(run_id)
        new = [each for each in metrics if each.model_id is None]
        again = [each for each in metrics if each.model_id is not None]
        for metric in chain(new, log.lacking(again)):
            self._append(self._working.metric_logs.get(run_id) or log, metric)
        for metric in again:
            self._log_model_metric(experiment_id, metric.model_id, run_id, metric)

    # The file store truncates a file and then writes it: a kill between the two would leave a param
    # that is "" for ever, or a tag whose newest value is "".

    def _log_run_param(self, run_info: RunInfo, param: Param) -> None:
        file = self._get_param_path(run_info.experiment_id, run_info.run_id, param.key)
        value = self._writeable_value(param.value)
        check_text(value, "value")
        own, name = self._working.own_params, (run_info.run_id, param.key)
        if not Path(file).exists():
            self._write_whole(run_info, file, value)
        elif not (
            same_value(own.get(name, value).encode(), value.encode())
            and self._is_kept(run_info, Path(file), value.encode())
        ):
            self._validate_new_param_value(
                param_path=file, param_key=param.key, run_id=run_info.run_id, new_value=value
            )
        own[name] = value

    def _is_kept(self, run_info: RunInfo, file: Path, value: bytes) -> bool:
        """Tell whether a param has this value, or has it now under another name.

        It gets one where a script has another value for what is a param of its entry point.
        """
        entity_id = run(run_info.experiment_id, run_info.run_id)
        folder, first = self._working.path(entity_id), file.read_bytes()
        if same_value(first, value):
            return True
        source = folder / "tags" / MLFLOW_SOURCE_TYPE
        if not source.is_file() or source.read_text() != _PROJECT or self._session.in_server:
            return False
        path, *others = (
            each.relative_to(folder).as_posix()
            for each in (file, *file.parent.glob("*.*"))
            if each.is_file()
        )
        free = free_name(path, value, {each: (folder / each).read_bytes() for each in others})
        replace_file(folder / free, value, folder)
        said = kept_beside(entity_id, path, first, free, value)
        self._working.warn_once(said, said)
        return True

    def _set_run_tag(self, run_info: RunInfo, tag: RunTag) -> None:
        file = self._get_tag_path(run_info.experiment_id, run_info.run_id, tag.key)
        value = self._writeable_value(tag.value)
        check_text(value, "value")
        if tag.key == NOTE and Path(file).exists():
            value = with_note(Path(file).read_text(), value)
        self._write_whole(run_info, file, value)

    def _write_whole(self, run_info: RunInfo, file: str, value: str) -> None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        folder = self._working.path(run(run_info.experiment_id, run_info.run_id))
        replace_file(Path(file), value.encode(), folder)

    log_param = changing(FileStore.log_param, _run)
    delete_tag = changing(FileStore.delete_tag, _run)
    record_logged_model = changing(FileStore.record_logged_model, _run)
    log_outputs = changing(FileStore.log_outputs, _run)

    def set_tag(self, run_id: str, tag: RunTag) -> None:
        # What MLflow's SQL store refuses or cuts; its file store does not in every method.
        tag = _validate_tag(tag.key, tag.value)
        with self._changing(self._run(run_id)):
            super().set_tag(run_id, tag)

    def log_inputs(
        self,
        run_id: str,
        datasets: list[DatasetInput] | None = None,
        models: list[LoggedModelInput] | None = None,
    ) -> None:
        _validate_dataset_inputs(datasets or [])
        for item in datasets or []:
            tags = [("value", tag.value) for tag in item.tags or []]
            for field, text in (*dict(item.dataset).items(), *tags):
                check_text(text, field)
        entity_id = self._run(run_id)
        new = []
        for each in (item.dataset for item in datasets or []):
            dataset_id = self._get_dataset_id(each.name, each.digest)
            dataset = EntityId(Kind.DATASET, entity_id.experiment_id, dataset_id)
            # While the bucket is away, it counts as new: versions merge.
            with mlflow_errors(), suppress(BucketUnavailableError):
                if self._working.bring(dataset):
                    continue
            new.append(dataset)
        with self._changing(entity_id, *new):
            super().log_inputs(run_id, datasets, models)
            for dataset in new:
                self._working.adopt(dataset)


def _check_metric(metric: Metric) -> None:
    """Refuse a point that no store could read again."""
    check_name(metric.key)
    try:
        line_of(metric)
        fits = all(-(2**63) <= int(each) < 2**63 for each in (metric.timestamp, metric.step))
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise MlflowException.invalid_parameter_value(
            f"Invalid value for metric {metric.key!r}: {metric.value!r} at step {metric.step!r} "
            f"and time {metric.timestamp!r}. Value must be a double, and step and time 64-bit "
            "integers."
        )


def _check_new_run(user_id: str, run_name: str | None, tags: Sequence[RunTag]) -> None:
    # Before anything is written: MLflow would leave half a run behind.
    check_text(user_id or "", "user_id")
    check_text(run_name or "", "run_name")
    for tag in tags:
        _validate_tag_name(tag.key)
        check_name(tag.key, "key")
        check_text(tag.value, "value")
