"""Experiments in the bucket."""

from collections.abc import Callable, Iterable
from typing import Any

from mlflow.entities import Experiment, ExperimentTag, LifecycleStage, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from mlflow.store.tracking.file_store import FileStore
from mlflow.utils.validation import (
    _validate_experiment_artifact_location_length,
    _validate_experiment_name,
    _validate_experiment_tag,
)

from kaggleops.layout import DEFAULT_ID, DEFAULT_NAME, is_experiment_id
from kaggleops.mlruns import EntityId, Kind, experiment
from kaggleops.mlruns.locations import is_inside
from kaggleops.tracking.base import StoreBase, changing, mlflow_errors
from kaggleops.tracking.names import check_name, check_text, experiment_ids
from kaggleops.tracking.session import Session


class ExperimentStore(StoreBase):
    """The part of the tracking store that knows experiments."""

    def __init__(self, store_uri: str | Session) -> None:
        super().__init__(store_uri)
        self._not_found: set[str] = set()
        """Names that were looked up here, were free, and have not been created since."""

    # -- finding (hooks of the file store) ----------------------------------------------------

    def _get_experiment_path(
        self, experiment_id: str, view_type: str = ViewType.ALL, assert_exists: bool = False
    ) -> str | None:
        experiment_id = str(experiment_id)
        self._bring_experiment(experiment_id)
        path: str | None = super()._get_experiment_path(experiment_id, view_type, assert_exists)
        return path

    def _get_experiment_tag_path(self, experiment_id: str, tag_name: str) -> str:
        super()._get_experiment_tag_path(experiment_id, tag_name)  # checks both
        check_name(tag_name, "key")
        return str(self._working.file_for(experiment(experiment_id), f"tags/{tag_name}"))

    def _bring_experiment(self, experiment_id: str, *, refresh: bool = False) -> bool:
        if not is_experiment_id(experiment_id):
            return False
        with mlflow_errors():
            if self._working.bring(experiment(experiment_id), refresh=refresh):
                return True
        if experiment_id != DEFAULT_ID:
            return False
        # MLflow takes for granted that it is there; the bucket gets it with its first run.
        with self._working.still():
            self._create_experiment_with_id(DEFAULT_NAME, DEFAULT_ID, None, None)
            self._working.adopt(experiment(DEFAULT_ID))
        return True

    def _bring_all(self, experiment_ids: Iterable[Any], *kinds: Kind) -> None:
        with mlflow_errors():
            for experiment_id in map(str, experiment_ids):
                for kind in kinds if self._bring_experiment(experiment_id) else ():
                    self._working.bring_all(kind, experiment_id)

    def _bring_experiments(self) -> None:
        with mlflow_errors():
            self._working.bring_all(Kind.EXPERIMENT)
        self._bring_experiment(DEFAULT_ID)

    def _experiment(self, experiment_id: str) -> EntityId:
        experiment_id = str(experiment_id)
        if not self._bring_experiment(experiment_id, refresh=True):
            message = f"Could not find experiment with ID {experiment_id}"
            raise MlflowException(message, RESOURCE_DOES_NOT_EXIST)
        return experiment(experiment_id)

    # -- reading ------------------------------------------------------------------------------

    def get_experiment(self, experiment_id: str | None) -> Experiment:
        self._bring_experiment(str(experiment_id or DEFAULT_ID), refresh=True)
        with self._working.still():
            return super().get_experiment(experiment_id)

    def get_experiment_by_name(self, experiment_name: str) -> Experiment | None:
        # Most are where their name says: one cheap request instead of a listing.
        for experiment_id in experiment_ids(experiment_name):
            if not self._bring_experiment(experiment_id, refresh=True):
                break
            found: Experiment = super().get_experiment(experiment_id)
            if found.name == experiment_name:
                return found
        # Renamed or imported ones are elsewhere.
        self._bring_experiments()
        with self._working.still():
            every = super().search_experiments(ViewType.ALL, max_results=50_000)
        named = next((found for found in every if found.name == experiment_name), None)
        if named is None:
            self._not_found.add(experiment_name)
        return named

    def search_experiments(self, *args: Any, **kwargs: Any) -> Any:
        self._bring_experiments()
        with self._working.still():
            return super().search_experiments(*args, **kwargs)

    # -- changing -----------------------------------------------------------------------------

    def create_experiment(
        self,
        name: str,
        artifact_location: str | None = None,
        tags: list[ExperimentTag] | None = None,
    ) -> str:
        _validate_experiment_name(name)
        check_text(name, "name")
        if artifact_location:
            _validate_experiment_artifact_location_length(artifact_location)
            if not is_inside(artifact_location, self.artifact_root_uri):
                raise MlflowException(
                    f"creating experiment {name!r}: its artifact_location {artifact_location!r} is "
                    f"outside of {self.artifact_root_uri}/, where this bucket's artifacts lie. "
                    "Leave it out.",
                    INVALID_PARAMETER_VALUE,
                )
        for tag in tags or []:
            _validate_experiment_tag(tag.key, tag.value)
            check_name(tag.key, "key")
        was_free = name in self._not_found
        if not was_free:
            self._validate_experiment_does_not_exist(name)
        self._not_found.discard(name)
        for experiment_id in experiment_ids(name):
            if not self._bring_experiment(experiment_id, refresh=True):
                break
            found = super().get_experiment(experiment_id)
            if found.name == name:
                # Somebody else was faster. A caller that looked first, as `mlflow.set_experiment`
                # does, gets what it wants: refused, it would silently go on in Default.
                if was_free and found.lifecycle_stage == LifecycleStage.ACTIVE:
                    return experiment_id
                self._validate_experiment_does_not_exist(name)
        with self._changing(experiment(experiment_id)):
            self._create_experiment_with_id(name, experiment_id, artifact_location, tags)
        self._send_now(experiment(experiment_id))
        return experiment_id

    def rename_experiment(self, experiment_id: str, new_name: str) -> None:
        entity_id = self._experiment(experiment_id)
        check_text(new_name, "name")
        self.get_experiment_by_name(new_name)  # brings one of that name here, if there is one
        with self._changing(entity_id):
            super().rename_experiment(experiment_id, new_name)
        self._send_now(entity_id)

    def delete_experiment(self, experiment_id: str) -> None:
        self._with_runs(experiment_id, super().delete_experiment)

    def restore_experiment(self, experiment_id: str) -> None:
        self._with_runs(experiment_id, super().restore_experiment)

    def set_experiment_tag(self, experiment_id: str, tag: ExperimentTag) -> None:
        check_text(tag.value, "value")
        with self._changing(self._experiment(experiment_id)):
            super().set_experiment_tag(experiment_id, tag)

    delete_experiment_tag = changing(FileStore.delete_experiment_tag, _experiment)

    def _with_runs(self, experiment_id: str, change: Callable[[str], None]) -> None:
        # The file store deletes and restores its runs with it.
        affected = [self._experiment(experiment_id)]
        with mlflow_errors():
            self._working.bring_all(Kind.RUN, experiment_id)
        affected += self._working.held(Kind.RUN, experiment_id)
        with self._changing(*affected):
            change(experiment_id)
        self._send_now(*affected)
