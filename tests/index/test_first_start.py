"""A first start can be killed at any moment, and several can start at once: all go on."""

import os
import random
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from kaggleops.bucket import ABSENT, open_bucket
from kaggleops.errors import UsageError
from kaggleops.index.database import _OURS
from kaggleops.index.refresh import Index
from kaggleops.mlruns import Entity, EntityStore
from tests.index.corpus import Row, tables
from tests.index.worlds import HOME, MODEL, OTHER, POINTS, RUN
from tests.mlruns.entities import main_file

THIRDS = [random.Random(20 + each).uniform(each / 3, (each + 1) / 3) for each in range(3)]
MOMENTS = [*THIRDS, 0.99]
"""Parts of the statements that make an index: in each third, and when all tables are there."""

Content = dict[str, list[Row]]


@pytest.fixture
def store(tmp_path: Path) -> EntityStore:
    """Of a bucket with a few runs."""
    (tmp_path / "bucket").mkdir()
    store = EntityStore(open_bucket(str(tmp_path / "bucket")))
    for entity_id in (HOME, RUN, OTHER, MODEL):
        files = POINTS if entity_id in (RUN, OTHER) else {}
        store.write(Entity(entity_id, main_file(entity_id) | files), expected=ABSENT)
    return store


@pytest.fixture
def expected(store: EntityStore, tmp_path: Path) -> Content:
    """What an index of it holds."""
    return begin(f"sqlite:///{tmp_path}/expected.db", store)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a new database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/index.db"
    return str(request.getfixturevalue("postgresql_database"))


def begin(url: str, store: EntityStore) -> Content:
    """Start over an index as the server does; return what it holds then."""
    index = Index(url, store)
    assert index.refresh(full=True).problems == {}
    index.close()
    return tables(url)


def forked(*actions: Callable[[], object]) -> list[int]:
    """Do each in a process of its own, all at once; return how they ended."""
    children = []
    for action in actions:
        if (child := os.fork()) == 0:
            code = 1
            try:
                action()
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def at_statement(number: int, what: Callable[[], object]) -> list[int]:
    """Do something before this process's statement of that number; return their count so far."""
    count = [0]

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def before(*_: object) -> None:
        count[0] += 1
        if count[0] == number:
            what()

    return count


def test_killed_at_any_moment(
    url: str, store: EntityStore, expected: Content, tmp_path: Path
) -> None:
    total = tmp_path / "total"

    def counted() -> None:
        # One kind of database takes more statements than another.
        count = at_statement(0, lambda: None)
        Index(url, store).close()
        total.write_text(str(count[0]))
        engine = sa.create_engine(url)
        if url.startswith("sqlite"):
            shutil.rmtree(Path(str(engine.url.database)).parent)
        else:
            with engine.begin() as connection:
                connection.exec_driver_sql("DROP SCHEMA public CASCADE")
                connection.exec_driver_sql("CREATE SCHEMA public")

    def killed(moment: int) -> None:
        at_statement(moment, lambda: os.kill(os.getpid(), signal.SIGKILL))
        begin(url, store)

    assert forked(counted) == [0]
    # One after the other on the same index: each finds what the one before has left.
    for moment in MOMENTS:
        at = 1 + int(int(total.read_text()) * moment)
        assert forked(lambda at=at: killed(at)) == [-signal.SIGKILL]
    assert begin(url, store) == expected


def test_three_at_once(url: str, store: EntityStore, expected: Content) -> None:
    assert forked(*[lambda: begin(url, store)] * 3) == [0, 0, 0]
    assert tables(url) == expected


def test_over_an_empty_file(store: EntityStore, expected: Content, tmp_path: Path) -> None:
    (tmp_path / "index.db").touch()
    assert begin(f"sqlite:///{tmp_path}/index.db", store) == expected


@pytest.mark.parametrize("of_mlflow", [False, True])
def test_never_over_what_is_somebodys(
    store: EntityStore, tmp_path: Path, empty_index: Path, of_mlflow: bool
) -> None:
    file = tmp_path / "theirs.db"
    connection = sqlite3.connect(file)
    if of_mlflow:
        file.write_bytes(empty_index.read_bytes())
        for name in _OURS.tables:
            connection.execute(f"DROP TABLE {name}")
        connection.execute("INSERT INTO experiments (name, workspace) VALUES ('mine', 'default')")
    else:
        connection.execute("CREATE TABLE sold (n)")
    connection.commit()
    before = list(connection.iterdump())
    with pytest.raises(UsageError, match=r"something else than an index.*Name a new"):
        Index(f"sqlite:///{file}", store)
    assert list(connection.iterdump()) == before
    connection.close()
