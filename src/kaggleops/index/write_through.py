"""Writes that go to the bucket first, and from there to the index.

One at a time: a write that the bucket refuses is undone here, and must take no other with it. That
others wait matters little: people in a browser write here, while trainings write to the bucket
themselves. What was written is shown by the index at once.
"""

import errno
import functools
import inspect
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import sqlalchemy as sa
from mlflow.entities import RunStatus
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    INVALID_STATE,
    TEMPORARILY_UNAVAILABLE,
    ErrorCode,
)

from kaggleops.bucket import ABSENT, ObjectNotFoundError
from kaggleops.errors import KaggleOpsError, UsageError, first_line
from kaggleops.index.database import ENTITIES, INDEX, DatabaseError, open_database, writing
from kaggleops.index.tables import LOGGED_MODELS, RUNS, TRACES
from kaggleops.index.transaction import import_alone, mark_lost, prepare
from kaggleops.mlruns import Change, Entity, EntityId, EntityStore, Kind
from kaggleops.mlruns.archive import check_packable
from kaggleops.mlruns.folder import now_ms
from kaggleops.mlruns.poll import in_order
from kaggleops.mlruns.store import Write
from kaggleops.redaction import keep_login, redacted
from kaggleops.tracking.artifacts import SERVED
from kaggleops.tracking.base import as_mlflow_error
from kaggleops.tracking.registry import BucketRegistryStore
from kaggleops.tracking.session import serving_session
from kaggleops.tracking.store import BucketTrackingStore
from kaggleops.tracking.unsupported import NotInABucketError

_ATTEMPTS = 5
_log = logging.getLogger("kaggleops")


def take(
    engine: sa.Engine, store: EntityStore, writes: Mapping[EntityId, Write | None], now_ms: int
) -> None:
    """Let the index show these entities as the bucket has them.

    Where the index has just what was replaced, what was written is newer, and known. Else a refresh
    may have been faster, and its rows may be the newer ones: then the bucket is asked.
    """
    for entity_id in in_order(writes):
        for _ in range(_ATTEMPTS):  # then the next refresh has it
            with engine.begin() as connection:
                before = _row(connection, entity_id)
            write, change = writes[entity_id], Change(entity_id, ABSENT)
            if write and write.replaced == (before.version if before else ABSENT):
                written = write.stored
                if written.version != ABSENT:
                    entity = store.unpack(entity_id, written.data)
                    change = Change(entity_id, written.version, entity)
            else:
                with suppress(ObjectNotFoundError):
                    found = store.read(entity_id)
                    change = Change(entity_id, found.version, found.entity)
            with writing(engine) as connection:
                if _row(connection, entity_id) != before:
                    continue
                import_alone(connection, prepare(change), now_ms, store.artifact_root)
                if before and change.entity and change.entity.notes.heartbeat:
                    # That somebody renamed a run says nothing about the machine that beats for it.
                    mine = ENTITIES.update().where(ENTITIES.c.key == entity_id.key)
                    connection.execute(mine.values(heard_ms=before.heard_ms))
                mark_lost(connection, now_ms)
            break


def _row(connection: sa.Connection, entity_id: EntityId) -> "sa.Row[Any, Any] | None":
    columns = sa.select(ENTITIES.c.version, ENTITIES.c.heard_ms)
    return connection.execute(columns.where(ENTITIES.c.key == entity_id.key)).one_or_none()


_HOMES = {Kind.RUN: RUNS, Kind.LOGGED_MODEL: LOGGED_MODELS, Kind.TRACE: TRACES}
"""Where the index has what lies in experiments; the first column is the name."""

_MISTAKES = (TypeError, ValueError, OverflowError, AttributeError, LookupError, RecursionError)
"""What a value comes to that nobody expected: it would so again, however often it is sent."""

_NO_NAME = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EINVAL)
"""What an operating system says to a name that can be no file's."""

_MOST_KEPT = 500  # entities in the working copy: it may lie on a small disk

_Store = TypeVar("_Store", bound=type)


def index_url(store_uri: str) -> str:
    """Return the index's address as SQLAlchemy has it."""
    return store_uri.removeprefix("kaggleops+")


class WriteThrough:
    """Makes changes in the bucket of an index, then in the index.

    Raises UsageError if there is no index, DatabaseError if it cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.bucket_uri = bucket_uri = _bucket_of(url)
        self._session = serving_session(bucket_uri)
        self.tracking = BucketTrackingStore(self._session)
        self.registry = BucketRegistryStore(self._session)
        self._working = self._session.working
        self._working.always_fresh = True
        self._written: dict[EntityId, Write | None] = {}
        self._working.store.on_write = self._written.__setitem__
        self._working.home_of = self._home_of
        self._working.store.before_write = _refuse_unreadable
        self._engine = open_database(url, bucket_uri, for_mlflow=True)
        # An artifact's location does not say which service has the bucket.
        os.environ[SERVED] = bucket_uri
        self._lock = threading.Lock()

    @property
    def artifact_root(self) -> str:
        """Where artifacts lie: in the bucket."""
        return self._working.store.artifact_root

    def write(self, change: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a change in the bucket, then in the index; return what it returns.

        After an MlflowException (the bucket refused) nothing has changed.
        """
        with self._lock:
            self._written.clear()
            try:
                result = change(*args, **kwargs)
                self._session.flush()
                return result
            except Exception as error:  # noqa: BLE001 - MLflow's file store raises anything
                raise as_answer(error) from None
            finally:
                # After an error: whoever saw it must not find the change made later on.
                self._forget(self._working.unsent)
                self._bring_to_index()

    def _bring_to_index(self) -> None:
        written = dict(self._written)
        try:
            take(self._engine, self._working.store, written, now_ms())
        except (KaggleOpsError, OSError, sa.exc.SQLAlchemyError) as error:
            # It is in the bucket, where the next refresh finds it.
            _log.warning("The index does not show a change yet: %s", error)
        for entity_id in written:
            # Or else everybody who polls the bucket would go on looking at it for hours.
            if entity_id.kind is Kind.RUN:
                known = entity_id in self._working.known
                status = self._working.read(entity_id).meta.get("status") if known else None
                if not known or RunStatus.is_terminated(status):
                    self._session.close_run(entity_id)
        if len(self._working.known) > _MOST_KEPT:
            self._forget(list(self._working.known))

    def _home_of(self, kind: Kind, name: str) -> str | None:
        """Return the experiment that the index has an entity in."""
        if kind not in _HOMES:
            return None
        owned = _HOMES[kind]
        columns = owned.table.c
        home = sa.select(columns.experiment_id).where(columns[owned.columns[0]] == name)
        with self._engine.begin() as connection:
            found = connection.scalar(home)
        return None if found is None else str(found)

    def _forget(self, entity_ids: Iterable[EntityId]) -> None:
        for entity_id in entity_ids:
            self._working.forget(entity_id)


write_through = functools.cache(WriteThrough)
"""Return this process's way to write to the bucket of an index."""


def _refuse_unreadable(entity: Entity) -> None:
    # Whoever may change a run could otherwise take it away from everybody, with one odd value.
    check_packable(entity, f"changing {entity.id}")


def as_answer(error: Exception) -> MlflowException:
    """Return an error as MLflow's SQL store answers it, with its reason.

    MLflow's file store says "internal error" of many a caller's mistake, and of a mistake in a
    batch. Its clients repeat whatever is answered with 5xx for minutes.
    """
    if isinstance(error, KaggleOpsError):
        return as_mlflow_error(error)
    if isinstance(error, MlflowException):
        behind = error.__context__
        if error.error_code == ErrorCode.Name(INTERNAL_ERROR) and isinstance(behind, Exception):
            return as_answer(behind)
        if error.error_code == ErrorCode.Name(INVALID_STATE):
            return MlflowException(error.message, INVALID_PARAMETER_VALUE)
        return error
    if isinstance(error, OSError):
        # Without the path, which is one of this machine's own.
        reason = error.strerror or type(error).__name__
        mistaken = error.errno in _NO_NAME
        code = INVALID_PARAMETER_VALUE if mistaken else TEMPORARILY_UNAVAILABLE
        return MlflowException(reason, code)
    # What the file store, and Python for it, says to a value that it cannot keep.
    mistake = isinstance(error, _MISTAKES) or type(error) is Exception
    if not mistake or isinstance(error, (AttributeError, LookupError)):
        _log.error("A question was not answered", exc_info=error)
    code = INVALID_PARAMETER_VALUE if mistake else INTERNAL_ERROR
    return MlflowException(redacted(str(error)) or type(error).__name__, code)


def _bucket_of(url: str) -> str:
    doing = "opening the index"
    try:
        engine = sa.create_engine(keep_login(url))
        doing += f" {engine.url.render_as_string()}"
        with engine.connect() as connection:
            found = connection.scalar(sa.select(INDEX.c.bucket))
        engine.dispose()
    except sa.exc.ArgumentError as error:
        raise UsageError(doing, str(error)) from error
    except sa.exc.SQLAlchemyError as error:
        problem = f"there is no index of a bucket ({first_line(error)})"
        raise DatabaseError(doing, problem, "kaggleops serve makes one.") from error
    if found is None:
        raise DatabaseError(doing, "it is empty", "kaggleops serve fills it.")
    return str(found)


def replica_of(
    bucket_store: type, part: str, writes: str, reads: tuple[str, ...]
) -> Callable[[_Store], _Store]:
    """Return a class decorator that makes one of MLflow's SQL stores a replica of a bucket.

    Every public method either only reads, or is a write that a store of the bucket (the attribute
    `part` of `WriteThrough`) does, or is refused: nothing is ever kept in the database alone. The
    names of those that only read, or call the others, begin with one of `reads`; but
    `get_or_create_…` does not.
    """

    def decorate(cls: _Store) -> _Store:
        for name in writes.split():
            setattr(cls, name, _delegation(part, name))
        for name in dir(cls):
            method = getattr(cls, name)
            if name.startswith("_") or not inspect.isfunction(method):
                continue
            if name.startswith(reads) and not name.startswith("get_or_create_"):
                setattr(cls, name, _answering(method))
            elif name not in vars(cls):
                setattr(cls, name, _refusal(bucket_store, name))
        return cls

    return decorate


def _delegation(part: str, name: str) -> Callable[..., Any]:
    def delegate(self: Any, *args: Any, **kwargs: Any) -> Any:
        through: WriteThrough = self.through
        return through.write(getattr(getattr(through, part), name), *args, **kwargs)

    delegate.__name__ = name
    return delegate


def _answering(read: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(read)
    def answer(*args: Any, **kwargs: Any) -> Any:
        try:
            return read(*args, **kwargs)
        except MlflowException as error:
            raise as_answer(error) from None

    return answer


def _refusal(bucket_store: type, name: str) -> Callable[..., NoReturn]:
    def refuse(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        if name in dir(bucket_store):
            getattr(bucket_store, name)(self)  # says what to use instead
        raise NotInABucketError(f"{name}: a bucket has no place for what this would keep.")

    refuse.__name__ = name
    return refuse
