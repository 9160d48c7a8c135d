"""A change made in the UI, and what else may be going on at the time."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import sqlalchemy as sa
from mlflow.entities import Metric, RunStatus, RunTag
from mlflow.exceptions import MlflowException

from kaggleops.bucket import ABSENT
from kaggleops.errors import KaggleOpsError
from kaggleops.index.refresh import Index
from kaggleops.index.stores import ReplicaTrackingStore
from kaggleops.mlruns import Entity, EntityStore, experiment, run
from kaggleops.mlruns.entity import Notes
from kaggleops.tracking.store import BucketTrackingStore
from tests.buckets import ON_EACH_SERVICE
from tests.fakes.object_server import ObjectServer
from tests.index.conftest import Replicated
from tests.index.corpus import tables
from tests.mlruns.entities import main_file

NAME = "mlflow.runName"


def test_a_rename_and_a_flush_of_the_same_run_both_stay(replicated: Replicated) -> None:
    notebook = BucketTrackingStore(replicated.tracking_uri)
    home = notebook.create_experiment("e")
    run_id = notebook.create_run(home, "ada", 0, [RunTag("colour", "red")], "before").info.run_id
    notebook.flush()
    replicated.refresh()
    server = ReplicaTrackingStore(replicated.uri)
    notebook.log_metric(run_id, Metric("loss", 0.5, 1, 0))  # not sent yet
    server.update_run_info(run_id, None, None, "after")
    server.set_tag(run_id, RunTag("mlflow.note.content", "# Look"))
    assert server.get_run(run_id).info.run_name == "after"
    notebook.log_metric(run_id, Metric("loss", 0.25, 2, 1))
    notebook.flush()
    replicated.refresh()
    for store in (server, notebook):
        seen = store.get_run(run_id)
        assert seen.data.tags | {NAME: "after", "mlflow.note.content": "# Look"} == seen.data.tags
        assert [each.value for each in store.get_metric_history(run_id, "loss")] == [0.5, 0.25]


@pytest.mark.parametrize("bucket", ["directory"], indirect=True)
def test_of_many_that_create_an_experiment_at_once_none_stays_in_default(
    replicated: Replicated,
) -> None:
    server = ReplicaTrackingStore(replicated.uri)
    at_once = Barrier(30)

    def set_experiment(_: int) -> str:  # as mlflow.set_experiment asks
        assert server.get_experiment_by_name("ours") is None
        at_once.wait()
        return str(server.create_experiment("ours"))

    def create(_: int) -> str:
        at_once.wait()
        try:
            return str(server.create_experiment("mine"))
        except MlflowException as error:
            return str(error.error_code)

    with ThreadPoolExecutor(30) as pool:
        [home] = set(pool.map(set_experiment, range(30)))
        made = list(pool.map(create, range(30)))
    assert made.count("RESOURCE_ALREADY_EXISTS") == 29
    assert [each.name for each in server.search_experiments()] == ["mine", "ours"]
    with pytest.raises(MlflowException, match="already exists"):
        server.create_experiment("ours")
    server.delete_experiment(home)
    with pytest.raises(MlflowException, match="deleted state"):
        server.create_experiment("ours")


@ON_EACH_SERVICE
def test_if_the_bucket_refuses_nothing_changes_then_or_later(
    in_cloud: Replicated, service: ObjectServer
) -> None:
    server = ReplicaTrackingStore(in_cloud.uri)
    run_id = server.create_run(server.create_experiment("e"), "ada", 0, [], "before").info.run_id
    before = tables(in_cloud.index_url)
    service.deny("our-bucket", write=True)
    with pytest.raises(MlflowException, match=r"that may|may not"):
        server.update_run_info(run_id, None, None, "refused")
    with pytest.raises(MlflowException, match=r"that may|may not"):
        server.create_experiment("refused too")
    assert tables(in_cloud.index_url) == before
    service.allow("our-bucket")
    server.set_tag(run_id, RunTag("colour", "red"))
    seen = BucketTrackingStore(in_cloud.tracking_uri).get_run(run_id)
    assert (seen.info.run_name, seen.data.tags["colour"]) == ("before", "red")
    assert [each.name for each in server.search_experiments()] == ["e"]


def test_what_the_index_does_not_take_is_in_the_bucket_all_the_same(
    in_cloud: Replicated,
) -> None:
    server = ReplicaTrackingStore(in_cloud.uri)
    run_id = server.create_run(server.create_experiment("e"), "ada", 0, [], "before").info.run_id
    engine = sa.create_engine(in_cloud.index_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE kaggleops_entities RENAME TO away")
    server.update_run_info(run_id, None, None, "after")
    assert server.get_run(run_id).info.run_name == "before"
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO kaggleops_entities")
    engine.dispose()
    in_cloud.refresh()
    assert server.get_run(run_id).info.run_name == "after"


@pytest.mark.parametrize("bucket", ["directory"], indirect=True)
def test_a_note_does_not_bring_a_lost_run_back_to_life(replicated: Replicated) -> None:
    store = EntityStore(replicated.bucket)
    home, lost = experiment("7"), run("7", "a" * 32)
    store.write(Entity(home, main_file(home)), expected=ABSENT)
    beats = Notes(heartbeat=1_600_000_000_000, promise=300)
    content = main_file(lost, status=RunStatus.RUNNING)
    store.write(Entity(lost, content, notes=beats), expected=ABSENT)
    replicated.refresh()
    server = ReplicaTrackingStore(replicated.uri)
    server.set_tag(lost.name, RunTag("mlflow.note.content", "its machine is gone"))
    seen = server.get_run(lost.name)
    assert seen.info.status == "FAILED"
    assert seen.data.tags["lost"] == "last heard at 2020-09-13 12:26:40+00:00"
    assert seen.data.tags["mlflow.note.content"] == "its machine is gone"


@pytest.mark.parametrize("url", ["sqlite:////no/such/folder/x.db", "nonsense"])
def test_where_there_is_no_index_it_says_who_makes_one(url: str) -> None:
    with pytest.raises((MlflowException, KaggleOpsError), match="opening the index"):
        ReplicaTrackingStore(f"kaggleops+{url}")


@ON_EACH_SERVICE
def test_an_edit_costs_three_writes_and_leaves_nothing_to_look_at(
    in_cloud: Replicated, service: ObjectServer
) -> None:
    """Class A: it is announced, made, and said to be over."""
    server = ReplicaTrackingStore(in_cloud.uri)
    run_id = server.create_run(server.create_experiment("e"), "ada", 0, [], "r").info.run_id
    server.update_run_info(run_id, RunStatus.FINISHED, 1, None)
    server.set_tag(run_id, RunTag("a", "1"))
    service.reset_counts()
    server.set_tag(run_id, RunTag("a", "2"))
    assert service.count("A") == 3


@ON_EACH_SERVICE
def test_the_first_edit_of_a_run_costs_no_more_and_nothing_comes_twice(
    in_cloud: Replicated, service: ObjectServer
) -> None:
    notebook = BucketTrackingStore(in_cloud.tracking_uri)
    run_id = notebook.create_run(notebook.create_experiment("e"), "ada", 0, [], "r").info.run_id
    notebook.update_run_info(run_id, RunStatus.FINISHED, 1, None)
    notebook._session.close()
    index = Index(in_cloud.index_url, EntityStore(in_cloud.bucket))
    index.refresh()
    server = ReplicaTrackingStore(in_cloud.uri)

    service.reset_counts()
    server.set_tag(run_id, RunTag("a", "1"))
    # The run, as it is, and the change log; nothing is looked for, nor read after it was written.
    assert (service.count("A"), service.count("B")) == (3, 2)
    assert server.get_run(run_id).data.tags["a"] == "1"

    service.reset_counts()
    index.refresh()
    came = [each for each in service.requests if each.key and run_id in each.key]
    assert [each.status for each in came] == [304]
    assert service.count("A") == 0

    notebook.set_tag(run_id, RunTag("a", "2"))  # elsewhere: it has to come
    notebook.flush()
    assert index.refresh().changed == 1
    index.close()
    assert server.get_run(run_id).data.tags["a"] == "2"


def test_what_another_has_written_meanwhile_is_shown_with_the_edit(
    in_cloud: Replicated, service: ObjectServer
) -> None:
    notebook = BucketTrackingStore(in_cloud.tracking_uri)
    run_id = notebook.create_run(notebook.create_experiment("e"), "ada", 0, [], "r").info.run_id
    notebook.flush()
    in_cloud.refresh()
    server = ReplicaTrackingStore(in_cloud.uri)
    notebook.set_tag(run_id, RunTag("b", "theirs"))
    notebook.flush()
    server.set_tag(run_id, RunTag("a", "ours"))
    seen = server.get_run(run_id).data.tags
    assert (seen["a"], seen["b"]) == ("ours", "theirs")


def test_a_run_that_is_elsewhere_than_the_index_believes_is_found(in_cloud: Replicated) -> None:
    server = ReplicaTrackingStore(in_cloud.uri)
    home = server.create_experiment("e")
    run_id = server.create_run(home, "ada", 0, [], "r").info.run_id
    other = server.create_experiment("other")
    engine = sa.create_engine(in_cloud.index_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE runs SET experiment_id = {other}")
    engine.dispose()
    server.through._working.forget(run(home, run_id))
    server.set_tag(run_id, RunTag("a", "1"))
    assert BucketTrackingStore(in_cloud.tracking_uri).get_run(run_id).data.tags["a"] == "1"
