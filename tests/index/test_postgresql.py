"""An index in PostgreSQL holds what the one in SQLite holds."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from mlflow.entities import ViewType
from mlflow.store.db.base_sql_model import Base
from mlflow.store.tracking import file_store
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from kaggleops.bucket import ABSENT, open_bucket
from kaggleops.index.database import DatabaseError
from kaggleops.index.refresh import Index
from kaggleops.index.tables import TABLES, fit
from kaggleops.mlruns import Entity, EntityId, EntityStore, Kind, experiment, run
from kaggleops.mlruns.entity import dump_yaml
from tests.index.corpus import fill, tables
from tests.mlruns.corpus import allowed
from tests.mlruns.entities import main_file

__all__ = ["allowed"]


@pytest.fixture
def database(postgresql_index: str) -> str:
    """A database of this test's own."""
    return postgresql_index


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
    large = experiment("986543210123456789")
    put(store, experiment("7"))
    put(store, large)
    refreshed = index.refresh()
    assert set(refreshed.problems) == {large}
    assert refreshed.changed == 1
    assert ask(database, "SELECT experiment_id FROM experiments") == [(7,)]
    index.close()


def test_what_a_column_has_no_room_for_is_shown_cut(database: str, store: EntityStore) -> None:
    index = Index(database, store)
    good, long, nul, named = (run("7", letter * 32) for letter in "abcd")
    trace = EntityId(Kind.TRACE, "7", "tr-" + "e" * 32)
    put(store, experiment("7"))
    put(store, good, tags__a=b"b")
    put(store, long, tags__a=b"x" * 8001, params__a="ü".encode() * 9000)
    put(store, nul, tags__a=b"a\0b")
    entity = Entity(named, main_file(named, run_name="n" * 300, user_id="u" * 300))
    store.write(entity, expected=ABSENT)
    put(store, trace, tags__k=b"v" * 9000)
    refreshed = index.refresh()
    assert set(refreshed.problems) == {long, nul, named, trace}
    assert "params.value, tags.value cut" in refreshed.problems[long]
    shown = ask(database, "SELECT run_uuid, length(value), value LIKE 'a_b' FROM tags ORDER BY 1")
    assert shown == [(good.name, 1, False), (long.name, 8000, False), (nul.name, 3, True)]
    assert ask(database, "SELECT value = repeat('ü', 8000) FROM params") == [(True,)]
    cut = f"SELECT length(name), length(user_id) FROM runs WHERE run_uuid = '{named.name}'"
    assert ask(database, cut) == [(250, 256)]
    assert ask(database, "SELECT length(value) FROM trace_tags") == [(8000,)]
    # What is shown cut is compared as it is shown, and changes like anything else.
    put(store, long, tags__a=b"y" * 8001)
    assert set(index.refresh(full=True).problems) == {long}
    assert ask(database, "SELECT left(value, 1) FROM tags WHERE length(value) = 8000") == [("y",)]
    put(store, long, tags__a=b"short")
    assert index.refresh(full=True).problems == {}
    assert set(index.problems()) == {nul, named, trace}
    index.close()


def test_every_column_of_every_table_takes_what_was_cut_for_it(
    database: str, store: EntityStore
) -> None:
    Index(database, store).close()
    engine = sa.create_engine(database)
    owner = EntityId(Kind.REGISTERED_MODEL, "", "nobody")
    for owned in {each for of_kind in TABLES.values() for each in of_kind}:
        theirs = Base.metadata.tables[owned.name].c
        kinds = [theirs[name].type.python_type for name in owned.columns]
        monsters = {str: "ü\0\ud800" * 99_999, int: -(2**99), float: 0.5, bool: True}
        row = tuple(monsters[kind] for kind in kinds)
        with engine.begin() as connection:
            rows, cut = fit(connection, owner, {owned: [row, row]})
            # The same columns, and none of what they refer to.
            connection.exec_driver_sql(f"CREATE TABLE copy AS TABLE {owned.name} WITH NO DATA")
            connection.execute(
                sa.table("copy", *map(sa.column, owned.columns)).insert(),
                [dict(zip(owned.columns, held, strict=True)) for held in rows[owned]],
            )
            connection.exec_driver_sql("DROP TABLE copy")
        assert len(rows[owned]) == 1
        texts = [name for name, kind in zip(owned.columns, kinds, strict=True) if kind is str]
        assert {f"{owned.name}.{name}" for name in texts} <= set(cut)
    engine.dispose()


@pytest.mark.parametrize("password", ["s3cret-horse", "with s3cret-horse", "with@s3cret-horse"])
def test_a_database_that_does_not_answer_is_one_clear_line(
    password: str, store: EntityStore
) -> None:
    with pytest.raises(DatabaseError, match="Is it running") as caught:
        Index(f"postgresql+psycopg2://ada:{password}@127.0.0.1:1/runs", store)
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
