"""What every part of the tracking store stands on: MLflow's file store over a working copy."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.store.tracking.file_store import FileStore

from kaggleops.bucket import (
    AccessDeniedError,
    BucketNotFoundError,
    BucketUnavailableError,
    ConflictError,
)
from kaggleops.bucket.location import bucket_uri
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.mlruns import BrokenEntityError, EntityId, Kind
from kaggleops.mlruns.folder import TRASH
from kaggleops.tracking.outbox import disk_is_full
from kaggleops.tracking.session import Session, session
from kaggleops.tracking.working_copy import WorkingCopy


class OverWorkingCopy:
    """A file store of MLflow's over the working copy of a bucket, by tracking URI or session."""

    interface: type

    def __init__(self, store_uri: str | Session) -> None:
        # Not the file store's own constructor: it refuses to be used (its maintenance mode), and
        # it makes a default experiment that a bucket may have already.
        self.interface.__init__(self)  # type: ignore[misc] # each of the two has its own
        with mlflow_errors():
            if not isinstance(store_uri, Session):
                store_uri = session(bucket_uri(store_uri))
            self._session = store_uri

    @property
    def _working(self) -> WorkingCopy:
        return self._session.working

    @property
    def root_directory(self) -> str:
        """The file store's folder: it differs between a process and its forked child."""
        return str(self._working.root)


class StoreBase(OverWorkingCopy, FileStore):
    """What all of the tracking store is made of."""

    interface = AbstractStore

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, method in list(vars(cls).items()):
            if not name.startswith("_") and callable(method) and name != "interface":
                setattr(cls, name, _surviving_a_full_disk(method))

    @property
    def trash_folder(self) -> str:
        """Where the file store keeps deleted experiments."""
        return str(self._working.root / TRASH)

    @property
    def artifact_root_uri(self) -> str:
        """Where artifacts lie: beside `mlruns`, in the bucket."""
        return self._working.store.artifact_root

    def flush(self) -> None:
        """Send what changed now; KaggleOpsError if not all of it could be sent (it is kept)."""
        self._session.flush()

    @contextmanager
    def _changing(self, *entity_ids: EntityId) -> Iterator[None]:
        """Change these entities in the working copy; they are sent within the flush interval."""
        with mlflow_errors():
            with self._working.changing(*entity_ids):
                yield
            self._session.changed()

    def _send_now(self, *entity_ids: EntityId) -> None:
        """Send a change that others wait for; a bucket that is missing or refuses is an error."""
        with mlflow_errors():
            self._session.send(entity_ids, fatal=(AccessDeniedError, BucketNotFoundError))

    def _found(self, kind: Kind, name: str, *, refresh: bool = False) -> EntityId | None:
        with mlflow_errors():
            return self._working.locate(kind, name, refresh=refresh)

    def _required(self, kind: Kind, name: str, called: str, *, refresh: bool = False) -> EntityId:
        entity_id = self._found(kind, name, refresh=refresh)
        if entity_id is None:
            raise MlflowException(f"{called} not found", RESOURCE_DOES_NOT_EXIST)
        return entity_id


def changing(method: Any, find: Callable[..., EntityId], *, now: bool = False) -> Any:
    """Return a method of the file store as one that changes its first argument's entity.

    `now`: others wait for the change.
    """
    first = list(inspect.signature(method).parameters)[1]

    @functools.wraps(method)
    def change(store: StoreBase, *args: Any, **kwargs: Any) -> Any:
        entity_id = find(store, args[0] if args else kwargs[first])
        with store._changing(entity_id):
            result = method(store, *args, **kwargs)
        if now:
            store._send_now(entity_id)
        return result

    return change


def reading(method: Any, find: Callable[..., object]) -> Any:
    """Return a method of the file store as one that reads its first argument's entity, fresh."""
    first = list(inspect.signature(method).parameters)[1]

    @functools.wraps(method)
    def read(store: Any, *args: Any, **kwargs: Any) -> Any:
        find(store, args[0] if args else kwargs[first], refresh=True)
        with store._working.still():
            return method(store, *args, **kwargs)

    return read


# What a training calls for its own sake alone, not for what comes back.
_LOGGING = ("log_", "set_tag", "delete_tag", "record_")


def _surviving_a_full_disk(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method be tried again in another folder when the working copy's disk is full."""

    @functools.wraps(method)
    def surviving(store: StoreBase, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(store, *args, **kwargs)
        except Exception as error:
            if not disk_is_full(error):
                raise
            if store._session.escape_full_disk(error):
                return method(store, *args, **kwargs)
            if not method.__name__.startswith(_LOGGING):
                raise
            full = f"Logging goes on, but there is no space for it on any disk: {error}"
            store._working.warn_once("full disk", full)

    return surviving


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """Turn our errors into MLflow's, which its clients and its server know how to show."""
    try:
        yield
    except KaggleOpsError as error:
        # Not `from error`: the message says it all, and a user's mistake needs no second trace.
        raise as_mlflow_error(error) from None
    except UnicodeEncodeError as error:  # half a character, which no file can hold
        raise MlflowException.invalid_parameter_value(f"Not Unicode: {error}") from error


def as_mlflow_error(error: KaggleOpsError) -> MlflowException:
    """Return MLflow's form of one of our errors."""
    codes = {
        (BucketUnavailableError, ConflictError): TEMPORARILY_UNAVAILABLE,  # clients try again
        (UsageError, BrokenEntityError): INVALID_PARAMETER_VALUE,
        (AccessDeniedError,): PERMISSION_DENIED,
        (BucketNotFoundError,): RESOURCE_DOES_NOT_EXIST,
    }
    code = next((code for kinds, code in codes.items() if isinstance(error, kinds)), INTERNAL_ERROR)
    return MlflowException(str(error), error_code=code)
