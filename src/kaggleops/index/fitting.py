"""Rows as a database can hold them: what is too long or too large for a column is cut.

MLflow's SQL store refuses or cuts such values when they are logged; a bucket may hold them all the
same. SQLite takes texts of any length, PostgreSQL does not. Which columns there are, and what they
hold, is asked of the database itself, and only after it has refused an entity's rows.
"""

from typing import Any

import sqlalchemy as sa

from kaggleops.index.tables import Owned, Row, Rows
from kaggleops.mlruns import EntityId

_BITS: dict[type, int] = {sa.SmallInteger: 16, sa.BigInteger: 64, sa.Integer: 32}
"""From the narrowest class of types to the widest."""


def fit(connection: sa.Connection, entity_id: EntityId, rows: Rows) -> tuple[Rows, list[str]]:
    """Return an entity's rows cut to what the columns hold.

    Args:
        connection: to the database.
        entity_id: whose rows; its name is never cut, for it would be another entity's.
        rows: any.

    Returns:
        The rows, and the columns in which something was cut.
    """
    cut: dict[str, None] = {}
    fitting = {owned: _fit(connection, entity_id, owned, each, cut) for owned, each in rows.items()}
    return fitting, list(cut)


def _fit(
    connection: sa.Connection,
    entity_id: EntityId,
    owned: Owned,
    rows: list[Row],
    cut: dict[str, None],
) -> list[Row]:
    found = sa.inspect(connection).get_columns(owned.name) if rows else []
    types = {column["name"]: column["type"] for column in found}
    exact = connection.dialect.name != "sqlite"
    fitting: dict[Row, Row] = {}
    for row in rows:
        values = []
        for name, value in zip(owned.columns, row, strict=True):
            held = value if value == entity_id.name else _held(value, types[name], exact)
            if held != value:
                cut[f"{owned.name}.{name}"] = None
            values.append(held)
        # Of two that are one now, the first stays.
        fitting.setdefault(
            tuple(values[owned.columns.index(name)] for name in owned.key), (*values,)
        )
    return list(fitting.values())


def _held(value: Any, of_type: sa.types.TypeEngine[Any], exact: bool) -> Any:
    """Return what a column keeps of a value.

    Args:
        value: any.
        of_type: the column's.
        exact: whether the database keeps to what the type says of lengths and sizes.
    """
    if isinstance(value, str):
        text = value.encode("utf-8", "replace").decode()  # YAML may hold half a character
        if not exact:
            return text
        # PostgreSQL has no place for NUL.
        return text.replace("\0", "\N{REPLACEMENT CHARACTER}")[: getattr(of_type, "length", None)]
    if isinstance(value, int) and isinstance(of_type, sa.Integer):
        known = next((each for each in _BITS if isinstance(of_type, each)), sa.BigInteger)
        largest = 2 ** (_BITS[known] - 1 if exact else 63) - 1
        return max(-largest - 1, min(largest, value))
    return value
