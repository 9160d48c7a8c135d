"""A file-store `mlruns` taken into a bucket."""

import os
import time
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, RunStatus, RunTag
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.store.model_registry.file_store import FileStore as FileRegistry
from mlflow.store.tracking.file_store import FileStore

from kaggleops.bucket import ABSENT, Bucket, open_bucket
from kaggleops.bucket.directory import DirectoryBucket
from kaggleops.mlruns import EntityStore, experiment, import_artifacts, run
from kaggleops.mlruns.export import export
from kaggleops.tracking.registry import BucketRegistryStore
from kaggleops.tracking.session import close_all
from kaggleops.tracking.store import BucketTrackingStore
from tests.buckets import ON_EACH_SERVICE
from tests.command import kaggleops
from tests.fakes.object_server import ObjectServer
from tests.fakes.s3_server import S3Server
from tests.mlruns.corpus import (
    allowed,
    bring,
    content_of,
    plain_tree,
)
from tests.mlruns.importing import break_run, ended, mlruns, small_mlruns, store, versions

__all__ = ["allowed", "mlruns", "store"]

pytestmark = pytest.mark.usefixtures("allowed")


def test_a_second_import_changes_nothing(store: EntityStore, mlruns: Path) -> None:
    first = bring(store, mlruns)
    assert (len(first.new), first.problems) == (16, [])
    assert first.artifacts == sum(1 for path in mlruns.rglob("artifacts/**/*") if path.is_file())
    before = versions(store)
    second = bring(store, mlruns)
    assert (second.new, second.changed, second.unchanged) == ([], [], 16)
    assert (second.artifacts, second.problems) == (0, [])
    assert versions(store) == before


def test_what_the_source_has_more_of_is_brought_in_its_own_order(
    store: EntityStore, mlruns: Path, tmp_path: Path
) -> None:
    bring(store, mlruns)
    source = FileStore(str(mlruns))
    home = source.get_experiment_by_name("first").experiment_id
    runs = {each.info.run_name: each.info.run_id for each in source.search_runs([home], "", 3, 9)}
    grown, added = runs["full, renamed"], source.create_run(home, "ada", 1, [], "new").info.run_id
    for step in (9, 8, 7):  # not in the order of their times
        source.log_metric(runs["restored"], Metric("loss", 0.5, 100 - step, step))
    source.set_tag(grown, RunTag("colour", "blue"))  # before "green" in the alphabet
    source.update_run_info(runs["restored"], RunStatus.FINISHED, 77, "aaa")
    source.rename_experiment(home, "a first")
    (mlruns / home / grown / "artifacts/late.txt").write_text("late")
    registry = FileRegistry(str(mlruns))
    registry.create_model_version("tweets", f"runs:/{grown}/late")
    registry.set_registered_model_alias("tweets", "champion", "1")

    result = bring(store, mlruns)
    assert (result.new, result.artifacts, result.problems) == ([run(home, added)], 1, [])
    export(store, tmp_path / "out", artifacts=False)
    old_root, new_root = mlruns.as_uri().encode(), store.artifact_root.encode()
    expected = {
        path: data and data.replace(old_root, new_root)
        for path, data in plain_tree(mlruns).items()
        if "/artifacts/" not in path
    }
    assert plain_tree(tmp_path / "out") == expected


def test_edits_made_in_the_bucket_are_not_undone(store: EntityStore, mlruns: Path) -> None:
    bring(store, mlruns)
    tracking = BucketTrackingStore(f"{store.bucket.uri}/mlruns")
    home = tracking.get_experiment_by_name("first").experiment_id
    runs = {each.info.run_name: each.info.run_id for each in tracking.search_runs([home], "", 3, 9)}
    full = runs["full, renamed"]
    tracking.set_tag(full, RunTag("colour", "a better colour"))
    tracking.delete_tag(full, "kind")
    tracking.update_run_info(full, RunStatus.KILLED, 5, "a better name")
    tracking.delete_run(runs["reads the model, failed"])
    tracking.rename_experiment(home, "a better experiment")
    ended(tracking)
    registry = BucketRegistryStore(f"{store.bucket.uri}/mlruns")
    registry.update_registered_model("tweets", "better described")
    registry.delete_registered_model_alias("tweets", "champion")
    registry.set_model_version_tag("tweets", 1, ModelVersionTag("cv", "0.99"))
    registry.create_model_version("tweets", "gs://ours/4")
    ended(registry)
    key = f"artifacts/{home}/{full}/artifacts/model/weights.bin"
    store.bucket.write(key, b"better weights", expected=store.bucket.stat(key).version)
    before = versions(store)

    result = bring(store, mlruns)
    assert (result.new, result.changed, result.problems) == ([], [], [])
    assert versions(store) == before


@ON_EACH_SERVICE
def test_a_bucket_that_does_not_change_is_only_read(service: ObjectServer, mlruns: Path) -> None:
    service.create_bucket("ours")
    store = EntityStore(open_bucket(service.address("ours")))
    bring(store, mlruns)
    service.reset_counts()
    bring(store, mlruns)
    looks = {*service.verbs["list"], *service.verbs["read"]}
    assert {each.op for each in service.requests} == looks
    assert service.count("A") == 2


def test_artifacts_whose_service_the_export_does_not_name(
    s3_server: S3Server, mlruns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody gets to Amazon
    monkeypatch.setattr(import_artifacts, "_PATIENCE", 0.2)
    s3_server.proven = [""]
    theirs, ours = (
        EntityStore(open_bucket(s3_server.address(each))) for each in ("theirs", "ours")
    )
    for each in ("theirs", "ours"):
        s3_server.create_bucket(each)
    artifacts = bring(theirs, mlruns).artifacts
    export(theirs, tmp_path / "out", artifacts=False)
    (problem,) = bring(ours, tmp_path / "out").problems
    assert "they stay under s3://theirs/artifacts, which cannot be read (" in problem
    assert "name its service in AWS_ENDPOINT_URL_S3" in problem
    assert "export again with --artifacts" in problem
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.url)
    again = bring(ours, tmp_path / "out")
    assert (again.artifacts, again.problems) == (artifacts, [])


def test_an_experiment_that_the_bucket_has_by_name_is_taken_into_it(
    store: EntityStore, mlruns: Path, tmp_path: Path
) -> None:
    tracking = BucketTrackingStore(f"{store.bucket.uri}/mlruns")
    home = tracking.create_experiment("first")
    own = tracking.create_run(home, "ada", 1, [], "own").info.run_id
    ended(tracking)
    assert bring(store, mlruns).problems == []
    before = versions(store)
    assert bring(store, mlruns).changed == []
    assert versions(store) == before
    client = MlflowClient(f"{store.bucket.uri}/mlruns")
    assert [each.name for each in client.search_experiments(3)].count("first") == 1
    names = {each.info.run_name for each in client.search_runs([home], run_view_type=3)}
    assert names == {"own", "full, renamed", "reads the model, failed", "deleted", "restored"}
    assert own in {each.info.run_id for each in client.search_runs([home])}
    full = next(each for each in client.search_runs([home]) if each.data.params)
    path = client.download_artifacts(full.info.run_id, "model/weights.bin", str(tmp_path))
    assert Path(path).read_bytes() == content_of(run(home, full.info.run_id))
    traces = client.search_traces(locations=[home], include_spans=False)
    assert [trace.info.experiment_id for trace in traces] == [home]


@pytest.mark.parametrize("named", ["output", "output/bucket", "output/bucket/mlruns"])
def test_a_notebooks_output_comes_home_with_its_artifacts(
    tmp_path: Path, bucket: Bucket, named: str
) -> None:
    here = tmp_path / "output/bucket"
    client = mlflow.MlflowClient(f"bucket+file://{here}/mlruns")
    run = client.create_run(client.create_experiment("offline"))
    client.log_metric(run.info.run_id, "loss", 0.5, step=3)
    client.log_text(run.info.run_id, "a model", "model/weights.txt")
    client.set_terminated(run.info.run_id)
    close_all()
    (artifact,) = here.rglob("weights.txt")
    # S3 tells times in whole seconds: what is as old as its copy is copied once more.
    os.utime(artifact, (time.time(), time.time() - 2))

    store = EntityStore(bucket)
    first = bring(store, tmp_path / named)
    assert (len(first.new), first.artifacts, first.problems) == (2, 1, [])
    home = mlflow.MlflowClient(f"{bucket.uri}/mlruns")
    there = home.get_run(run.info.run_id)
    assert (there.info.status, there.data.metrics) == ("FINISHED", {"loss": 0.5})
    fetched = home.download_artifacts(there.info.run_id, "model/weights.txt")
    stored = Path(fetched).read_text()
    assert stored == "a model"
    again = bring(store, tmp_path / named)
    assert (again.new, again.changed, again.artifacts) == ([], [], 0)


def test_of_two_versions_of_an_artifact_the_later_stays(store: EntityStore, mlruns: Path) -> None:
    bring(store, mlruns)
    first, second = sorted(mlruns.glob("*/*/artifacts/model/weights.bin"))[:2]
    first.write_bytes(b"trained on")
    in_an_hour = time.time() + 3600
    os.utime(first, (in_an_hour, in_an_hour))
    key = f"artifacts/{second.relative_to(mlruns).as_posix()}"
    store.bucket.write(key, b"better", expected=store.bucket.stat(key).version)
    assert bring(store, mlruns).artifacts == 1
    assert store.bucket.read(key).data == b"better"
    key = f"artifacts/{first.relative_to(mlruns).as_posix()}"
    assert store.bucket.read(key).data == b"trained on"


class TestCommand:
    def test_import(self, mlruns: Path, tmp_path: Path) -> None:
        done = kaggleops("import", "mlruns", "--bucket", "b", "--json", cwd=tmp_path)
        assert (done.code, len(done.json["new"]), done.json["problems"]) == (0, 16, [])
        done = kaggleops("import", mlruns, "--bucket", "b", cwd=tmp_path)
        assert (done.code, "0 new, 0 changed, 16 there already" in done.output) == (0, True)

    def test_a_broken_run_is_one_line_and_exit_code_1(self, mlruns: Path, tmp_path: Path) -> None:
        broken = break_run(mlruns)
        done = kaggleops("import", "mlruns", "--bucket", "b", cwd=tmp_path)
        assert (done.code, broken in done.error) == (1, True)
        assert "15 new" in done.output

    def test_a_bad_source_is_called_wrongly(self, tmp_path: Path) -> None:
        done = kaggleops("import", "nowhere", "--bucket", "b", cwd=tmp_path)
        assert (done.code, "does not exist" in done.error) == (2, True)
        assert not (tmp_path / "b").exists()


def test_an_empty_bucket_is_made_by_an_import(tmp_path: Path) -> None:
    source = small_mlruns(tmp_path / "a", "1", "tweets", created=5)
    done = kaggleops("import", source, "--bucket", tmp_path / "new", cwd=tmp_path)
    assert done.code == 0
    there = DirectoryBucket(tmp_path / "new")
    assert there.stat(experiment("1").key).version != ABSENT
