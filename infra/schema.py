"""Print src/kaggleops/index/schema.sql: MLflow's tables, as its migrations make them in SQLite.

python infra/schema.py >src/kaggleops/index/schema.sql
"""

import re
from importlib.metadata import version
from typing import Any

import sqlalchemy as sa

from kaggleops.index.migrations import migrate


def schema() -> str:
    """Return the statements, after a line with the release of MLflow."""
    engine = sa.create_engine("sqlite://")  # in memory
    with engine.begin() as connection:
        migrate(connection)
        database: Any = connection.connection.dbapi_connection
        statements = database.iterdump()
    kept = [each for each in statements if each not in ("BEGIN TRANSACTION;", "COMMIT;")]
    # MLflow makes a table's indexes, and its constraints, in whatever order.
    kept.sort(key=lambda each: each if re.match(r"CREATE (UNIQUE )?INDEX", each) else "")
    return "\n\n".join([f"-- MLflow {version('mlflow')}", *map(_in_order, kept)]) + "\n"


def _in_order(statement: str) -> str:
    lines = [line.rstrip() for line in statement.split("\n")]
    places = [place for place, line in enumerate(lines) if line.startswith("\tCONSTRAINT")]
    if not places:
        return "\n".join(lines)
    ordered = sorted(lines[place].rstrip(",") for place in places)
    for place, constraint in zip(places, ordered, strict=True):
        lines[place] = constraint + ("," if lines[place].endswith(",") else "")
    return "\n".join(lines)


if __name__ == "__main__":
    print(schema(), end="")
