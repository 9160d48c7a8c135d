"""The model registry: MLflow's own file registry over a working copy of the bucket.

A version number must not be given twice, so a change here is not merged afterwards: it is made on
the newest state and sent at once; if somebody else was faster, it is made again on what they left.
If the bucket refuses, nothing has changed and the caller gets the error.
"""

import functools
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from mlflow.entities.model_registry import RegisteredModel, RegisteredModelTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST
from mlflow.store.model_registry.abstract_store import AbstractStore
from mlflow.store.model_registry.file_store import (
    FileModelVersion,
    FileStore,
    _validate_model_name,
)
from mlflow.utils.validation import _validate_length_limit
from mlflow.utils.yaml_utils import write_yaml

from kaggleops.bucket import ABSENT, BucketError, BucketUnavailableError, ConflictError
from kaggleops.layout import SUFFIX, parse_key
from kaggleops.mlruns import Entity, EntityId, Kind
from kaggleops.mlruns.entity import META
from kaggleops.mlruns.folder import now_ms, read_folder, write_folder
from kaggleops.tracking.base import OverWorkingCopy, mlflow_errors, reading
from kaggleops.tracking.names import check_name, check_text
from kaggleops.tracking.store import BucketTrackingStore
from kaggleops.tracking.unsupported import UnsupportedRegistry
from kaggleops.tracking.working_copy import WorkingCopy
from kaggleops.tracking.working_folder import Known

_LONGEST_NAME = 256  # characters, in MLflow's SQL schema
_LONGEST = 240  # bytes of an object's name, which is a file's in a bucket that is a folder
_ATTEMPTS = 10

_T = TypeVar("_T")


def _transaction(method: Any) -> Any:
    """Return a method of the file registry as one that changes the bucket, or nothing."""

    @functools.wraps(method)
    def change(store: "BucketRegistryStore", name: str, *args: Any, **kwargs: Any) -> Any:
        return store._change(name, lambda: method(store, name, *args, **kwargs))

    return change


def _with_metrics_of_now(read: Any) -> Any:
    """Return a method that reads as one whose versions have what their models have logged by now.

    While the folder is held still for the method, nothing is looked up anew.
    """

    @functools.wraps(read)
    def anew(store: "BucketRegistryStore", *args: Any, **kwargs: Any) -> Any:
        found = read(store, *args, **kwargs)
        several = getattr(found, "latest_versions", found)
        versions = several if isinstance(several, list) else [several]
        model_ids = {each.model_id for each in versions if getattr(each, "model_id", None)}
        if not model_ids or store._working.inside:
            return found
        for each in model_ids:
            with suppress(MlflowException):
                BucketTrackingStore(store._session).get_logged_model(each)
        with store._working.still():
            return read(store, *args, **kwargs)

    return anew


class BucketRegistryStore(UnsupportedRegistry, OverWorkingCopy, FileStore):
    """MLflow's model registry over a bucket, by its tracking URI or by the session to log in."""

    interface = AbstractStore

    def _get_registered_model_tag_path(self, name: str, tag_name: str) -> str:
        path: str = super()._get_registered_model_tag_path(name, tag_name)
        return self._file_for(name, path, tag_name)

    def _get_registered_model_version_tag_path(
        self, name: str, version: int | str, tag_name: str
    ) -> str:
        path: str = super()._get_registered_model_version_tag_path(name, version, tag_name)
        return self._file_for(name, path, tag_name)

    def _get_registered_model_alias_path(self, name: str, alias: str) -> str:
        path: str = super()._get_registered_model_alias_path(name, alias)
        return self._file_for(name, path, alias)

    def _file_for(self, name: str, path: str, key: str) -> str:
        check_name(key, "key")
        model = self._working.path(_model(name))
        return str(self._working.file_for(_model(name), Path(path).relative_to(model).as_posix()))

    def _change(self, name: str, change: Callable[[], _T], *others: str) -> _T:
        for each in (name, *others):
            _validate_model_name(each)
            _validate_length_limit("Registered model name", _LONGEST_NAME, each)
        if self._working.inside:
            return change()  # a part of a change that is under way
        with mlflow_errors():
            return _transact(self._working, [_model(each) for each in (name, *others)], change)

    def _bring(self, name: str, *, refresh: bool = False) -> None:
        _validate_model_name(name)
        with mlflow_errors():
            self._working.bring(_model(name), refresh=refresh)

    # -- reading ------------------------------------------------------------------------------

    def _get_all_registered_model_paths(self) -> list[str]:
        with mlflow_errors():
            self._working.bring_all(Kind.REGISTERED_MODEL)
        with self._working.still():
            (self._working.root / "models").mkdir(exist_ok=True)
            paths: list[str] = super()._get_all_registered_model_paths()
            return paths

    def _get_file_model_version_from_dir(self, directory: str) -> FileModelVersion:
        # MLflow's own asks for the logged model wherever this process tracks, and makes a database
        # in the working directory for that: the model lies in this bucket.
        meta = self._read_yaml(directory, self.META_DATA_FILE_NAME)
        meta["tags"] = self._get_model_version_tags_from_dir(directory)
        meta["aliases"] = self._get_model_version_aliases(directory)
        if model_id := meta.get("model_id"):
            with suppress(MlflowException):
                model = BucketTrackingStore(self._session).get_logged_model(model_id)
                meta |= {"metrics": model.metrics, "params": model.params}
        return FileModelVersion.from_dictionary(meta)

    get_registered_model = _with_metrics_of_now(reading(FileStore.get_registered_model, _bring))
    get_latest_versions = _with_metrics_of_now(reading(FileStore.get_latest_versions, _bring))
    get_model_version = _with_metrics_of_now(reading(FileStore.get_model_version, _bring))
    get_model_version_download_uri = reading(FileStore.get_model_version_download_uri, _bring)
    get_model_version_by_alias = _with_metrics_of_now(
        reading(FileStore.get_model_version_by_alias, _bring)
    )

    # -- changing -----------------------------------------------------------------------------

    def create_registered_model(
        self, name: str, tags: list[RegisteredModelTag] | None = None, *args: Any, **kwargs: Any
    ) -> RegisteredModel:
        _check_new_name(name)
        create = super().create_registered_model
        return self._change(name, lambda: create(name, tags, *args, **kwargs))

    def rename_registered_model(self, name: str, new_name: str) -> RegisteredModel:
        _check_new_name(new_name)
        return self._change(new_name, lambda: self._renamed(name, new_name), name)

    def _renamed(self, name: str, new_name: str) -> RegisteredModel:
        # MLflow's own leaves tags and aliases behind, and fails where a version has a tag.
        old, new = (Path(self._get_registered_model_path(each)) for each in (name, new_name))
        if not old.is_dir():
            problem = f"Registered Model with name={name} not found"
            raise MlflowException(problem, RESOURCE_DOES_NOT_EXIST)
        if new.exists():
            problem = f"Registered Model (name={new_name}) already exists."
            raise MlflowException(problem, RESOURCE_ALREADY_EXISTS)
        old.rename(new)
        changed = {"name": new_name, "last_updated_timestamp": now_ms()}
        for folder in (new, *new.glob("version-*")):
            fields = self._read_yaml(str(folder), META)
            write_yaml(str(folder), META, {**fields, **changed}, overwrite=True)
        renamed: RegisteredModel = self._get_registered_model_from_path(str(new))
        return renamed

    update_registered_model = _transaction(FileStore.update_registered_model)
    delete_registered_model = _transaction(FileStore.delete_registered_model)
    set_registered_model_tag = _transaction(FileStore.set_registered_model_tag)
    delete_registered_model_tag = _transaction(FileStore.delete_registered_model_tag)
    set_registered_model_alias = _transaction(FileStore.set_registered_model_alias)
    delete_registered_model_alias = _transaction(FileStore.delete_registered_model_alias)

    def create_model_version(self, name: str, *args: Any, **kwargs: Any) -> Any:
        # MLflow's own would try again, and name another reason.
        for each in (*args, *kwargs.values()):
            for text in each if isinstance(each, list) else [each]:
                check_text(getattr(text, "value", text), "value")
        create = super().create_model_version
        return self._change(name, lambda: create(name, *args, **kwargs))

    update_model_version = _transaction(FileStore.update_model_version)
    transition_model_version_stage = _transaction(FileStore.transition_model_version_stage)
    delete_model_version = _transaction(FileStore.delete_model_version)
    set_model_version_tag = _transaction(FileStore.set_model_version_tag)
    delete_model_version_tag = _transaction(FileStore.delete_model_version_tag)


def _check_new_name(name: str) -> None:
    """Refuse a model's name that cannot be that of a file, here or in a copy of the bucket."""
    _validate_model_name(name)
    check_text(name, "name")
    key = _model(name).key
    if parse_key(key) is None or len(key.rpartition("/")[2]) > _LONGEST:
        raise MlflowException.invalid_parameter_value(
            f"Invalid model name: {name!r}. It names a file: without a backslash, and with no more "
            f"than {_LONGEST - len(SUFFIX)} bytes, where each letter beyond ASCII counts as six or "
            "more."
        )


def _model(name: str) -> EntityId:
    return EntityId(Kind.REGISTERED_MODEL, "", name)


def _transact(working: WorkingCopy, entity_ids: list[EntityId], change: Callable[[], _T]) -> _T:
    """Make a change of these entities on their newest state and send it, all or nothing.

    One that takes another's place comes before it: the bucket has one of them at any moment.
    """
    for _ in range(_ATTEMPTS):
        for entity_id in entity_ids:
            working.bring(entity_id, refresh=True)
        with working.still():
            before = {entity_id: _content(working, entity_id) for entity_id in entity_ids}
            try:
                result = change()
                for entity_id in entity_ids:
                    _commit(working, entity_id, before[entity_id])
                return result
            except BaseException as error:
                _roll_back(working, before)
                if not isinstance(error, ConflictError):
                    raise
    problem = "others kept changing it at the same time"
    raise BucketUnavailableError(f"changing {entity_ids[0]}", problem, "Try again.")


def _content(working: WorkingCopy, entity_id: EntityId) -> Entity | None:
    folder = working.path(entity_id)
    return read_folder(entity_id, folder) if folder.is_dir() else None


def _commit(working: WorkingCopy, entity_id: EntityId, before: Entity | None) -> None:
    after = _content(working, entity_id)
    version = working.known.get(entity_id, Known()).version
    if after is None and before is not None:
        working.store.delete(entity_id, expected=version)
        working.known.pop(entity_id, None)
    elif after is not None and after != before:
        # Two that register in the same millisecond make the same version.
        written = working.store.write(after, expected=version, distinct=True)
        working.adopt(entity_id, Known(written))


def _roll_back(working: WorkingCopy, before: dict[EntityId, Entity | None]) -> None:
    for entity_id, entity in before.items():
        if entity is None:
            shutil.rmtree(working.path(entity_id), ignore_errors=True)
            made = working.known.pop(entity_id, Known())
            if made.version != ABSENT:
                with suppress(BucketError):
                    working.store.delete(entity_id, expected=made.version)
        else:
            write_folder(entity, working.path(entity_id), notes=False)
