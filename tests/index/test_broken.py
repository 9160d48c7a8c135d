"""Whatever is broken, in the bucket or in the database: it is named, and all the rest is served."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from kaggleops.bucket import BucketError, open_bucket
from kaggleops.errors import UsageError
from kaggleops.index.database import DatabaseError
from kaggleops.index.refresh import Index
from kaggleops.mlruns import Entity, EntityId, EntityStore, Kind, experiment, run
from kaggleops.mlruns.archive import pack
from tests.fakes.object_server import ObjectServer
from tests.index.worlds import HOME, MODEL, OTHER, POINTS, RUN, World, cloud, world
from tests.mlruns.entities import main_file

__all__ = ["cloud", "world"]


def test_what_is_broken_is_named_and_everything_else_is_served(world: World) -> None:
    world.put(HOME)
    world.put(RUN, POINTS)
    world.put(OTHER, POINTS)
    world.refresh()
    there = world.bucket.stat(RUN.key)
    assert there is not None
    world.bucket.write(RUN.key, b"no archive", expected=there.version)
    world.put(OTHER, {"tags/colour": b"blue"})
    refreshed = world.refresh()
    assert refreshed.changed == 1
    assert list(refreshed.problems) == [RUN]
    assert RUN.key in refreshed.problems[RUN]
    assert world.index.problems() == refreshed.problems
    # Its last good rows stay, and it is not read again as long as it is the same.
    assert world.query(f"SELECT value FROM tags WHERE run_uuid = '{RUN.name}'") == [("red",)]
    assert world.refresh().problems == {}
    world.put(RUN, {"tags/colour": b"green"})
    assert world.refresh().changed == 1
    assert world.index.problems() == {}
    assert world.query(f"SELECT value FROM tags WHERE run_uuid = '{RUN.name}'") == [("green",)]


_LOOK = """
import re, sys
from pathlib import Path
from kaggleops.bucket import open_bucket
from kaggleops.mlruns import EntityStore, Poll

for change in Poll(EntityStore(open_bucket(sys.argv[1]))).changed():
    print(change.id.name, change.problem)
    del change
print(re.search(r"VmHWM:\\s+([0-9]+)", Path("/proc/self/status").read_text())[1])
"""


def test_objects_of_any_size_fill_no_memory(tmp_path: Path, empty_index: Path) -> None:
    world = World(open_bucket(str(tmp_path / "bucket")), tmp_path, empty_index)
    world.put(HOME)
    world.put(RUN, POINTS)
    world.refresh()
    huge = [RUN, *(run("7", f"{number:032x}") for number in range(3))]
    for each in (*huge, *(run("7", f"{number:032x}") for number in range(9, 14))):
        with (tmp_path / "bucket" / each.key).open("wb") as file:
            file.truncate(50 << 30 if each in huge else 100 << 20)
    world.put(OTHER, POINTS)
    refreshed = world.refresh()
    world.index.close()
    assert refreshed.changed == 1
    assert len(refreshed.problems) == 9
    assert "it has 53,687,091,200 bytes, and 268,435,456 are the most" in refreshed.problems[RUN]
    assert world.query("SELECT count(*) FROM runs") == [(2,)]  # the last good rows stay
    command = [sys.executable, "-c", _LOOK, str(tmp_path / "bucket")]
    *looked, peak = subprocess.run(command, capture_output=True, check=True).stdout.splitlines()
    assert len(looked) == 11
    assert int(peak) < 300 << 10  # KiB


_PREPARE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))  # the smallest machine that serves
from pathlib import Path
from kaggleops.index.transaction import prepare
from kaggleops.errors import KaggleOpsError
from kaggleops.mlruns import Change, unpack
from kaggleops.layout import parse_key

key = parse_key(sys.argv[1])
try:
    change = Change(key, "1", unpack(Path(sys.argv[2]).read_bytes(), key, "it"))
except KaggleOpsError as error:
    change = Change(key, "1", problem=error)
print(prepare(change).problem)
"""


@pytest.mark.parametrize(
    ("entity_id", "path", "content", "problem"),
    [
        (RUN, "params/x", lambda: b"x" * (100 << 20), "it unpacks to more than 64 MiB"),
        (
            MODEL,
            "metrics/x",
            lambda: b"".join(b"1 1 %d r\n" % step for step in range(1_500_000)),
            "1,500,000 points at once, and this machine has room for 1,048,576",
        ),
        (RUN, "metrics/x", lambda: b"".join(b"1 1 %d\n" % step for step in range(4_500_000)), ""),
    ],
)
def test_what_this_machine_has_no_room_for_is_named(
    tmp_path: Path, entity_id: EntityId, path: str, content: Callable[[], bytes], problem: str
) -> None:
    file = tmp_path / "packed"
    files = main_file(entity_id) | {path: content()}
    file.write_bytes(pack(Entity(entity_id, files, frozenset({"metrics", "params"}))))
    done = subprocess.run(
        [sys.executable, "-c", _PREPARE, entity_id.key, file],
        capture_output=True,
        text=True,
        check=True,
    )
    assert problem in done.stdout
    assert problem or not done.stdout.strip()


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        (Kind.TRACE, {"request_metadata/mlflow.trace.tokenUsage": b"[" * 10_000}),
        (Kind.TRACE, {"assessments/a.yaml": b"[" * 10_000}),
        (
            Kind.TRACE,
            {"assessments/a.yaml": b"feedback: {value: 1}\nsource: {source_type: X}\nerror: 1"},
        ),
        (
            Kind.REGISTERED_MODEL,
            {"version-1/meta.yaml": b"{name: m, version: 1, creation_timestamp: 1, status: ?}"},
        ),
    ],
)
def test_what_mlflow_could_not_show_ends_no_refresh_and_is_not_shown(
    world: World, kind: Kind, files: dict[str, bytes]
) -> None:
    home = "" if kind is Kind.REGISTERED_MODEL else HOME.experiment_id
    hostile = EntityId(kind, home, "m" if not home else f"tr-{'e' * 32}")
    world.put(HOME)
    world.put(hostile, files)
    world.put(OTHER, POINTS)
    assert list(world.refresh().problems) == [hostile]
    assert world.query("SELECT run_uuid FROM runs") == [(OTHER.name,)]
    assert world.query("SELECT count(*) FROM assessments, model_versions") == [(0,)]


def test_of_two_that_mlflows_schema_has_no_room_for_one_is_shown(world: World) -> None:
    first, second = (EntityId(Kind.DATASET, "7", each * 32) for each in "ab")
    world.put(HOME)
    world.put(first)
    world.refresh()
    world.put(second)
    world.put(OTHER, POINTS)
    refreshed = world.refresh()
    assert list(refreshed.problems) == [second]
    assert refreshed.changed == 1
    assert world.query("SELECT count(*) FROM datasets") == [(1,)]


def test_what_the_database_does_not_take_is_named_and_everything_else_is_served(
    world: World,
) -> None:
    world.put(HOME)
    world.put(RUN, run_name={"no": "name"})
    world.put(OTHER, POINTS)
    refreshed = world.refresh()
    assert refreshed.changed == 2
    assert list(refreshed.problems) == [RUN]
    assert world.query("SELECT run_uuid FROM runs") == [(OTHER.name,)]


def test_a_number_that_64_bits_do_not_hold_is_shown_as_the_largest_that_they_do(
    world: World,
) -> None:
    world.put(HOME)
    beyond = 10**19 - 1
    points = f"1 0.5 {2**63}\n{beyond} 0.25 {-beyond}\n1 0.5 {beyond}\n"
    world.put(RUN, {"metrics/loss": points.encode(), "tags/a": b"b"})
    world.put(OTHER, POINTS)
    refreshed = world.refresh()
    assert list(refreshed.problems) == [RUN]
    assert "latest_metrics.step" in refreshed.problems[RUN]
    large = 2**63 - 1
    last = f"SELECT timestamp, step FROM latest_metrics WHERE run_uuid = '{RUN.name}'"
    assert world.query(last) == [(1, large)]
    # And so it stays, until it is mended.
    assert world.refresh().problems == {}
    assert list(world.index.problems()) == [RUN]
    world.put(RUN, POINTS)
    assert world.refresh().changed == 1
    assert world.index.problems() == {}


@pytest.mark.parametrize("home", ["abc", "007", "99999999999999999999"])
def test_an_experiment_that_has_no_place_in_mlflows_schema_is_named(
    world: World, home: str
) -> None:
    world.put(experiment(home))
    world.put(run(home, "d" * 32))
    world.put(HOME)
    refreshed = world.refresh()
    assert refreshed.changed == 1
    assert set(refreshed.problems) == {experiment(home), run(home, "d" * 32)}
    world.store.delete(experiment(home))
    world.store.delete(run(home, "d" * 32))
    assert world.refresh().removed == 2
    assert world.index.problems() == {}


def test_an_import_that_dies_half_way_is_continued(cloud: World, service: ObjectServer) -> None:
    world = cloud
    world.put(HOME)
    runs = [run("7", f"{number:032x}") for number in range(250)]
    for each in runs:  # past the requests that a write takes
        service.put("our-bucket", each.key, pack(Entity(each, {**main_file(each), **POINTS})))

    class DiedError(Exception):
        pass

    def die(done: int, due: int) -> None:
        if done >= 100:
            raise DiedError

    with pytest.raises(DiedError):
        world.refresh(progress=die)
    [(half,)] = world.query("SELECT count(*) FROM runs")
    assert 0 < half < 250
    assert world.query("SELECT count(*) FROM kaggleops_entities") == [(half + 1,)]
    assert world.query("SELECT count(*) FROM latest_metrics") == [(half,)]
    assert world.refresh().changed == 250 - half
    assert world.query("SELECT count(*) FROM latest_metrics") == [(250,)]
    service.deny("our-bucket", read=True)
    with pytest.raises(BucketError):
        world.refresh()
    service.allow("our-bucket")
    assert world.refresh().changed == 0


def test_another_database_is_never_imported_into(
    world: World, stock_url: str, tmp_path: Path
) -> None:
    SqlAlchemyStore(stock_url, "unused")
    with pytest.raises(UsageError, match="something else"):
        Index(stock_url, world.store)
    (tmp_path / "another bucket").mkdir()
    another = EntityStore(open_bucket(str(tmp_path / "another bucket")))
    with pytest.raises(UsageError, match="it is the index of"):
        Index(world.url, another)


@pytest.mark.parametrize("url", ["nonsense", "sqlite://", "nobody://knows/this"])
def test_an_address_of_no_database_is_one_clear_line(world: World, url: str) -> None:
    with pytest.raises(UsageError, match=r"sqlite:////folder/index\.db"):
        Index(url, world.store)


def test_a_damaged_database_is_one_clear_line(world: World, tmp_path: Path) -> None:
    (tmp_path / "damaged.db").write_bytes(b"no database" * 1000)
    with pytest.raises(DatabaseError, match="delete it"):
        Index(f"sqlite:///{tmp_path}/damaged.db", world.store)
