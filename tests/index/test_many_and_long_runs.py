"""Many runs at once, and runs of many points: other ways to the same rows."""

import contextlib
import shutil
from pathlib import Path

from mlflow.entities import RunStatus

from kaggleops.bucket import ABSENT
from kaggleops.index.refresh import Index
from kaggleops.index.rows import RUN_STATUSES
from kaggleops.layout import INDEX_KEY
from kaggleops.mlruns import run
from tests.index.worlds import HOME, POINTS, RUN, World, world

__all__ = ["world"]

BROKEN = run("7", "f" * 32)
KEPT = "SELECT key, version, problem, may_be_silent FROM kaggleops_entities ORDER BY key"


def another(world: World, empty_index: Path) -> World:
    """Return the same bucket with a new index, which no snapshot fills."""
    world.bucket.delete(INDEX_KEY)
    folder = world.database.parent / "another"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return World(world.bucket, folder, empty_index)


def steps(numbers: range) -> bytes:
    return b"".join(b"%d 0.%d %d\n" % (1000 + number, number, number) for number in numbers)


def test_the_names_of_a_runs_statuses_are_mlflows() -> None:
    known = {status: RunStatus.to_string(status) for status in RunStatus.all_status()}
    assert dict(enumerate(RUN_STATUSES[1:], 1)) == known


def test_many_runs_come_to_the_same_rows_as_few(world: World, empty_index: Path) -> None:
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

    def same(other: World) -> None:
        assert other.tables() == world.tables()
        assert other.query(KEPT) == world.query(KEPT)
        other.index.close()

    # At once, and by two of which the first one dies.
    other = another(world, empty_index)
    assert other.refresh().changed == 222
    same(other)
    other = another(world, empty_index)

    class DiedError(Exception):
        pass

    def die(done: int, due: int) -> None:
        if done > 1:
            raise DiedError

    with contextlib.suppress(DiedError):
        other.refresh(progress=die)
    other.index.close()
    other.index = Index(other.url, other.store)
    other.refresh()
    same(other)
