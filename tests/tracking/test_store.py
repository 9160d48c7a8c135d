"""The tracking store answers as MLflow's own file store does, and the bucket has it all."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Metric, Param, RunStatus, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.file_store import FileStore

from kaggleops.bucket import Bucket, open_bucket
from kaggleops.mlruns import EntityStore, Kind, run
from kaggleops.mlruns.folder import write_folder
from kaggleops.tracking.store import BucketTrackingStore
from tests.buckets import EVERY_DIALECT

from .scenario import picture, play, tree

Machines = Callable[[], BucketTrackingStore]


@pytest.fixture
def file_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileStore:
    """MLflow's own file store."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return FileStore(str(tmp_path / "mlruns"))


def test_it_answers_as_the_file_store_does(machines: Machines, file_store: FileStore) -> None:
    store = machines()
    play(file_store)
    play(store)
    assert picture(store) == picture(file_store)


@EVERY_DIALECT
def test_another_machine_sees_the_same(machines: Machines, file_store: FileStore) -> None:
    store = machines()
    play(file_store)
    play(store)
    store._session.close()
    assert picture(machines()) == picture(file_store)


def test_unpacked_it_is_a_file_store(
    machines: Machines, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machines()
    play(store)
    expected = picture(store)
    working = store._working.root
    store._session.flush()
    unpacked = tmp_path / "unpacked"
    entities = EntityStore(bucket)
    ids = [entity_id for entity_id, _ in entities.list(Kind.EXPERIMENT)]
    for home in [entity_id.experiment_id for entity_id in ids]:
        for kind in (Kind.RUN, Kind.LOGGED_MODEL, Kind.DATASET):
            ids += [entity_id for entity_id, _ in entities.list(kind, home)]
    for entity_id in ids:
        stored = entities.read(entity_id)
        assert stored is not None
        folder = tmp_path / "one" / entity_id.folder
        write_folder(stored.entity, folder, notes=False)
        ours = store._working.path(entity_id)
        for path, content in tree(folder).items():
            assert content == tree(ours)[path], f"{entity_id}: {path}"
        target = unpacked / ours.relative_to(working)
        write_folder(stored.entity, target, notes=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    stock = FileStore(str(unpacked))
    # The file store makes a default experiment only with its folder, which was there already.
    got = picture(stock)
    got["experiments"] = sorted(got["experiments"] + _default_of(expected))
    assert got == expected


def _default_of(content: dict[str, list[str]]) -> list[str]:
    return [each for each in content["experiments"] if "'Default'" in each]


def test_the_same_name_gives_the_same_id_everywhere(machines: Machines) -> None:
    here, there = machines(), machines()
    assert here.create_experiment("tweets") == there.get_experiment_by_name("tweets").experiment_id
    with pytest.raises(MlflowException, match="already exists"):
        there.create_experiment("tweets")


def test_a_name_whose_id_is_taken_by_a_renamed_experiment_gets_the_next(
    store: BucketTrackingStore,
) -> None:
    old = store.create_experiment("tweets")
    store.rename_experiment(old, "tweets, first try")
    new = store.create_experiment("tweets")
    assert new != old
    assert store.get_experiment_by_name("tweets").experiment_id == new
    assert store.get_experiment_by_name("tweets, first try").experiment_id == old


def test_ids_fit_into_mlflows_sql_schema(store: BucketTrackingStore) -> None:
    ids = [int(store.create_experiment(f"experiment {number}")) for number in range(5)]
    assert all(0 < each < 2**31 for each in ids)


def start(store: BucketTrackingStore, name: str = "run") -> str:
    existing = store.get_experiment_by_name("tweets")
    home = existing.experiment_id if existing else store.create_experiment("tweets")
    return str(store.create_run(home, "ada", 1000, [], name).info.run_id)


def test_a_new_run_is_in_the_bucket_at_once(machines: Machines) -> None:
    run_id = start(machines())
    assert machines().get_run(run_id).info.status == "RUNNING"


def test_a_run_continues_on_a_machine_that_never_saw_it(machines: Machines) -> None:
    here = machines()
    run_id = start(here)
    here.log_metric(run_id, Metric("loss", 0.9, 1, 0))
    here._session.flush()
    there = machines()
    there.log_metric(run_id, Metric("loss", 0.8, 2, 1))
    there._session.flush()
    values = [point.value for point in here.get_metric_history(run_id, "loss")]
    assert values == [0.9, 0.8]


def test_writers_on_two_machines_lose_nothing(machines: Machines) -> None:
    here = machines()
    run_id = start(here)
    there = machines()
    there.get_run(run_id)
    for step in range(10):
        here.log_metric(run_id, Metric("here", step, step, step))
        there.log_metric(run_id, Metric("there", step, step, step))
        here.log_metric(run_id, Metric("both", step, 2 * step, step))
        there.log_metric(run_id, Metric("both", step, 2 * step + 1, step))
        if step % 3 == 0:
            here._session.flush()
        if step % 4 == 0:
            there._session.flush()
    here.set_tag(run_id, RunTag("from", "here"))
    there.log_param(run_id, Param("from", "there"))
    here._session.flush()
    there._session.flush()
    third = machines()
    found = third.get_run(run_id)
    assert found.data.tags["from"] == "here"
    assert found.data.params["from"] == "there"
    assert len(third.get_metric_history(run_id, "both")) == 20
    assert {"here", "there"} <= found.data.metrics.keys()


def test_the_first_value_of_a_param_stays_and_the_other_is_kept_beside_it(
    machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    here = machines()
    run_id = start(here)
    there = machines()
    there.get_run(run_id)
    here.log_param(run_id, Param("lr", "0.1"))
    there.log_param(run_id, Param("lr", "0.2"))
    there.log_metric(run_id, Metric("loss", 1.0, 1, 0))
    here._session.flush()
    there._session.flush()
    found = machines().get_run(run_id)
    assert found.data.params["lr"] == "0.1"
    assert found.data.metrics["loss"] == 1.0
    assert found.data.params["lr.2"] == "0.2"
    assert "is '0.1' already; '0.2', logged later, is kept as 'lr.2'" in caplog.text


def test_a_run_finished_elsewhere_is_not_made_running_again(machines: Machines) -> None:
    here = machines()
    run_id = start(here)
    there = machines()
    there.update_run_info(run_id, RunStatus.FINISHED, 5, None)
    here.log_metric(run_id, Metric("loss", 1.0, 1, 0))
    here._session.flush()
    assert machines().get_run(run_id).info.status == "FINISHED"
    here.update_run_info(run_id, RunStatus.RUNNING, None, None)
    here._session.flush()
    assert machines().get_run(run_id).info.status == "RUNNING"


def test_what_is_not_there_says_so(store: BucketTrackingStore) -> None:
    with pytest.raises(MlflowException, match="'0123456789abcdef' not found"):
        store.get_run("0123456789abcdef")
    with pytest.raises(MlflowException, match="not found"):
        store.log_metric("0123456789abcdef", Metric("loss", 1.0, 1, 0))
    with pytest.raises(MlflowException, match="'m-1' not found"):
        store.get_logged_model("m-1")
    with pytest.raises(MlflowException, match="12345"):
        store.create_run("12345", "ada", 1, [], "x")


def test_a_deleted_run_takes_no_more_metrics(store: BucketTrackingStore) -> None:
    run_id = start(store)
    store.log_metric(run_id, Metric("loss", 1.0, 1, 0))
    store.delete_run(run_id)
    with pytest.raises(MlflowException, match="must be in 'active'"):
        store.log_metric(run_id, Metric("loss", 1.0, 1, 1))


def test_a_broken_object_hides_no_other(
    machines: Machines, bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    here = machines()
    good = start(here)
    home = here.get_run(good).info.experiment_id
    bucket.write(run(home, "b" * 32).key, b"not an archive", expected="0")
    found = machines().search_runs([home], "", ViewType.ALL)
    assert [each.info.run_id for each in found] == [good]
    assert "b" * 32 in caplog.text


def test_artifacts_follow_a_copied_bucket(machines: Machines, bucket: Bucket) -> None:
    here = machines()
    run_id = start(here)
    found = here.get_run(run_id)
    copy = bucket.read(run(found.info.experiment_id, run_id).key)
    assert copy is not None
    moved = copy.data  # the same bytes, in a bucket of another name
    from kaggleops.mlruns import unpack
    from kaggleops.mlruns.locations import rebase

    entity = unpack(moved, run(found.info.experiment_id, run_id), "x")
    assert entity.meta["artifact_uri"].startswith(bucket.artifact_uri)
    rebased = rebase(entity, "gs://another/artifacts").meta["artifact_uri"]
    assert rebased == f"gs://another/artifacts/{found.info.experiment_id}/{run_id}/artifacts"


def test_mlflows_own_interface(fluent: str, tmp_path: Path) -> None:
    mlflow.set_experiment("tweets")
    (tmp_path / "note.txt").write_text("hello")
    with mlflow.start_run(run_name="parent") as parent:
        mlflow.log_params({"lr": 0.1, "epochs": 3})
        mlflow.log_metrics({"loss": 0.5}, step=1)
        mlflow.log_artifact(str(tmp_path / "note.txt"), "notes")
        mlflow.log_dict({"a": 1}, "config.json")
        with mlflow.start_run(run_name="child", nested=True) as child:
            mlflow.log_metric("loss", 0.25)
    found = mlflow.search_runs(experiment_names=["tweets"], output_format="list")
    assert {each.info.run_name for each in found} == {"parent", "child"}
    assert mlflow.get_run(child.info.run_id).data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert mlflow.get_run(parent.info.run_id).info.status == "FINISHED"
    text = mlflow.artifacts.load_text(f"{parent.info.artifact_uri}/notes/note.txt")
    assert text == "hello"
    root = open_bucket(fluent.removesuffix("/mlruns")).artifact_uri
    assert parent.info.artifact_uri.startswith(root.removeprefix("bucket+"))


def test_without_an_experiment_the_default_one_is_used(fluent: str, machines: Machines) -> None:
    with mlflow.start_run() as started:
        mlflow.log_metric("loss", 1.0)
    found = machines().get_run(started.info.run_id)
    assert found.info.experiment_id == "0"
    assert machines().get_experiment("0").name == "Default"
