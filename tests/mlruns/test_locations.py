"""Artifacts of an imported or copied bucket are found, wherever they were logged."""

import os
import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.store.model_registry.file_store import FileStore as FileRegistry
from mlflow.store.tracking.file_store import FileStore

from kaggleops.bucket import ABSENT, open_bucket
from kaggleops.mlruns import EntityStore, run
from kaggleops.mlruns.entity import dump_yaml, parse_yaml
from kaggleops.mlruns.export import export
from kaggleops.mlruns.import_sources import opened
from kaggleops.mlruns.importer import import_into
from kaggleops.tracking.session import close_all
from tests.buckets import ON_EACH_SERVICE, S3_SELDOM
from tests.command import kaggleops
from tests.fakes.gcs_server import GcsServer
from tests.fakes.object_server import ObjectServer
from tests.mlruns.corpus import (
    WITH_ARTIFACTS,
    add_artifacts,
    allowed,
    artifacts_through_mlflow,
    bring,
    content_of,
    make_mlruns,
)
from tests.mlruns.importing import mlruns, store

__all__ = ["allowed", "mlruns", "store"]

pytestmark = pytest.mark.usefixtures("allowed")


ROOTS = [
    "file:///content/mlruns",
    "/kaggle/working/mlruns",
    "./mlruns",
    "mlruns",
    "file:///C:/Users/ada/mlruns",
    "C:\\Users\\ada\\mlruns",
    "gs://the-old-bucket/somewhere/mlruns",
    "gs://the-old-bucket/artifacts",
    "/home/ada/experiments",
]


def with_root(mlruns: Path, root: str) -> None:
    """Let every location in the source be one under another root."""
    for path in (*mlruns.rglob("meta.yaml"), *mlruns.rglob("mlflow.artifactLocation")):
        text = path.read_text()
        if mlruns.as_uri() not in text:
            continue
        if path.name == "meta.yaml":
            meta = parse_yaml(text.encode(), "")
            meta = {key: _under(value, mlruns.as_uri(), root) for key, value in meta.items()}
            path.write_bytes(dump_yaml(meta))
        else:
            path.write_text(_under(text, mlruns.as_uri(), root))


def _under(value: object, old: str, new: str) -> object:
    if not (isinstance(value, str) and value.startswith(old)):
        return value
    moved = new + value[len(old) :]
    return moved.replace("/", "\\") if "\\" in new else moved


@pytest.mark.parametrize(
    "bucket", ["directory", pytest.param("gcs", marks=pytest.mark.slow), S3_SELDOM], indirect=True
)
@pytest.mark.parametrize("root", ROOTS)
def test_every_artifact_is_found_whatever_machine_it_comes_from(
    store: EntityStore, mlruns: Path, root: str, tmp_path: Path
) -> None:
    with_root(mlruns, root)
    result = bring(store, mlruns)
    assert result.problems == []
    uri = f"{store.bucket.uri}/mlruns"
    got = artifacts_through_mlflow(uri, tmp_path / "got")
    assert {each.kind for each in got} == set(WITH_ARTIFACTS)
    assert got == {entity_id: content_of(entity_id) for entity_id in got}
    client = MlflowClient(uri)
    for each in client.search_experiments(3):
        assert each.artifact_location.startswith(store.artifact_root)


def test_new_runs_of_an_imported_experiment_log_to_the_bucket(
    store: EntityStore, mlruns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_root(mlruns, "file:///content/mlruns")
    bring(store, mlruns)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{store.bucket.uri}/mlruns")
    mlflow.set_tracking_uri(f"{store.bucket.uri}/mlruns")
    mlflow.set_experiment("first")
    with mlflow.start_run() as new:
        mlflow.log_text("hello", "hello.txt")
    key = f"artifacts/{new.info.experiment_id}/{new.info.run_id}/artifacts/hello.txt"
    assert store.bucket.read(key).data == b"hello"


def test_a_registered_model_is_found_after_a_move(store: EntityStore, mlruns: Path) -> None:
    registry = FileRegistry(str(mlruns))
    source = FileStore(str(mlruns))
    home = source.get_experiment_by_name("first").experiment_id
    full = next(each.info for each in source.search_runs([home], "", 3, 9) if each.data.params)
    registry.create_registered_model("spans")
    registry.create_model_version("spans", f"{full.artifact_uri}/model", full.run_id)
    registry.create_model_version("spans", "s3://chosen/by/hand")
    with_root(mlruns, "file:///content/mlruns")
    bring(store, mlruns)
    client = MlflowClient(f"{store.bucket.uri}/mlruns", f"{store.bucket.uri}/mlruns")
    expected = f"{store.artifact_root}/{home}/{full.run_id}/artifacts/model"
    assert client.get_model_version_download_uri("spans", "1") == expected
    refused = "outside-the-bucket://registered-model/spans/s3://chosen/by/hand"
    assert client.get_model_version_download_uri("spans", "2") == refused
    assert client.get_model_version("spans", "2").source == "s3://chosen/by/hand"


def test_artifacts_that_lie_outside_are_followed(store: EntityStore, tmp_path: Path) -> None:
    make_mlruns(tmp_path / "mlruns", (tmp_path / "store").as_uri())
    add_artifacts(tmp_path / "mlruns", tmp_path / "store")
    assert bring(store, tmp_path / "mlruns").problems == []
    got = artifacts_through_mlflow(f"{store.bucket.uri}/mlruns", tmp_path / "got")
    assert got == {entity_id: content_of(entity_id) for entity_id in got}
    assert got


@pytest.mark.parametrize(
    "place", ["/mnt/gone/store", "/mnt/gone/artifacts", f"/mnt/{300 * 'a'}/artifacts"]
)
def test_artifacts_that_cannot_be_found_are_named(
    place: str, store: EntityStore, tmp_path: Path
) -> None:
    make_mlruns(tmp_path / "mlruns", f"file://{place}")
    result = bring(store, tmp_path / "mlruns")
    assert len(result.new) == 16
    assert len(result.problems) == 1
    assert place in result.problems[0]


@pytest.mark.parametrize("also", [0, 1], ids=["alone", "beside one with artifacts"])
def test_what_has_no_artifacts_leaves_none_behind(
    also: int, store: EntityStore, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    client = MlflowClient(f"bucket+{theirs.as_uri()}/mlruns")
    home = client.create_experiment("e")
    for number in range(1 + also):
        run_id = client.create_run(home).info.run_id
        if number:
            client.log_text(run_id, "text", "a.txt")
    close_all()
    export(EntityStore(open_bucket(str(theirs))), tmp_path / "out", artifacts=False)
    result = bring(store, tmp_path / "out")
    assert (len(result.new), result.artifacts, result.problems) == (2 + also, also, [])

    shutil.rmtree(theirs / "artifacts", ignore_errors=True)  # the place, by what the bucket holds
    assert bring(store, tmp_path / "out").problems == []
    theirs.rename(tmp_path / "away")
    (problem,) = bring(store, tmp_path / "out").problems
    assert f"they stay under {theirs.as_uri()}/artifacts, and that is not here." in problem


def test_another_bucket_that_cannot_be_read_is_asked_once_and_named(
    gcs_server: GcsServer, tmp_path: Path
) -> None:
    gcs_server.create_bucket("ours")
    gcs_server.create_bucket("forbidden")
    gcs_server.deny("forbidden", read=True)
    make_mlruns(tmp_path / "mlruns", "gs://forbidden/artifacts")
    result = bring(EntityStore(open_bucket("gs://ours")), tmp_path / "mlruns")
    assert len(result.new) == 16
    assert len(result.problems) == 1
    assert "gs://forbidden/artifacts" in result.problems[0]
    asked = [each for each in gcs_server.requests if each.bucket == "forbidden"]
    assert {each.status for each in asked} == {403}
    assert len({(each.op, each.key) for each in asked}) == len(asked)


@ON_EACH_SERVICE
def test_the_artifacts_of_the_2020_recipe_come_out_of_their_bucket(
    service: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.create_bucket("ours")
    service.create_bucket("old")
    # S3's own addresses name no host.
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", service.url)
    old, ours = open_bucket(service.address("old")), open_bucket(service.address("ours"))
    mlruns = tmp_path / "mlruns"
    source = FileStore(str(mlruns), f"{old.artifact_uri}/artifacts")
    home = source.create_experiment("titanic", f"{old.artifact_uri}/artifacts", [])
    runs = [source.create_run(home, "ada", 1, [], "x").info for _ in range(3)]
    assert runs[0].artifact_uri == f"{old.artifact_uri}/artifacts/{runs[0].run_id}/artifacts"
    for number, info in enumerate(runs[:2]):
        for name in ("model/a.bin", "b.txt"):
            key = f"artifacts/{info.run_id}/artifacts/{name}"
            old.write(key, f"{number} {name}".encode(), expected=ABSENT)
            service.age("old", key, 1)  # what is as old as its copy, by S3's seconds, comes again
    beside = mlruns / home / runs[0].run_id / "artifacts"  # some of a run's lie here
    beside.mkdir(exist_ok=True)
    (beside / "c.txt").write_text("c")
    (beside / "b.txt").write_text("an earlier one")
    for name in ("b.txt", "c.txt"):
        os.utime(beside / name, (0, 0))
    by_hand = source.create_run(home, "ada", 1, [], "x").info.run_id
    meta = mlruns / home / by_hand / "meta.yaml"
    fields = parse_yaml(meta.read_bytes(), "")
    meta.write_bytes(dump_yaml({**fields, "artifact_uri": f"{old.artifact_uri}/private"}))
    old.write("private/key", b"secret", expected=ABSENT)
    registry = FileRegistry(str(mlruns))
    registry.create_registered_model("m")
    registry.create_model_version("m", f"{runs[0].artifact_uri}/model", runs[0].run_id)

    done = kaggleops("import", str(mlruns), "--bucket", ours.uri, "--json", cwd=tmp_path)
    assert (done.json["artifacts"], done.json["artifacts_size"]) == (5, 2 * (13 + 7) + 1)
    (left,) = done.json["problems"]
    assert (
        f"{by_hand}: they stay under {old.artifact_uri}/private, which is no place that MLflow"
        in left
    )
    told = []
    with opened(str(mlruns)) as found:
        again = import_into(EntityStore(ours), found, lambda *at: told.append(at))
    assert (again.artifacts, again.new, again.changed, told[-1][:3]) == (0, [], [], (7, 7, 0))

    uri = f"{ours.uri}/mlruns"
    client = MlflowClient(uri, uri)
    place = f"{ours.artifact_uri}/artifacts/{home}/{runs[0].run_id}/artifacts"
    assert client.get_run(runs[0].run_id).info.artifact_uri == place
    assert client.get_model_version_download_uri("m", "1") == f"{place}/model"
    assert client.get_experiment(home).artifact_location == f"{ours.artifact_uri}/artifacts/{home}"
    assert [each.path for each in client.list_artifacts(runs[1].run_id)] == ["b.txt", "model"]
    keys = {entry.key for entry in ours.list("artifacts/")}
    assert len(keys) == 5
    assert not any("private" in key or "key" in key for key in keys)
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("titanic")
    with mlflow.start_run() as new:
        mlflow.log_text("hello", "hello.txt")
    assert (
        new.info.artifact_uri == f"{ours.artifact_uri}/artifacts/{home}/{new.info.run_id}/artifacts"
    )


def test_no_file_of_this_machine_is_taken_for_an_artifact(
    store: EntityStore, mlruns: Path, tmp_path: Path
) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private/key").write_text("secret")
    source = FileStore(str(mlruns))
    home = source.get_experiment_by_name("first").experiment_id
    hostile, linked = (source.create_run(home, "eve", 1, [], "x").info.run_id for _ in "ab")
    meta = mlruns / home / hostile / "meta.yaml"
    fields = parse_yaml(meta.read_bytes(), "")
    meta.write_bytes(dump_yaml({**fields, "artifact_uri": (tmp_path / "private").as_uri()}))
    (mlruns / home / linked / "artifacts/link").symlink_to(tmp_path / "private")
    (mlruns / home / linked / "artifacts/key").symlink_to(tmp_path / "private/key")
    (mlruns / home / linked / "artifacts/last.txt").write_text("last")
    (mlruns / home / linked / "artifacts/best.txt").symlink_to("last.txt")
    (mlruns / home / linked / "tags/note").symlink_to(tmp_path / "private/key")
    elsewhere = source.create_run(home, "eve", 1, [], "x").info.run_id
    (mlruns / home / elsewhere / "artifacts").rmdir()
    (mlruns / home / elsewhere / "artifacts").symlink_to(tmp_path / "private")
    shutil.copytree(mlruns / home / hostile, tmp_path / "private/run")
    (mlruns / home / ("e" * 32)).symlink_to(tmp_path / "private/run")
    problems = " ".join(bring(store, mlruns).problems)
    assert not any("key" in entry.key for entry in store.bucket.list())
    for name in ("artifacts/link", "artifacts/key", "tags/note", f"{elsewhere}", "e" * 32):
        assert name in problems
    assert b"secret" not in store.bucket.read(run(home, linked).key).data
    place = f"artifacts/{home}/{linked}/artifacts"
    assert store.bucket.read(f"{place}/best.txt").data == b"last"


def test_artifacts_of_a_tracking_server_are_found_beside_its_mlruns(
    store: EntityStore, tmp_path: Path
) -> None:
    make_mlruns(tmp_path / "mlruns", "mlflow-artifacts:/")
    add_artifacts(tmp_path / "mlruns", tmp_path / "mlartifacts")
    assert bring(store, tmp_path / "mlruns").problems == []
    got = artifacts_through_mlflow(f"{store.bucket.uri}/mlruns", tmp_path / "got")
    assert {each.kind for each in got} == set(WITH_ARTIFACTS)
    assert got == {entity_id: content_of(entity_id) for entity_id in got}
