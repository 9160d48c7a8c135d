"""An index in PostgreSQL holds what the one in SQLite holds."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from mlflow.entities import ViewType
from mlflow.store.tracking import file_store
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from kaggleops.bucket import ABSENT, open_bucket
from kaggleops.index import DatabaseError, Index
from kaggleops.mlruns import Entity, EntityId, EntityStore, Kind, experiment, run
from kaggleops.mlruns.entity import dump_yaml
from tests.index.corpus import fill, tables
from tests.mlruns.corpus import allowed
from tests.mlruns.entities import main_file

__all__ = ["allowed"]


@pytest.fixture
def database(postgresql_database: str) -> str:
    """A database of this test's own."""
    return postgresql_database


@pytest.fixture
def store(tmp_path: Path) -> EntityStore:
    (tmp_path / "bucket").mkdir()
    return EntityStore(open_bucket(str(tmp_path / "bucket")))


def put(store: EntityStore, entity_id: EntityId, **files: bytes) -> None:
    there = store.bucket.stat(entity_id.key)
    content = main_file(entity_id) | {path.replace("__", "/"): files[path] for path in files}
    store.write(Entity(entity_id, content), expected=there.version if there else ABSENT)


def ask(database: str, query: str) -> list[tuple[Any, ...]]:
    engine = sa.create_engine(database)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.exec_driver_sql(query)]
    engine.dispose()
    return found


@pytest.mark.usefixtures("allowed")
def test_every_table_equals_sqlites(
    database: str, store: EntityStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The file store's own ids have 18 digits, for which PostgreSQL's column has no room.
    ids = itertools.count(1)
    monkeypatch.setattr(file_store, "_generate_unique_integer_id", lambda: next(ids))
    fill(store, tmp_path / "mlruns")
    found = []
    for url in (database, f"sqlite:///{tmp_path}/index.db"):
        index = Index(url, store)
        assert index.refresh().problems == {}
        assert index.refresh().changed == 0
        index.close()
        found.append({name: rows for name, rows in tables(url).items() if rows})
    assert found[0].keys() == found[1].keys()
    for name, rows in found[1].items():
        assert found[0][name] == rows, name


def test_what_changed_replaces_what_was_there(database: str, store: EntityStore) -> None:
    index = Index(database, store)
    home, first, second = experiment("7"), run("7", "a" * 32), run("7", "b" * 32)
    model = EntityId(Kind.LOGGED_MODEL, "7", "m-" + "c" * 32)
    registered = EntityId(Kind.REGISTERED_MODEL, "", "tweets")
    version = dump_yaml({"name": "tweets", "version": 1, "creation_timestamp": 1})
    put(store, model, metrics__f1=b"1 0.5 0 %b\n" % first.name.encode())
    put(store, first, metrics__loss=b"1 0.5 0\n", tags__gone=b"soon", tags__colour=b"red")
    put(store, registered, **{"version-1__meta.yaml": version, "version-1__tags__a": b"b"})
    assert set(index.refresh().problems) == {model, first}
    put(store, home)
    put(store, second)
    assert index.refresh(full=True).problems == {}
    put(store, first, metrics__loss=b"1 0.5 0\n2 nan 1\n", tags__colour=b"blue")
    put(store, registered, **{"version-1__meta.yaml": version})
    assert index.refresh(full=True).changed == 2
    assert ask(database, "SELECT key, value FROM tags") == [("colour", "blue")]
    assert ask(database, "SELECT step, is_nan FROM latest_metrics") == [(1, True)]
    assert ask(database, "SELECT count(*) FROM logged_model_metrics") == [(1,)]
    assert ask(database, "SELECT count(*) FROM model_version_tags") == [(0,)]
    [found] = SqlAlchemyStore(database, "unused").search_runs(
        ["7"], "tags.colour = 'blue'", ViewType.ALL
    )
    assert found.info.run_id == first.name
    for each in (registered, home, first):
        store.delete(each)
    index.refresh(full=True)
    assert ask(database, "SELECT count(*) FROM experiments WHERE experiment_id = 7") == [(0,)]
    for table in ("runs", "logged_models", "metrics", "tags", "registered_models"):
        assert ask(database, f"SELECT count(*) FROM {table}") == [(0,)], table
    index.close()


def test_what_the_database_does_not_take_is_named(database: str, store: EntityStore) -> None:
    index = Index(database, store)
    good, long, nul = (run("7", letter * 32) for letter in "abc")
    large = experiment("986543210123456789")
    put(store, experiment("7"))
    put(store, large)
    put(store, good, tags__a=b"b")
    put(store, long, params__a=b"x" * 9000)
    put(store, nul, tags__a=b"a\0b")
    refreshed = index.refresh()
    assert set(refreshed.problems) == {long, nul, large}
    assert refreshed.changed == 2
    assert ask(database, "SELECT run_uuid FROM runs") == [(good.name,)]
    index.close()


def test_a_database_that_does_not_answer_is_one_clear_line(
    postgresql: str, store: EntityStore
) -> None:
    with pytest.raises(DatabaseError, match="Is it running") as caught:
        Index(postgresql.replace("@/", ":s3cret@localhost:1/").partition("?")[0], store)
    assert "s3cret" not in str(caught.value)


def test_two_that_refresh_one_index_at_the_same_time(database: str, store: EntityStore) -> None:
    """Two servers of one team, say, each with its own idea of what is new."""
    put(store, experiment("7"))
    runs = [run("7", f"{number:032x}") for number in range(30)]
    for each in runs:
        put(store, each, tags__n=b"0")
    indexes = [Index(database, store) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for turn in range(1, 3):
            for _ in pool.map(lambda index: index.refresh(full=True), indexes):
                pass
            for each in runs:
                put(store, each, tags__n=str(turn).encode())
    for index in indexes:
        index.refresh(full=True)
        assert index.refresh(full=True).problems == {}
    found = ask(database, "SELECT value, count(*) FROM tags GROUP BY value")
    assert found == [("2", len(runs))]
    assert ask(database, "SELECT count(*) FROM kaggleops_entities") == [(len(runs) + 1,)]
    for index in indexes:
        index.close()
