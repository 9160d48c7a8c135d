"""Metric points come from the bucket, and are those that MLflow's SQL store answers with."""

import math
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.search_utils import SearchUtils

from kaggleops.bucket import ABSENT, BucketUnavailableError, open_bucket
from kaggleops.index import write_through
from kaggleops.index.points import PointReader
from kaggleops.index.refresh import Index
from kaggleops.index.stores import ReplicaTrackingStore
from kaggleops.mlruns import BrokenEntityError, EntityId, EntityStore, run
from tests.fakes.object_server import ObjectServer
from tests.index.worlds import HOME, OTHER, RUN, World, cloud, world

__all__ = ["cloud", "world"]

UNKNOWN = "e" * 32
Point = tuple[int, float, int]
"""A time, a value and a step."""


class Both:
    """The same runs in a bucket behind our store, and in a database of MLflow's own."""

    def __init__(
        self, world: World, stock: SqlAlchemyStore, name: str, patch: pytest.MonkeyPatch
    ) -> None:
        self.world = world
        world.put(HOME)
        world.refresh()
        self.ours = ReplicaTrackingStore(f"kaggleops+{world.url}")
        self.stock = stock
        self._home = stock.create_experiment(name)
        self._patch = patch
        self._logged: dict[str, dict[str, list[Point]]] = {}

    def begin(self) -> str:
        """Make a run in both; return its id."""
        run_id: str = self.stock.create_run(self._home, "ada", 1, [], "run").info.run_id
        self._logged[run_id] = {}
        self._put(run_id)
        return run_id

    def log(self, run_id: str, key: str, points: Sequence[Point]) -> None:
        """Add points to a run of both."""
        if len(points) > 1000:  # more than it takes at once
            names = ("key", "timestamp", "value", "step", "run_uuid", "is_nan")
            table = sa.table("metrics", *map(sa.column, names))
            rows = [dict(zip(names, (key, *point, run_id, False), strict=True)) for point in points]
            with self.stock.engine.begin() as connection:
                connection.execute(table.insert(), rows)
        else:
            metrics = [Metric(key, value, time, step) for time, value, step in points]
            self.stock.log_batch(run_id, metrics, [], [])
        self._logged[run_id].setdefault(key, []).extend(points)
        self._put(run_id)

    def delete(self, run_id: str) -> None:
        """Put a run of both into the trash."""
        self.stock.delete_run(run_id)
        self._put(run_id, lifecycle_stage="deleted", deleted_time=1)

    def _put(self, run_id: str, **meta: Any) -> None:
        lines = {
            f"metrics/{key}": "".join(f"{time} {value!r} {step}\n" for time, value, step in points)
            for key, points in self._logged[run_id].items()
        }
        files = {path: text.encode() for path, text in lines.items() if text}
        self.world.put(run("7", run_id), files, **meta)
        assert self.world.refresh().problems == {}

    def same(self, method: str, *asked: Any) -> None:
        """Call a method of both."""
        ours, stock = (getattr(each, method)(*asked) for each in (self.ours, self.stock))
        if isinstance(stock, list):
            assert [*map(_shown, ours)] == [*map(_shown, stock)]
            assert getattr(ours, "token", None) == getattr(stock, "token", None)
        else:
            assert ours == stock

    def compare(self, run_ids: Sequence[str], key: str) -> None:
        """Ask both through every door."""
        ours, stock = (self._answers(each, run_ids, key) for each in (self.ours, self.stock))
        assert ours == stock

    def _answers(self, store: Any, run_ids: Sequence[str], key: str) -> list[str]:
        from mlflow.server import app, handlers

        self._patch.setattr(handlers, "_tracking_store", store)
        client = app.test_client()
        several = [*run_ids, UNKNOWN]
        found: list[str] = []

        def ask(path: str, **query: Any) -> Any:
            query = {"metric_key": key, **query}
            answer = client.get(f"/ajax-api/2.0/mlflow/metrics/{path}", query_string=query)
            found.append(answer.text)
            return answer.json

        for run_id in several:
            ask("get-history", run_id=run_id)
            token = ""
            while token is not None:
                page = ask("get-history", run_id=run_id, max_results=7, page_token=token)
                token = page.get("next_page_token")
            found.append(str(store.get_max_step_for_metric(run_id, key)))
            for most in (2, 1000):
                asked = (run_id, key, [0, 1, 3, 700, 700], most)
                found += map(_shown, store.get_metric_history_bulk_interval_from_steps(*asked))
        for most in (0, 1, 9, 25000):
            ask("get-history-bulk", run_id=several, max_results=most)
        for most in (1, 3, 7, 2500):
            for steps in ({}, {"start_step": 1, "end_step": 3}):
                ask("get-history-bulk-interval", run_ids=several, max_results=most, **steps)
        ask("get-history-bulk-interval", run_ids=several * 2)
        for query in ({"start_step": 1}, {"start_step": 3, "end_step": 1}, {"max_results": 0}):
            ask("get-history-bulk-interval", run_ids=several, **query)
        for token in ("!", "abcd", "eyJvZmZzZXQiOiA5OTk5fQ=="):
            ask("get-history", run_id=run_ids[0], page_token=token)
        variables = {"data": {"runIds": several, "metricKey": key}}
        asked_for = {"query": GRAPH, "operationName": "Charts", "variables": variables}
        found.append(client.post("/graphql", json=asked_for).text)
        # SQLite does not keep the sign of a zero.
        return [re.sub(r"-(0\.0)(?!\d)", r"\1", each) for each in found]


def _shown(metric: Any) -> str:
    return f"{getattr(metric, 'run_id', '')} {metric}"


GRAPH = """
query Charts($data: MlflowGetMetricHistoryBulkIntervalInput!) {
  mlflowGetMetricHistoryBulkInterval(input: $data) {
    metrics { runId key step timestamp value }
    apiError { code message }
  }
}
"""


@pytest.fixture
def on(world: World, request: pytest.FixtureRequest) -> World:
    """A world whose index is in SQLite, or in PostgreSQL where the test says so."""
    if getattr(request, "param", "sqlite") == "postgresql":
        world.index.close()
        world.url = request.getfixturevalue("postgresql_index")
        world.index = Index(world.url, world.store)
    return world


@pytest.fixture(scope="module")
def stock(stock_database: Path, tmp_path_factory: pytest.TempPathFactory) -> SqlAlchemyStore:
    """MLflow's own store: one for all."""
    folder = tmp_path_factory.mktemp("stock")
    database = shutil.copyfile(stock_database, folder / "stock.db")
    return SqlAlchemyStore(f"sqlite:///{database}", str(folder / "artifacts"))


@pytest.fixture
def both(
    on: World,
    stock: SqlAlchemyStore,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Both]:
    yield Both(on, stock, request.node.name, monkeypatch)
    write_through.write_through.cache_clear()


ODD = (0.5, math.nan, math.inf, -math.inf, 1e308, -5e-324, 1e-9)
logged = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(ODD), st.sampled_from([-2, 0, 0, 1, 2, 3, 700])),
    max_size=40,
)
ON_POSTGRESQL = ("directory", "postgresql")


def each_on(*where: tuple[str, str]) -> Any:
    """Run a test with these kinds of bucket and database: with the first, or slowly with all."""
    first, *others = where
    slow = [pytest.param(*each, marks=pytest.mark.slow) for each in others]
    return pytest.mark.parametrize(("bucket", "on"), [first, *slow], indirect=True)


@each_on(ON_POSTGRESQL, ("directory", "sqlite"), ("gcs", "sqlite"))
def test_every_door_answers_as_mlflows_own(both: Both) -> None:
    first, second, deleted = both.begin(), both.begin(), both.begin()
    # Growing, in order and not; equal steps; points that were logged twice.
    for begin, end in ((0, 3), (3, 30)):
        values = [math.inf, -math.inf, *(1 / (1 + at) for at in range(2, 30))]
        points = [(1000 + at, values[at], at) for at in range(begin, end)]
        both.log(first, "loss", points)
        both.log(second, "loss", points[::-1] + points[:2])
        both.compare([second, first], "loss")
    both.log(deleted, "loss", [(9, -0.0, 0), (9, 0.25, 0), (8, math.nan, 0), (8, -1.0, 0)])
    both.delete(deleted)
    both.compare([first, deleted, second], "loss")
    both.compare([first], "no such metric")
    # Where steps are equal, what is no number comes after zero.
    both.log(first, "zero", [(1, math.nan, 5), (1, 0.0, 5), (2, 0.0, 5), (0, 7.0, 6)])
    for most in (1, 2, 3, 4):
        both.same("get_metric_history_bulk_interval", [first], "zero", most, None, None)
    shown = MlflowClient(f"kaggleops+{both.world.url}").get_metric_history(second, "loss")
    assert [each.step for each in shown] == list(range(30))


@each_on(("directory", "sqlite"), ON_POSTGRESQL)
def test_whatever_is_logged_is_answered_as_mlflows_own_does(both: Both) -> None:
    @settings(max_examples=8)
    @given(st.lists(logged, min_size=1, max_size=3))
    def check(runs: list[list[Point]]) -> None:
        run_ids = [both.begin() for _ in runs]
        for run_id, points in zip(run_ids, runs, strict=True):
            both.log(run_id, "f1/val", points)
        both.compare(run_ids, "f1/val")

    check()


@each_on(("gcs", "sqlite"))
def test_tens_of_thousands_of_points(both: Both) -> None:
    long, short = both.begin(), both.begin()
    dice = random.Random(1)
    points = [(10**12 + 50 * at, dice.random(), at // 3) for at in range(30_000)]
    dice.shuffle(points)
    both.log(long, "loss", points)
    both.log(short, "loss", points[:5])
    token = SearchUtils.create_page_token(20_000)
    curve = both.ours._points.of(long, "loss")
    assert [*zip(curve.times, curve.values, curve.steps, strict=True)] == sorted(points)
    both.same("get_metric_history", long, "loss", 500, token)
    both.same("get_metric_history_bulk", [short, long], "loss", 1000)
    for steps in ((None, None), (999, 9_000)):
        for most in (320, 2500):
            both.same("get_metric_history_bulk_interval", [long, short], "loss", most, *steps)
    both.same("get_max_step_for_metric", long, "loss")


KEYS = [run("7", f"{number:032x}") for number in range(100)]


def points(number: int, count: int = 3) -> dict[str, bytes]:
    """Return the files of two metrics with so many points."""
    lines = b"".join(b"%d 0.%d %d\n" % (at, number, at) for at in range(count))
    return {"metrics/loss": lines, "metrics/f1": lines[:-1] + b"5\n"}


class Shelf:
    """A reader of points, and what it asks the bucket for."""

    def __init__(self, world: World, server: ObjectServer, **options: Any) -> None:
        self.now = 0.0
        self._server = server
        bucket = open_bucket(world.bucket.uri, patience=0.1)
        clock = {"clock": lambda: self.now}
        engine = sa.create_engine(world.url)
        self.reader = PointReader(engine, EntityStore(bucket), **clock, **options)

    def steps(self, *runs: EntityId, metric: str = "loss") -> dict[str, list[int]]:
        """Return the steps of runs."""
        self._server.reset_counts()
        names = [each.name for each in runs]
        return {name: list(curve.steps) for name, curve in self.reader.read(names, metric)}

    @property
    def asked(self) -> list[tuple[str | None, int]]:
        """The keys that the last call asked for, and the answers' statuses."""
        return [(each.key, each.status) for each in self._server.requests]


@pytest.fixture
def shelf(cloud: World, service: ObjectServer) -> Shelf:
    cloud.put(HOME)
    for each in (RUN, OTHER):
        cloud.put(each, points(1))
    cloud.refresh()
    return Shelf(cloud, service)


def test_a_chart_of_many_runs_asks_once_for_each(cloud: World, service: ObjectServer) -> None:
    cloud.put(HOME)
    for number, each in enumerate(KEYS):
        cloud.put(each, points(number))
    cloud.refresh()
    shelf = Shelf(cloud, service)
    names = [each.name for each in KEYS]
    service.reset_counts()
    # A page with eight charts asks for all of them at once.
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(lambda: dict(shelf.reader.read(names, "loss"))) for _ in range(8)]
    for each in asked:
        assert list(each.result()) == names
    assert sorted(shelf.asked) == [(each.key, 200) for each in KEYS]
    assert list(shelf.steps(*KEYS, metric="f1")) == names
    assert shelf.asked == []


def test_the_index_is_believed_about_a_version(shelf: Shelf, cloud: World) -> None:
    assert shelf.steps(RUN)[RUN.name] == [0, 1, 2]
    cloud.put(RUN, points(1, 5))
    assert shelf.steps(RUN)[RUN.name] == [0, 1, 2]
    assert shelf.asked == []
    cloud.refresh()
    assert shelf.steps(RUN)[RUN.name] == [0, 1, 2, 3, 4]
    assert shelf.asked == [(RUN.key, 200)]
    # What comes may be newer than the index; then it is not sent again.
    cloud.put(OTHER, points(1, 4))
    for status in (200, 304):
        assert shelf.steps(OTHER)[OTHER.name] == [0, 1, 2, 3]
        assert shelf.asked == [(OTHER.key, status)]


def test_what_is_kept_is_bounded_in_bytes(
    shelf: Shelf, cloud: World, service: ObjectServer
) -> None:
    long = KEYS[0]
    cloud.put(long, points(1, 1000))
    cloud.refresh()
    small = Shelf(cloud, service, room=4000)
    for runs, asked in (
        ([RUN, OTHER], [RUN, OTHER]),
        ([RUN], []),
        ([long], [long]),
        ([RUN, OTHER], []),  # the long one took nothing's place
        ([long], [long]),
    ):
        assert list(small.steps(*runs)) == [each.name for each in runs]
        assert [key for key, _ in sorted(small.asked)] == [each.key for each in asked]
    # What was used least recently makes room.
    cloud.put(KEYS[1], points(1))
    cloud.refresh()
    small = Shelf(cloud, service, room=4000)
    for each, asks in ((RUN, 1), (OTHER, 1), (RUN, 0), (KEYS[1], 1), (RUN, 0), (OTHER, 1)):
        small.steps(each)
        assert small.asked == [(each.key, 200)] * asks


def test_a_bucket_out_of_reach(
    shelf: Shelf, cloud: World, service: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.steps(RUN)
    cloud.put(RUN, points(1, 5))
    cloud.refresh()
    service.fail(503, times=None)
    assert shelf.steps(RUN)[RUN.name] == [0, 1, 2]
    assert shelf.asked
    # For a while it is not asked again: what is here is served at once, and so is the reason.
    assert shelf.steps(RUN)[RUN.name] == [0, 1, 2]
    for runs in ([OTHER], [RUN, OTHER]):
        with pytest.raises(BucketUnavailableError, match=f"{OTHER.key}|{RUN.key}"):
            shelf.steps(*runs)
        assert shelf.asked == []
    service.heal()
    shelf.now += 60
    assert shelf.steps(RUN, OTHER) == {RUN.name: [0, 1, 2, 3, 4], OTHER.name: [0, 1, 2]}


def test_one_that_is_broken_takes_away_none_but_itself(
    shelf: Shelf, cloud: World, caplog: pytest.LogCaptureFixture
) -> None:
    broken = KEYS[0]
    cloud.bucket.write(broken.key, b"no archive", expected=ABSENT)
    cloud.put(KEYS[1], points(1))
    cloud.refresh()
    # The index has no rows of it; but where it had some, they stay.
    there = cloud.bucket.stat(KEYS[1].key)
    assert there is not None
    cloud.bucket.write(KEYS[1].key, b"no archive", expected=there.version)
    cloud.refresh()
    found = shelf.steps(RUN, broken, KEYS[1], OTHER)
    assert list(found) == [RUN.name, OTHER.name]
    assert f"unpacking gs://our-bucket/{KEYS[1].key}: it is not a gzip archive" in caplog.text
    for _ in range(2):
        with pytest.raises(BrokenEntityError, match=KEYS[1].key):
            shelf.steps(KEYS[1])
        assert shelf.asked == []
    # The last good points of one that was read before stay.
    there = cloud.bucket.stat(RUN.key)
    assert there is not None
    cloud.bucket.write(RUN.key, b"no archive", expected=there.version)
    cloud.refresh()
    for asked in ([(RUN.key, 200)], []):
        assert shelf.steps(RUN)[RUN.name] == [0, 1, 2]
        assert shelf.asked == asked
    cloud.put(KEYS[1], points(1))
    cloud.refresh()
    assert shelf.steps(KEYS[1])[KEYS[1].name] == [0, 1, 2]


def test_one_that_was_deleted_meanwhile_has_no_points(shelf: Shelf, cloud: World) -> None:
    shelf.steps(RUN)
    cloud.put(RUN, points(1, 5))
    cloud.refresh()
    cloud.store.delete(RUN)
    assert shelf.steps(RUN, OTHER) == {RUN.name: [], OTHER.name: [0, 1, 2]}
    cloud.refresh()
    assert shelf.steps(RUN, OTHER) == {OTHER.name: [0, 1, 2]}


def test_what_does_not_come_is_one_line_in_mlflows_words(
    shelf: Shelf, cloud: World, service: ObjectServer
) -> None:
    store = ReplicaTrackingStore(f"kaggleops+{cloud.url}")
    service.deny("our-bucket", read=True)
    with pytest.raises(MlflowException, match=RUN.key) as raised:
        store.get_metric_history(RUN.name, "loss")
    assert raised.value.error_code == "PERMISSION_DENIED"
    assert "\n" not in raised.value.message
    write_through.write_through.cache_clear()


def test_objects_of_any_size_fill_no_memory(tmp_path: Path, empty_index: Path) -> None:
    world = World(open_bucket(str(tmp_path / "bucket")), tmp_path, empty_index)
    world.put(HOME)
    world.put(RUN, points(1))
    world.put(OTHER, points(1))
    world.refresh()
    with (tmp_path / "bucket" / RUN.key).open("wb") as file:
        file.truncate(50 << 30)
    world.refresh()
    reader = PointReader(sa.create_engine(world.url), world.store)
    assert [name for name, _ in reader.read([RUN.name, OTHER.name], "loss")] == [OTHER.name]
    with pytest.raises(BrokenEntityError, match="it has 53,687,091,200 bytes"):
        reader.of(RUN.name, "loss")
    world.index.close()
