"""Only what changed is read, and it comes in whatever order it does."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow.entities import ViewType
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from kaggleops.index.database import open_database
from kaggleops.index.refresh import Index
from kaggleops.index.tables import TABLES
from kaggleops.index.write_through import take
from kaggleops.mlruns import EntityId, Kind, experiment, run
from tests.buckets import EACH_KIND, ON_EACH_SERVICE
from tests.fakes.object_server import ObjectServer
from tests.index.corpus import fill
from tests.index.worlds import HOME, MODEL, OTHER, POINTS, RUN, World, cloud, world
from tests.mlruns.corpus import allowed

__all__ = ["allowed", "cloud", "world"]


@EACH_KIND
@pytest.mark.usefixtures("allowed")
def test_a_second_import_changes_nothing(world: World, tmp_path: Path) -> None:
    fill(world.store, tmp_path / "mlruns")
    first = world.refresh()
    assert (first.changed, first.removed, first.problems) == (20, 0, {})
    before = world.tables()
    second = world.refresh()
    assert (second.changed, second.removed, second.problems) == (0, 0, {})
    # And where the database is believed to know nothing, and everything is written once more.
    connection = sqlite3.connect(world.database)
    connection.execute("UPDATE kaggleops_entities SET version = 'another'")
    connection.commit()
    connection.close()
    again = Index(world.url, world.store)
    assert again.refresh().changed == 20
    again.close()
    assert world.tables() == before


@ON_EACH_SERVICE
def test_only_what_changed_is_read(cloud: World, service: ObjectServer) -> None:
    world = cloud
    world.put(HOME)
    world.put(RUN, POINTS)
    world.put(OTHER, POINTS)
    world.index.refresh()
    world.put(OTHER, {**POINTS, "tags/colour": b"blue"})
    world.index.close()
    world.index = Index(world.url, world.store)
    service.reset_counts()
    refreshed = world.index.refresh()
    # The log that is not there, a listing, and the one object.
    assert (service.count("A"), service.count("B")) == (1, 2)
    assert refreshed.changed == 1
    assert sorted(world.query("SELECT run_uuid, value FROM tags")) == [
        (RUN.name, "red"),
        (OTHER.name, "blue"),
    ]


def test_a_changed_run_replaces_what_was_there(world: World) -> None:
    world.put(HOME)
    world.put(RUN, {**POINTS, "tags/gone": b"soon"})
    world.refresh()
    world.put(
        RUN,
        {
            "metrics/loss": b"1 0.5 0\n2 0.25 1\n3 nan 2\n",
            "params/lr": b"0.1",
            "tags/colour": "ü".encode(),
        },
        run_name="renamed",
    )
    assert world.refresh().changed == 1
    assert world.query("SELECT name FROM runs") == [("renamed",)]
    assert world.query("SELECT key, value FROM tags") == [("colour", "ü")]
    assert world.query("SELECT step, is_nan FROM latest_metrics") == [(2, 1)]


def test_rows_of_a_deleted_entity_go(world: World) -> None:
    world.put(HOME)
    world.put(RUN, POINTS)
    world.put(OTHER, POINTS)
    world.refresh()
    world.store.delete(RUN)
    refreshed = world.refresh()
    assert (refreshed.changed, refreshed.removed) == (0, 1)
    for table in ("runs", "params", "tags", "latest_metrics"):
        assert {name for (name,) in world.query(f"SELECT run_uuid FROM {table}")} == {OTHER.name}
    world.store.delete(HOME)
    world.store.delete(OTHER)
    world.refresh()
    assert {name for name, rows in world.tables().items() if rows} <= {"workspaces"}
    assert world.query("SELECT * FROM kaggleops_entities") == []


def test_the_file_stores_own_ids_of_18_digits_stay(world: World) -> None:
    home = experiment("986543210123456789")
    world.put(home)
    world.put(run(home.experiment_id, "d" * 32))
    assert world.refresh().problems == {}
    found = SqlAlchemyStore(world.url, "unused").search_runs([home.experiment_id], "", ViewType.ALL)
    assert [each.info.run_id for each in found] == ["d" * 32]


def test_what_comes_before_its_experiment_waits_for_it(world: World) -> None:
    dataset = EntityId(Kind.DATASET, "7", "e" * 32)
    trace = EntityId(Kind.TRACE, "7", "tr-" + "f" * 32)
    entities = [RUN, dataset, MODEL, trace]
    for each in entities:
        world.put(each)
    refreshed = world.refresh()
    assert refreshed.changed == 0
    assert set(refreshed.problems) == set(entities)
    world.put(HOME)
    refreshed = world.refresh()
    assert (refreshed.changed, refreshed.problems) == (5, {})
    assert world.index.problems() == {}
    for table in ("runs", "datasets", "logged_models", "trace_info"):
        assert world.query(f"SELECT count(*) FROM {table}") == [(1,)], table


def test_what_an_experiment_leaves_behind_waits_for_it(world: World) -> None:
    world.put(HOME)
    world.put(RUN, POINTS)
    world.refresh()
    world.store.delete(HOME)
    world.refresh()
    assert world.query("SELECT count(*) FROM runs") == [(0,)]
    assert list(world.index.problems()) == [RUN]
    world.put(HOME)
    assert world.refresh().changed == 2
    assert world.query("SELECT step FROM latest_metrics") == [(1,)]


def test_a_models_points_wait_for_their_run(world: World) -> None:
    points = b"1 0.5 0 %b\n2 0.25 1 %b\n" % (RUN.name.encode(), OTHER.name.encode())
    world.put(HOME)
    world.put(MODEL, {"metrics/f1": points})
    world.put(RUN)
    assert list(world.refresh().problems) == [MODEL]
    assert world.query("SELECT run_id FROM logged_model_metrics") == [(RUN.name,)]
    world.put(OTHER)
    assert world.refresh().problems == {}
    assert world.query("SELECT count(*) FROM logged_model_metrics") == [(2,)]
    world.store.delete(OTHER)
    world.refresh()
    assert world.query("SELECT run_id FROM logged_model_metrics") == [(RUN.name,)]
    assert list(world.index.problems()) == [MODEL]


@pytest.mark.parametrize("kind", [Kind.TRACE, Kind.LOGGED_MODEL, Kind.RUN, Kind.DATASET])
def test_what_is_in_the_default_experiment_is_shown_before_that_has_an_object(
    world: World, kind: Kind
) -> None:
    name = {Kind.TRACE: "tr-", Kind.LOGGED_MODEL: "m-"}.get(kind, "") + "e" * 32
    alone = EntityId(kind, "0", name)
    table = TABLES[kind][0].name
    world.put(alone)
    assert world.refresh().problems == {}
    assert world.query(f"SELECT experiment_id FROM {table}") == [(0,)]
    root = f"{world.bucket.artifact_uri}/artifacts"
    default = "SELECT name, artifact_location, lifecycle_stage FROM experiments"
    assert world.query(default) == [("Default", f"{root}/0", "active")]
    # It comes, it goes, and then the last thing in it.
    world.put(experiment("0"), name="Ours", artifact_location="gs://elsewhere/0")
    world.refresh()
    assert world.query(default) == [("Ours", f"{root}/0", "active")]
    world.store.delete(experiment("0"))
    assert world.refresh().problems == {}
    assert world.query(f"SELECT experiment_id FROM {table}") == [(0,)]
    assert world.query(default) == [("Default", f"{root}/0", "active")]
    world.store.delete(alone)
    world.refresh()
    assert world.query(default) == []
    assert world.index.problems() == {}


def test_two_experiments_of_one_name_are_both_shown_until_one_is_renamed(world: World) -> None:
    world.put(experiment("1"), name="tweets")
    world.put(experiment("2"), name="tweets")
    world.put(run("2", "d" * 32))
    assert list(world.refresh().problems) == [experiment("2")]
    names = "SELECT experiment_id, name FROM experiments ORDER BY experiment_id"
    assert world.query(names) == [(1, "tweets"), (2, "tweets (2)")]
    assert world.query("SELECT count(*) FROM runs") == [(1,)]
    world.put(experiment("1"), name="old tweets")
    assert world.refresh().problems == {}
    assert world.query(names) == [(1, "old tweets"), (2, "tweets")]
    # Names that change places.
    world.put(experiment("1"), name="tweets")
    world.put(experiment("2"), name="old tweets")
    assert world.refresh().problems == {}
    assert world.query(names) == [(1, "tweets"), (2, "old tweets")]
    assert world.index.problems() == {}


@pytest.mark.parametrize("seen_in_both", [False, True])
def test_a_run_that_moved_to_another_experiment_is_there_once(
    world: World, seen_in_both: bool
) -> None:
    for home in ("7", "3"):
        world.put(experiment(home))
    world.put(RUN, POINTS)
    world.refresh()
    world.put(run("3", RUN.name), POINTS)
    if seen_in_both:
        world.refresh()
    world.store.delete(RUN)
    assert world.refresh().problems == {}
    assert world.query("SELECT experiment_id FROM runs") == [(3,)]
    assert world.query("SELECT step FROM latest_metrics") == [(1,)]


def test_mlflows_own_store_reads_it_while_it_is_written(world: World) -> None:
    world.put(HOME, name="tweets")
    world.put(RUN, POINTS)
    world.refresh()
    store = SqlAlchemyStore(world.url, "unused")
    [found] = store.search_runs(["7"], "metrics.loss < 0.3", ViewType.ALL)
    assert found.data.params == {"lr": "0.1"}
    root = f"{world.bucket.artifact_uri}/artifacts"
    assert found.info.artifact_uri == f"{root}/7/{RUN.name}/artifacts"
    world.put(RUN, {**POINTS, "metrics/loss": b"1 0.5 0\n2 0.25 1\n3 0.125 2\n"})
    world.refresh()
    [found] = store.search_runs(["7"], "metrics.loss < 0.2", ViewType.ALL)
    assert found.data.metrics == {"loss": 0.125}


def test_an_empty_bucket_that_the_server_began_with_gets_its_default_experiment(
    world: World,
) -> None:
    world.refresh()
    SqlAlchemyStore(world.url, "unused")  # makes experiment 0 where there is none
    chosen = f"{world.bucket.artifact_uri}/artifacts/chosen"
    world.put(experiment("0"), name="Default", artifact_location=chosen)
    assert world.refresh().problems == {}
    assert world.query("SELECT artifact_location FROM experiments") == [(chosen,)]


def test_what_somebody_else_was_faster_with_is_not_overwritten_with_what_is_older(
    cloud: World, service: ObjectServer
) -> None:
    cloud.put(HOME)
    cloud.put(RUN, {"tags/colour": b"red"})
    cloud.refresh()
    cloud.put(RUN, {"tags/colour": b"green"})
    late = service.fail("late", op="read", key=RUN.key)
    with ThreadPoolExecutor(1) as pool:
        refreshing = pool.submit(cloud.refresh)
        assert late.struck.wait(30)  # green is on its way to the index
        cloud.put(RUN, {"tags/colour": b"blue"})
        engine = open_database(cloud.url, cloud.bucket.uri)
        take(engine, cloud.store, {RUN: None}, now_ms=1)
        engine.dispose()
        late.release()
        refreshing.result(30)
    colours = "SELECT value FROM tags WHERE key = 'colour'"
    assert cloud.query(colours) == [("blue",)]
    # What is left to look at again does not stay so.
    cloud.put(RUN, {"tags/colour": b"white"})
    cloud.refresh()
    assert cloud.query(colours) == [("white",)]
