"""Entities that somebody has just written, brought into the index at once."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from kaggleops.bucket import ABSENT, ObjectNotFoundError, StoredObject
from kaggleops.index.database import ENTITIES, writing
from kaggleops.index.importing import import_alone
from kaggleops.index.lost import mark_lost
from kaggleops.mlruns import Change, EntityId, EntityStore
from kaggleops.mlruns.polling import in_order
from kaggleops.mlruns.store import Write

_ATTEMPTS = 5


def take(
    engine: sa.Engine, store: EntityStore, writes: Mapping[EntityId, Write | None], now_ms: int
) -> None:
    """Let the index show these entities as the bucket has them.

    Where the index has just what was replaced, what was written is newer, and known. Else a refresh
    may have been faster, and its rows may be the newer ones: then the bucket is asked.

    Args:
        engine: of the index's database.
        store: the bucket's entities.
        writes: which, and what became of them; None where that is not known.
        now_ms: the time, in milliseconds since the epoch.
    """
    for entity_id in in_order(writes):
        for _ in range(_ATTEMPTS):  # then the next refresh has it
            with engine.begin() as connection:
                before = _row(connection, entity_id)
            write = writes[entity_id]
            if write and write.replaced == (before.version if before else ABSENT):
                change = _written(store, entity_id, write.stored)
            else:
                change = _read(store, entity_id)
            with writing(engine) as connection:
                if _row(connection, entity_id) != before:
                    continue
                import_alone(connection, change, now_ms, store.artifact_root)
                if before is not None:
                    _keep_silence(connection, change, before.heard_ms)
                mark_lost(connection, now_ms)
            break


def _row(connection: sa.Connection, entity_id: EntityId) -> "sa.Row[Any, Any] | None":
    columns = sa.select(ENTITIES.c.version, ENTITIES.c.heard_ms)
    return connection.execute(columns.where(ENTITIES.c.key == entity_id.key)).one_or_none()


def _read(store: EntityStore, entity_id: EntityId) -> Change:
    try:
        stored = store.read(entity_id)
    except ObjectNotFoundError:
        return Change(entity_id, ABSENT)
    assert stored is not None  # noqa: S101 - it was read unconditionally
    return Change(entity_id, stored.version, stored.entity)


def _written(store: EntityStore, entity_id: EntityId, stored: StoredObject) -> Change:
    if stored.version == ABSENT:
        return Change(entity_id, ABSENT)
    return Change(entity_id, stored.version, store.unpack(entity_id, stored.data))


def _keep_silence(connection: sa.Connection, change: Change, heard_ms: int) -> None:
    # That somebody renamed a run says nothing about the machine that beats for it.
    if change.entity is not None and change.entity.notes.heartbeat:
        mine = ENTITIES.c.key == change.id.key
        connection.execute(ENTITIES.update().where(mine).values(heard_ms=heard_ms))
