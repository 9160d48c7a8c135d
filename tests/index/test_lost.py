"""A run whose machine fell silent is shown as such, and as running once it is heard again."""

import itertools
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from mlflow.entities import RunStatus

from kaggleops.bucket import ABSENT, open_bucket
from kaggleops.index.refresh import Index
from kaggleops.mlruns import Entity, EntityStore, experiment, run
from kaggleops.mlruns.entity import Notes
from tests.mlruns.entities import main_file

RUN = run("1", "a" * 32)
PROMISE = 300
DAY = 86_400.0


class Watched:
    """A bucket with one run, an index of it, and the clock of the index's machine."""

    def __init__(self, folder: Path, empty_index: Path) -> None:
        (folder / "bucket").mkdir()
        self.store = EntityStore(open_bucket(str(folder / "bucket")))
        self.now = time.time()
        self._database = folder / "index.db"
        self._empty = empty_index
        self._beats = itertools.count()
        self.open()
        home = experiment("1")
        self.store.write(Entity(home, main_file(home)), expected=ABSENT)

    def open(self) -> None:
        if not self._database.exists():
            shutil.copyfile(self._empty, self._database)
        self.index = Index(f"sqlite:///{self._database}", self.store, clock=lambda: self.now)

    def hear(self, status: int = RunStatus.RUNNING, ago: float = 0) -> None:
        """Let the run's machine write it, its clock being so many seconds behind."""
        there = self.store.bucket.stat(RUN.key)
        beat = int((self.now - ago) * 1000) + next(self._beats)
        entity = Entity(
            RUN, main_file(RUN, status=status), notes=Notes(heartbeat=beat, promise=PROMISE)
        )
        self.store.write(entity, expected=there.version if there else ABSENT)

    def shown(self) -> tuple[str, str | None]:
        """Refresh, and return the run's status and its tag `lost`."""
        self.index.refresh(full=True)
        connection = sqlite3.connect(self._database)
        [(status,)] = connection.execute("SELECT status FROM runs").fetchall()
        tags = dict(connection.execute("SELECT key, value FROM tags").fetchall())
        connection.close()
        return status, tags.get("lost")


@pytest.fixture
def watched(tmp_path: Path, empty_index: Path) -> Watched:
    return Watched(tmp_path, empty_index)


def test_a_silent_run_is_shown_as_lost_and_as_running_when_it_comes_back(watched: Watched) -> None:
    watched.hear()
    assert watched.shown() == ("RUNNING", None)
    watched.now += 2 * PROMISE - 1
    assert watched.shown() == ("RUNNING", None)
    watched.now += 2
    status, lost = watched.shown()
    assert status == "FAILED"
    assert lost is not None
    assert lost.startswith("last heard at 20")
    watched.now += DAY
    assert watched.shown() == ("FAILED", lost)
    watched.hear()
    assert watched.shown() == ("RUNNING", None)
    watched.hear(RunStatus.FINISHED)
    watched.now += DAY
    assert watched.shown() == ("FINISHED", None)


@pytest.mark.parametrize("wrong_by", [-DAY, DAY])
def test_a_runners_clock_that_is_wrong_by_a_day_makes_no_difference(
    watched: Watched, wrong_by: float
) -> None:
    watched.hear(ago=wrong_by)
    assert watched.shown() == ("RUNNING", None)
    watched.now += 2 * PROMISE + 1
    assert watched.shown()[0] == "FAILED"


def test_a_new_index_knows_at_once_what_was_lost_long_ago(watched: Watched) -> None:
    watched.hear(ago=3 * DAY)
    assert watched.shown()[0] == "FAILED"


def test_what_happened_while_no_index_looked_is_seen_by_the_next(watched: Watched) -> None:
    watched.hear()
    watched.shown()
    watched.index.close()
    watched.now += DAY
    watched.open()
    assert watched.shown()[0] == "FAILED"
    watched.index.close()
    watched.hear()
    watched.open()
    assert watched.shown() == ("RUNNING", None)
