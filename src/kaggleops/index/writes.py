"""Rows into tables: many new entities at once, or one entity in place of its earlier rows.

What is too long or too large for a column is cut, after the database has refused it: MLflow's SQL
store refuses or cuts such values when they are logged, a bucket may hold them all the same.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kaggleops.index.database import ENTITIES, INDEX, writing
from kaggleops.index.tables import TABLES, Owned, Row, Rows, belonging, name_of
from kaggleops.mlruns import EntityId


def add(connection: sa.Connection, several: Sequence[Rows]) -> None:
    """Write the rows of entities of which there are none yet."""
    for tables in TABLES.values():
        for owned in tables:
            _insert(connection, owned, [row for rows in several for row in rows.get(owned, ())])


def replace(connection: sa.Connection, entity_id: EntityId, rows: Rows) -> None:
    """Make exactly these the rows of an entity: what others refer to, its first, stays in place."""
    main, *others = TABLES[entity_id.kind]
    names = [name_of(entity_id)]
    for owned in reversed(others):  # what refers to other rows goes before them
        connection.execute(owned.table.delete().where(belonging(owned, names)))
    mine, new = belonging(main, names), rows.get(main, ())
    if not new:
        connection.execute(main.table.delete().where(mine))
    for row in new:
        update = main.table.update().where(mine).values(**main.named(row))
        if not connection.execute(update).rowcount:
            _insert(connection, main, [row])
    for owned in others:
        places = [owned.columns.index(name) for name in owned.key]
        by_key = {tuple(row[each] for each in places): row for row in rows.get(owned, ())}
        _insert(connection, owned, [*by_key.values()])


def remove(connection: sa.Connection, entity_id: EntityId) -> None:
    """Remove the rows of an entity; those of one that has moved to another experiment stay."""
    main = TABLES[entity_id.kind][0]
    mine = belonging(main, [name_of(entity_id)])
    if "experiment_id" in main.table.c:
        mine &= main.table.c.experiment_id == int(entity_id.experiment_id)
    if connection.execute(sa.select(sa.literal(1)).select_from(main.table).where(mine)).first():
        replace(connection, entity_id, {})


def _insert(connection: sa.Connection, owned: Owned, rows: Sequence[Row]) -> None:
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        # Past SQLAlchemy, which would take longer than the database.
        columns = ", ".join(f'"{name}"' for name in owned.columns)
        places = ", ".join("?" * len(owned.columns))
        statement = f'INSERT INTO "{owned.name}" ({columns}) VALUES ({places})'  # noqa: S608
        connection.exec_driver_sql(statement, list(rows))
    else:
        connection.execute(sa.insert(owned.table), [owned.named(row) for row in rows])


def fit(connection: sa.Connection, entity_id: EntityId, rows: Rows) -> tuple[Rows, list[str]]:
    """Return an entity's rows cut to what the columns hold, and the columns that were cut.

    The entity's own name is never cut: it would be another's.
    """
    cut: dict[str, None] = {}
    fitted: dict[Owned, list[Row]] = {}
    exact = connection.dialect.name != "sqlite"  # keeps to what a type says of lengths and sizes
    for owned, several in rows.items():
        columns = sa.inspect(connection).get_columns(owned.name) if several else []
        types = {column["name"]: column["type"] for column in columns}
        fitting: dict[Row, Row] = {}
        for row in several:
            values = {}
            for name, value in owned.named(row).items():
                same = value == entity_id.name
                values[name] = value if same else _held(value, types[name], exact)
                if values[name] != value:
                    cut[f"{owned.name}.{name}"] = None
            # Of two that are one now, the first stays.
            fitting.setdefault(tuple(values[name] for name in owned.key), (*values.values(),))
        fitted[owned] = list(fitting.values())
    return fitted, list(cut)


def _held(value: Any, of_type: sa.types.TypeEngine[Any], exact: bool) -> Any:
    """Return what a column keeps of a value."""
    if isinstance(value, str):
        text = value.encode("utf-8", "replace").decode()  # YAML may hold half a character
        if not exact:
            return text
        # PostgreSQL has no place for NUL.
        return text.replace("\0", "\N{REPLACEMENT CHARACTER}")[: getattr(of_type, "length", None)]
    if isinstance(value, int) and isinstance(of_type, sa.Integer):
        is_narrow = exact and not isinstance(of_type, sa.BigInteger)
        largest = 2 ** (31 if is_narrow else 63) - 1
        return max(-largest - 1, min(largest, value))
    return value


_WORTH_STATISTICS = 100  # entities


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
