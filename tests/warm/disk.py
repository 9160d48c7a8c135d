"""No test outlives a power cut: SQLite need not wait until the disk has what is written.

It would wait for hundreds of small writes where MLflow makes its tables.
"""

import sqlite3

import sqlalchemy as sa


@sa.event.listens_for(sa.Engine, "connect")
def go_on(connection: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")
