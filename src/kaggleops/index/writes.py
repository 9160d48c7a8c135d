"""Rows into tables: many new entities at once, or one entity in place of what is there of it.

Replacing writes only what differs, so that it may be repeated, and so that what other rows refer
to stays where it is.

What makes reading an index fast, besides MLflow's primary keys: indexes, and statistics.

MLflow's own indexes on metric points are set aside during the first import of a large bucket: made
anew at its end, they take a third of the time. A first import that dies leaves them missing, which
only makes reading slower, until the next process that refreshes the index makes them.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from kaggleops.index.database import ENTITIES, INDEX, writing
from kaggleops.index.runs import age
from kaggleops.index.tables import LATEST_METRICS, METRICS, TABLES, Owned, Row, Rows
from kaggleops.mlruns import EntityId


def add(connection: sa.Connection, several: Sequence[Rows]) -> None:
    """Write the rows of entities of which there are none yet."""
    for tables in TABLES.values():
        for owned in tables:
            _insert(connection, owned, [row for rows in several for row in rows.get(owned, ())])


def replace(
    connection: sa.Connection, entity_id: EntityId, rows: Rows, *, grown: bool = False
) -> None:
    """Make exactly these the rows of an entity.

    Args:
        connection: in whose transaction.
        entity_id: which.
        rows: all of its rows.
        grown: its metric points that are there stay; `rows` has only the others.
    """
    tables = [table for table in TABLES[entity_id.kind] if not (grown and table is METRICS)]
    if grown:
        rows = {**rows, LATEST_METRICS: _newest(connection, entity_id, rows[LATEST_METRICS])}
    found = [_compare(connection, owned, entity_id, rows.get(owned, ())) for owned in tables]
    # What refers to other rows goes before them, and comes after them.
    for difference in reversed(found):
        difference.delete(connection)
    for difference in found:
        difference.write(connection)
    if grown:
        _insert(connection, METRICS, rows[METRICS], unless_there=True)


def remove(connection: sa.Connection, entity_id: EntityId) -> None:
    """Remove the rows of an entity; those of one that has moved to another experiment stay."""
    main = TABLES[entity_id.kind][0]
    mine = main.of(main.table, entity_id)
    if "experiment_id" in main.table.c:
        mine &= main.table.c.experiment_id == int(entity_id.experiment_id)
    if connection.execute(sa.select(sa.literal(1)).select_from(main.table).where(mine)).first():
        replace(connection, entity_id, {})


def _newest(connection: sa.Connection, run: EntityId, added: Iterable[Row]) -> list[Row]:
    """Return the newest point of each of a run's metrics, of what is there and what is added."""
    there = _found(connection, LATEST_METRICS, run)
    return list({row[1]: row for row in sorted((*added, *there), key=age)}.values())


def _found(connection: sa.Connection, owned: Owned, entity_id: EntityId) -> Iterator[Row]:
    table = owned.table
    query = sa.select(*(table.c[name] for name in owned.columns)).where(owned.of(table, entity_id))
    return map(tuple, connection.execute(query))


def _insert(
    connection: sa.Connection, owned: Owned, rows: Sequence[Row], *, unless_there: bool = False
) -> None:
    if not rows:
        return
    conflict = " ON CONFLICT DO NOTHING" if unless_there else ""
    if connection.dialect.name == "sqlite":
        # Past SQLAlchemy, which would take longer than the database.
        columns = ", ".join(f'"{name}"' for name in owned.columns)
        places = ", ".join("?" * len(owned.columns))
        statement = f'INSERT INTO "{owned.name}" ({columns}) VALUES ({places}){conflict}'  # noqa: S608
        connection.exec_driver_sql(statement, list(rows))
    elif connection.dialect.driver == "psycopg2" and not unless_there:
        _copy(connection, owned, rows)
    else:
        values = [dict(zip(owned.columns, row, strict=True)) for row in rows]
        new = insert(owned.table)
        connection.execute(new.on_conflict_do_nothing() if unless_there else new, values)


def _copy(connection: sa.Connection, owned: Owned, rows: Sequence[Row]) -> None:
    """Write new rows into PostgreSQL the way in which it takes many."""
    columns = ", ".join(f'"{name}"' for name in owned.columns)
    statement = f'COPY "{owned.name}" ({columns}) FROM STDIN'
    text = io.StringIO("".join("\t".join(map(_field, row)) + "\n" for row in rows))
    refused = connection.dialect.loaded_dbapi.Error
    try:
        connection.connection.cursor().copy_expert(statement, text)
    except refused as error:
        raise sa.exc.DBAPIError.instance(statement, None, error, refused) from error


def _field(value: Any) -> str:
    if value is None:
        return r"\N"
    text = str(value)
    return text.translate(_ESCAPES) if isinstance(value, str) else text


_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


@dataclass(frozen=True)
class _Difference:
    """How what is there of one table differs from what should be."""

    owned: Owned
    gone: list[dict[str, Any]]
    changed: list[dict[str, Any]]
    new: list[Row]

    def delete(self, connection: sa.Connection) -> None:
        if self.gone:
            connection.execute(self.owned.table.delete().where(self._same_key()), self.gone)

    def write(self, connection: sa.Connection) -> None:
        if self.changed:
            others = [name for name in self.owned.columns if name not in self.owned.key]
            values: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in others}
            update = self.owned.table.update().where(self._same_key()).values(**values)
            connection.execute(update, self.changed)
        _insert(connection, self.owned, self.new)

    def _same_key(self) -> sa.ColumnElement[bool]:
        columns = self.owned.table.c
        return sa.and_(*(columns[name] == sa.bindparam(f"old_{name}") for name in self.owned.key))


def _compare(
    connection: sa.Connection, owned: Owned, entity_id: EntityId, rows: Iterable[Row]
) -> _Difference:
    found = _found(connection, owned, entity_id)
    if owned.key == owned.columns:
        # A row is there or it is not: a long run has a hundred thousand metric points.
        known, wanted = set(found), dict.fromkeys(rows)
        gone = [_old(owned, row) for row in known - wanted.keys()]
        return _Difference(owned, gone, [], [row for row in wanted if row not in known])
    places = [owned.columns.index(name) for name in owned.key]

    def by_key(several: Iterable[Row]) -> dict[Row, Row]:
        return {tuple(row[place] for place in places): row for row in several}

    there, new = by_key(found), by_key(rows)
    return _Difference(
        owned,
        gone=[_old(owned, key) for key in there.keys() - new.keys()],
        changed=[
            _old(owned, key) | _values(owned, row)
            for key, row in new.items()
            if key in there and there[key] != row
        ],
        new=[row for key, row in new.items() if key not in there],
    )


def _old(owned: Owned, key: Row) -> dict[str, Any]:
    return {f"old_{name}": value for name, value in zip(owned.key, key, strict=True)}


def _values(owned: Owned, row: Row) -> dict[str, Any]:
    named = zip(owned.columns, row, strict=True)
    return {f"new_{name}": value for name, value in named if name not in owned.key}


_WORTH_STATISTICS = 100  # entities


def set_indexes_aside(engine: sa.Engine) -> None:
    """Drop MLflow's secondary indexes on metric points."""
    with writing(engine) as connection:
        for index in METRICS.table.indexes:
            index.drop(connection, checkfirst=True)


def make_indexes(engine: sa.Engine) -> None:
    """Make those that are not there."""
    with writing(engine) as connection:
        for index in METRICS.table.indexes:
            index.create(connection, checkfirst=True)


def take_statistics(engine: sa.Engine) -> None:
    """Let the database look at what it holds, when that has become twice as much."""
    # Without them SQLite looks for a metric's values through the wrong index: 6.4 s instead of
    # 0.43 s for the first page of 9,400 runs.
    count = sa.select(sa.func.count()).select_from(ENTITIES)
    with writing(engine) as connection:
        now = connection.scalar(count) or 0
        then = connection.scalar(sa.select(INDEX.c.analyzed)) or 0
        if now >= max(_WORTH_STATISTICS, 2 * then):
            if connection.dialect.name == "sqlite":
                # A sample gives the same plans, in a hundredth of the time.
                connection.exec_driver_sql("PRAGMA analysis_limit=1000")
            connection.exec_driver_sql("ANALYZE")
            connection.execute(INDEX.update().values(analyzed=now))
