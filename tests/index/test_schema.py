"""The index's tables are MLflow's own, however they were made; an index of an earlier release."""

import runpy
import sqlite3
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import sqlalchemy as sa
from mlflow.store.db.base_sql_model import Base
from mlflow.store.model_registry.dbmodels import models as _registry  # noqa: F401
from mlflow.store.tracking.dbmodels import models as _tracking  # noqa: F401

from kaggleops.index import database
from kaggleops.index.database import open_database
from kaggleops.index.refresh import Index
from kaggleops.index.tables import TABLES, Owned
from tests.index.worlds import HOME, POINTS, RUN, World, world

__all__ = ["world"]

EVERY = [owned for of_kind in TABLES.values() for owned in of_kind]


def test_the_copy_is_what_mlflows_migrations_make() -> None:
    """Where another release of MLflow is the pinned one, infra/schema.py makes it anew."""
    made = runpy.run_path(str(Path(__file__).parents[2] / "infra/schema.py"))["schema"]()
    assert made == database.SCHEMA.read_text()


@pytest.mark.parametrize("owned", EVERY, ids=lambda each: each.name)
def test_a_table_is_as_mlflow_has_it(owned: Owned) -> None:
    theirs = Base.metadata.tables[owned.name]
    assert set(owned.key) == set(theirs.primary_key.columns.keys()) & set(owned.columns)
    for name in owned.columns:
        is_boolean = isinstance(theirs.c[name].type, sa.Boolean)
        assert isinstance(owned.table.c[name].type, sa.Boolean) == is_boolean, name


@pytest.mark.usefixtures("cold_python")
def test_who_only_brings_an_index_up_to_date_imports_no_mlflow(world: World) -> None:
    """It takes four seconds and 200 MB."""
    world.put(HOME)
    world.put(RUN, POINTS)
    program = f"""
import sys
from kaggleops.bucket import open_bucket
from kaggleops.index.refresh import Index
from kaggleops.mlruns import EntityStore
store = EntityStore(open_bucket({world.bucket.uri!r}))
index = Index("sqlite:///{world.database.parent}/new.db", store)
print(index.refresh().changed, {{"mlflow", "alembic", "pandas"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"2 set()\n"


def test_an_older_mlflow_makes_its_own_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = tmp_path / "schema.sql"
    newer.write_text("-- MLflow 99.1.0\n\nCREATE TABLE from_the_future (n);\n")
    monkeypatch.setattr(database, "SCHEMA", newer)
    open_database(f"sqlite:///{tmp_path}/index.db", "file:///bucket").dispose()
    connection = sqlite3.connect(tmp_path / "index.db")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    assert "runs" in tables
    assert "from_the_future" not in tables
    assert version("mlflow") < "99"


def _grow_old(connection: sa.Connection) -> None:
    """Make an index what an earlier release left: with its points, and how far they went."""
    connection.exec_driver_sql("CREATE TABLE kaggleops_points (run_uuid VARCHAR(32), digests TEXT)")
    statement = sa.text(
        "INSERT INTO metrics (run_uuid, key, value, timestamp, step, is_nan) "
        "VALUES (:run, 'loss', 0.5, 1, :step, :no)"
    )
    rows = [{"run": RUN.name, "step": step, "no": False} for step in range(20_000)]
    connection.execute(statement, rows)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_older_index_shrinks(world: World, kind: str, request: pytest.FixtureRequest) -> None:
    world.put(HOME)
    world.put(RUN, POINTS)
    url = world.url
    if kind == "postgresql":
        url = str(request.getfixturevalue("postgresql_database"))
    index = Index(url, world.store)
    index.refresh()
    index.close()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        _grow_old(connection)

    def size() -> int:
        if kind == "sqlite":
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            return world.database.stat().st_size
        with engine.connect() as connection:
            return int(connection.scalar(sa.text("SELECT pg_total_relation_size('metrics')")))

    before = size()
    index = Index(url, world.store)
    refreshed = index.refresh()
    assert (refreshed.changed, refreshed.problems) == (0, {})
    index.close()
    with engine.connect() as connection:
        tables = sa.inspect(connection).get_table_names()
        assert "kaggleops_points" not in tables
        assert connection.scalar(sa.text("SELECT count(*) FROM metrics")) == 0
        assert connection.scalar(sa.text("SELECT count(*) FROM latest_metrics")) == 1
    assert size() < before / 2
    engine.dispose()
