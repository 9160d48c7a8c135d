"""Print src/kaggleops/index/schema.sql: MLflow's tables, as its migrations make them in SQLite.

PYTHONHASHSEED=0 python infra/schema.py >src/kaggleops/index/schema.sql

Without that seed, indexes and constraints come in another order each time.
"""

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
    lines = "\n\n".join([f"-- MLflow {version('mlflow')}", *kept]).split("\n")
    return "\n".join([*(line.rstrip() for line in lines), ""])


if __name__ == "__main__":
    print(schema(), end="")
