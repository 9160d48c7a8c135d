"""Many runs at once, and runs of many points: other ways to the same rows."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlflow.entities import RunStatus

from kaggleops.bucket import ABSENT
from kaggleops.index.refresh import Index
from kaggleops.index.rows import RUN_STATUSES
from kaggleops.mlruns import run
from tests.index.worlds import HOME, POINTS, RUN, World, cloud, world

__all__ = ["cloud", "world"]

BROKEN = run("7", "f" * 32)
SECONDARY = "SELECT count(*) FROM sqlite_master WHERE tbl_name = 'metrics' AND sql LIKE '%INDEX%'"
KEPT = "SELECT key, version, problem, may_be_silent FROM kaggleops_entities ORDER BY key"
DIGESTS = "SELECT * FROM kaggleops_points"


def another(world: World, empty_index: Path) -> World:
    """Return the same bucket with a new index."""
    folder = world.database.parent / "another"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return World(world.bucket, folder, empty_index)


def steps(numbers: range) -> bytes:
    return b"".join(b"%d 0.%d %d\n" % (1000 + number, number, number) for number in numbers)


def test_the_names_of_a_runs_statuses_are_mlflows() -> None:
    known = {status: RunStatus.to_string(status) for status in RunStatus.all_status()}
    assert dict(enumerate(RUN_STATUSES[1:], 1)) == known


def test_the_process_that_unpacks_starts_light() -> None:
    """MLflow and SQLAlchemy would take it four seconds and 170 MB."""
    command = "import sys, kaggleops.index.preparation; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, check=True)
    assert not {b"mlflow", b"sqlalchemy"} & set(done.stdout.split())


def test_many_runs_come_to_the_same_rows_as_few(cloud: World, empty_index: Path) -> None:
    world = cloud
    world.put(HOME)
    world.bucket.write(BROKEN.key, b"no archive", expected=ABSENT)
    world.put(RUN, {"metrics/loss": steps(range(5000))})
    for number in range(110):
        world.put(run("7", f"{number:032x}"), POINTS, status=1)
    world.refresh()
    for number in range(110, 220):
        odd = {"metrics/odd": b"1 nan 0\n1 inf 0\n1 nan 0\n", "params/lr": "ü".encode()}
        world.put(run("7", f"{number:032x}"), odd)
    world.refresh()
    assert list(world.index.problems()) == [BROKEN]
    assert world.query(SECONDARY) == [(2,)]

    def same(other: World) -> None:
        assert other.tables() == world.tables()
        for query in (KEPT, DIGESTS, SECONDARY):
            assert other.query(query) == world.query(query)
        other.index.close()

    # Here another process unpacks them: to the end, until it is killed, until both are.
    other = another(world, empty_index)
    assert other.refresh().changed == 222
    same(other)
    other = another(world, empty_index)
    assert other.refresh(progress=lambda *_: kill_children()).changed == 222
    same(other)
    other = another(world, empty_index)

    class DiedError(Exception):
        pass

    def die(done: int, due: int) -> None:
        if done > 1:
            raise DiedError

    try:
        other.refresh(progress=die)
    except DiedError:
        assert other.query(SECONDARY) == [(0,)]
    assert not children()
    other.index.close()
    other.index = Index(other.url, other.store)
    other.refresh()
    same(other)


def children() -> list[int]:
    """Return the processes that unpack; other tests' servers may be this one's children too."""
    tasks = Path("/proc/self/task").glob("*/children")
    every = [int(child) for task in tasks for child in task.read_text().split()]
    return [child for child in every if b"index.preparation" in _command(child)]


def _command(process: int) -> bytes:
    with contextlib.suppress(OSError):  # it has ended
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


def kill_children() -> None:
    for child in children():
        os.kill(child, signal.SIGKILL)


def test_only_new_points_of_a_long_run_are_written(world: World, empty_index: Path) -> None:
    world.put(HOME)
    files = {"metrics/loss": steps(range(5000)), "metrics/f1": b"1 0.5 0\n"}
    world.put(RUN, files, status=1)
    world.refresh()

    def add(path: str, data: bytes) -> None:
        files[path] = files.get(path, b"") + data

    def check(**meta: Any) -> None:
        world.put(RUN, files, **meta)
        assert world.refresh().changed == 1
        other = another(world, empty_index)
        other.refresh()
        assert world.tables() == other.tables()
        assert world.query(DIGESTS) == other.query(DIGESTS)
        other.index.close()

    # One that was logged twice, an older one, one that is no number, and a metric that begins.
    add("metrics/loss", steps(range(4999, 5010)) + b"1 nan 3\n9999 nan 5009\n")
    add("metrics/f1", b"0 0.75 0\n")
    add("metrics/acc", b"1 inf 0\n")
    add("params/late", b"1")
    check(status=1)
    # What is in the index already is not looked at...
    with sqlite3.connect(world.database) as connection:
        connection.execute("DELETE FROM metrics WHERE step = 7")
    connection.close()
    add("metrics/loss", steps(range(5010, 5020)))
    world.put(RUN, files, status=3)
    world.refresh()
    assert world.query("SELECT count(*) FROM metrics WHERE step = 7") == [(0,)]
    assert world.query("SELECT step FROM latest_metrics WHERE key = 'loss'") == [(5019,)]
    # ... but where something else has happened to it: it changed, it is gone, the whole run was.
    files["metrics/f1"] = b"2 0.5 0\n"
    check()
    del files["metrics/f1"]
    check()
    world.store.delete(RUN)
    world.refresh()
    assert world.query(DIGESTS) == []
    check()
