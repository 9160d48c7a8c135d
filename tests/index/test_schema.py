"""The index's tables are MLflow's own, however they were made."""

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
