"""Databases of the tests' own: a real PostgreSQL, and an index that is no bucket's yet."""

import os
import pwd
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.warm import disk

__all__ = ["disk", "empty_index", "postgresql", "postgresql_database", "postgresql_index"]


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of an empty PostgreSQL database, on a socket that nobody else knows."""
    if shutil.which("initdb") is None or find_spec("psycopg2") is None:
        from tests.conftest import unavailable

        unavailable("there is no PostgreSQL, or no psycopg2")
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        home = Path(folder)
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            shutil.chown(home, user)
        data = home / "data"

        def run(*command: str | Path) -> None:
            options = {"user": user} if os.geteuid() == 0 else {}
            subprocess.run(command, check=True, capture_output=True, cwd=home, **options)

        run("initdb", "--auth=trust", f"--username={user}", "--no-sync", data)
        settings = f"-c listen_addresses='' -c unix_socket_directories='{home}' -c fsync=off"
        log = home / "log"
        run(
            "pg_ctl", "start", "--wait", f"--pgdata={data}", f"--log={log}", f"--options={settings}"
        )
        try:
            yield f"postgresql+psycopg2://{user}@/postgres?host={home}"
        finally:
            run("pg_ctl", "stop", "--mode=immediate", f"--pgdata={data}")


def _create(postgresql: str, name: str, template: str = "template1") -> str:
    name = "".join(each if each.isalnum() else "_" for each in name)
    server = sa.create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
    server.dispose()
    return postgresql.replace("/postgres?", f"/{name}?")


@pytest.fixture
def postgresql_database(postgresql: str, request: pytest.FixtureRequest) -> str:
    """The URL of a database in PostgreSQL of this test's own."""
    return _create(postgresql, request.node.name)


@pytest.fixture(scope="session")
def _postgresql_template(postgresql: str) -> str:
    """As `empty_index`."""
    from kaggleops.index.database import INDEX, open_database

    engine = open_database(_create(postgresql, "empty_index"), "nobody's")
    with engine.begin() as connection:
        connection.execute(INDEX.delete())
    engine.dispose()
    return "empty_index"


@pytest.fixture
def postgresql_index(
    postgresql: str, _postgresql_template: str, request: pytest.FixtureRequest
) -> str:
    """The URL of an index in PostgreSQL that is no bucket's yet."""
    return _create(postgresql, request.node.name, _postgresql_template)


@pytest.fixture(scope="session")
def empty_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index that is no bucket's yet, to be copied: MLflow's migrations take seconds."""
    from kaggleops.index.database import INDEX, open_database

    database = tmp_path_factory.mktemp("empty") / "index.db"
    engine = open_database(f"sqlite:///{database}", "nobody's")
    with engine.begin() as connection:
        connection.execute(INDEX.delete())
    engine.dispose()
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return database
