"""The model registry: MLflow's own file registry over a working copy of the bucket.

A version number must not be given twice, so a change here is not merged afterwards: it is made on
the newest state and sent at once; if somebody else was faster, it is made again on what they left.
If the bucket refuses, nothing has changed and the caller gets the error.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mlflow.entities.model_registry import (
    ModelVersion,
    ModelVersionTag,
    RegisteredModel,
    RegisteredModelTag,
)
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.abstract_store import AbstractStore
from mlflow.store.model_registry.file_store import FileStore, _validate_model_name
from mlflow.utils.validation import _validate_length_limit

from kaggleops.layout import SUFFIX, parse_key
from kaggleops.mlruns import EntityId, Kind
from kaggleops.tracking.base import mlflow_errors, session_of
from kaggleops.tracking.names import check_name, check_text
from kaggleops.tracking.sender import transact
from kaggleops.tracking.session import Session
from kaggleops.tracking.unsupported import UnsupportedRegistry
from kaggleops.tracking.working_copy import WorkingCopy

_LONGEST_NAME = 256  # characters, in MLflow's SQL schema

_T = TypeVar("_T")

_LONGEST = 240  # bytes of an object's name, which is a file's in a bucket that is a folder


class BucketRegistryStore(UnsupportedRegistry, FileStore):
    """MLflow's model registry over a bucket.

    Args:
        store_uri: the same address as the tracking URI, or the session to log in.
    """

    def __init__(self, store_uri: str | Session) -> None:
        # Not the file registry's own constructor: it refuses to be used (its maintenance mode).
        AbstractStore.__init__(self)
        with mlflow_errors():
            self._session = session_of(store_uri)

    @property
    def _working(self) -> WorkingCopy:
        return self._session.working

    @property
    def root_directory(self) -> str:
        """The file store's folder: it differs between a process and its forked child."""
        return str(self._working.root)

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
            return transact(self._working, [_model(each) for each in (name, *others)], change)

    def _fresh(self, name: str) -> None:
        _validate_model_name(name)
        with mlflow_errors():
            self._working.bring(_model(name), refresh=True)

    # -- reading ------------------------------------------------------------------------------

    def _get_all_registered_model_paths(self) -> list[str]:
        with mlflow_errors():
            self._working.bring_all(Kind.REGISTERED_MODEL)
        with self._working.still():
            (self._working.root / "models").mkdir(exist_ok=True)
            paths: list[str] = super()._get_all_registered_model_paths()
            return paths

    def get_registered_model(self, name: str) -> RegisteredModel:
        self._fresh(name)
        with self._working.still():
            return super().get_registered_model(name)

    def get_latest_versions(self, name: str, stages: list[str] | None = None) -> list[ModelVersion]:
        self._fresh(name)
        with self._working.still():
            return super().get_latest_versions(name, stages)

    def get_model_version(self, name: str, version: int | str) -> ModelVersion:
        self._fresh(name)
        with self._working.still():
            return super().get_model_version(name, version)

    def get_model_version_download_uri(self, name: str, version: int | str) -> str:
        self._fresh(name)
        with self._working.still():
            uri: str = super().get_model_version_download_uri(name, version)
            return uri

    def get_model_version_by_alias(self, name: str, alias: str) -> ModelVersion:
        self._fresh(name)
        with self._working.still():
            return super().get_model_version_by_alias(name, alias)

    # -- changing -----------------------------------------------------------------------------

    def create_registered_model(
        self, name: str, tags: list[RegisteredModelTag] | None = None, *args: Any, **kwargs: Any
    ) -> RegisteredModel:
        _check_new_name(name)
        create = super().create_registered_model
        return self._change(name, lambda: create(name, tags, *args, **kwargs))

    def update_registered_model(self, name: str, *args: Any, **kwargs: Any) -> RegisteredModel:
        update = super().update_registered_model
        return self._change(name, lambda: update(name, *args, **kwargs))

    def rename_registered_model(self, name: str, new_name: str) -> RegisteredModel:
        _check_new_name(new_name)
        rename = super().rename_registered_model
        return self._change(name, lambda: rename(name, new_name), new_name)

    def delete_registered_model(self, name: str) -> None:
        delete = super().delete_registered_model
        self._change(name, lambda: delete(name))

    def set_registered_model_tag(self, name: str, tag: RegisteredModelTag) -> None:
        set_tag = super().set_registered_model_tag
        self._change(name, lambda: set_tag(name, tag))

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        delete_tag = super().delete_registered_model_tag
        self._change(name, lambda: delete_tag(name, key))

    def set_registered_model_alias(self, name: str, alias: str, version: int | str) -> None:
        set_alias = super().set_registered_model_alias
        self._change(name, lambda: set_alias(name, alias, version))

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        delete_alias = super().delete_registered_model_alias
        self._change(name, lambda: delete_alias(name, alias))

    def create_model_version(self, name: str, *args: Any, **kwargs: Any) -> ModelVersion:
        create = super().create_model_version
        return self._change(name, lambda: create(name, *args, **kwargs))

    def update_model_version(self, name: str, *args: Any, **kwargs: Any) -> ModelVersion:
        update = super().update_model_version
        return self._change(name, lambda: update(name, *args, **kwargs))

    def transition_model_version_stage(self, name: str, *args: Any, **kwargs: Any) -> ModelVersion:
        transition = super().transition_model_version_stage
        return self._change(name, lambda: transition(name, *args, **kwargs))

    def delete_model_version(self, name: str, version: int | str) -> None:
        delete = super().delete_model_version
        self._change(name, lambda: delete(name, version))

    def set_model_version_tag(self, name: str, version: int | str, tag: ModelVersionTag) -> None:
        set_tag = super().set_model_version_tag
        self._change(name, lambda: set_tag(name, version, tag))

    def delete_model_version_tag(self, name: str, version: int | str, key: str) -> None:
        delete_tag = super().delete_model_version_tag
        self._change(name, lambda: delete_tag(name, version, key))


def _check_new_name(name: str) -> None:
    """Refuse a model's name that cannot be that of a file, here or in a copy of the bucket.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE.
    """
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
