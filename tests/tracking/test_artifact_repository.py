"""Artifacts in buckets of every kind: what goes in, what is listed, what comes out."""

import os
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException, MlflowTraceDataCorrupted
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.gcs_artifact_repo import GCSArtifactRepository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from kaggleops.bucket import ABSENT, Bucket, open_bucket
from kaggleops.tracking.artifacts import BucketArtifactRepository
from tests.buckets import EVERY_DIALECT
from tests.fakes.gcs_server import GcsServer
from tests.fakes.s3_server import S3Server
from tests.tracking.scenario import tree

NAMES = [
    "images\\1.png",
    "100%/50%25.txt",
    "a#b?c&d=e",
    " leading/trailing ",
    "Übung 数据/🙂.bin",
    "tab\there",
    "n" * 255,
    "/".join(["deep"] * 30) + "/file",
    ".hidden/...",
    "~/$HOME/`x`",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files of awkward names, an empty folder, and a link to a file."""
    top = tmp_path / "to log"
    for name in NAMES:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(name.encode())
    (top / "empty/inside").mkdir(parents=True)
    (tmp_path / "elsewhere.txt").write_text("behind a link")
    (top / "link.txt").symlink_to(tmp_path / "elsewhere.txt")
    return top


@pytest.fixture
def repository(bucket: Bucket) -> ArtifactRepository:
    """A run's artifacts in an empty bucket of each kind."""
    return repository_of(bucket)


def repository_of(bucket: Bucket) -> ArtifactRepository:
    uri = f"{bucket.artifact_uri}/artifacts/1/{'a' * 32}/artifacts"
    found = get_artifact_repository(uri, tracking_uri=f"{bucket.uri}/mlruns")
    assert isinstance(found, BucketArtifactRepository)
    return found


def keys(bucket: Bucket) -> list[str]:
    return [entry.key.partition("/artifacts/")[2] for entry in bucket.list("artifacts/")]


@EVERY_DIALECT
def test_a_folder_of_awkward_names_comes_back(
    repository: ArtifactRepository, bucket: Bucket, folder: Path, tmp_path: Path
) -> None:
    repository.log_artifacts(str(folder), "in a/folder")
    expected = sorted([*NAMES, "link.txt"])
    assert sorted(keys(bucket)) == [f"in a/folder/{name}" for name in expected]
    assert [(each.path, each.is_dir) for each in repository.list_artifacts()] == [("in a", True)]
    listed = {each.path: each.file_size for each in repository.list_artifacts("in a/folder")}
    assert listed["in a/folder/images\\1.png"] == len(b"images\\1.png")
    assert listed["in a/folder/100%"] is None
    (tmp_path / "back").mkdir()
    repository.download_artifacts("in a", str(tmp_path / "back"))
    back = tree(tmp_path / "back" / "in a" / "folder")
    assert {name: back[name] for name in expected} == {
        name: (folder / name).read_bytes() for name in expected
    }
    repository.delete_artifacts("in a/folder/100%")
    assert f"in a/folder/{NAMES[1]}" not in keys(bucket)
    repository.delete_artifacts("in a/folder/images\\1.png")
    assert len(keys(bucket)) == len(expected) - 2
    repository.delete_artifacts()
    assert keys(bucket) == []


def test_it_is_what_mlflows_own_makes_of_it(gcs_server: GcsServer, folder: Path) -> None:
    gcs_server.create_bucket("our-bucket")
    ours = get_artifact_repository("gs://our-bucket/ours", tracking_uri="gs://our-bucket/mlruns")
    stock = GCSArtifactRepository("gs://our-bucket/stock")
    for each in (ours, stock):
        each.log_artifacts(str(folder), "x")
        each.log_artifact(str(folder / NAMES[0]))
    found = {key: made.data for key, made in gcs_server.objects("our-bucket").items()}
    of = {
        name: {key.removeprefix(name): data for key, data in found.items() if key.startswith(name)}
        for name in ("ours", "stock")
    }
    assert of["ours"] == of["stock"]
    for path in (None, "x", "x/100%", f"x/{NAMES[0]}"):
        assert [vars(each) for each in ours.list_artifacts(path)] == [
            vars(each) for each in stock.list_artifacts(path)
        ]


def test_a_file_that_cannot_be_logged_does_not_hold_back_the_others(
    repository: ArtifactRepository,
    bucket: Bucket,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (folder / "dangling").symlink_to(folder / "nowhere")
    with pytest.raises(FileNotFoundError, match="dangling"):
        repository.log_artifacts(str(folder))
    assert sorted(keys(bucket)) == sorted([*NAMES, "link.txt"])
    repository.delete_artifacts()
    (folder / "new\nline").write_text("no bucket holds it")
    (folder / "circle").symlink_to(folder)
    with pytest.raises((FileNotFoundError, MlflowException)):
        repository.log_artifacts(str(folder))
    assert sorted(keys(bucket)) == sorted([*NAMES, "link.txt"])
    (folder / "dangling").unlink()
    with pytest.raises(MlflowException, match=r"'.*new\\nline' contains a line end"):
        repository.log_artifacts(str(folder))
    assert "circle is a link to a folder" in caplog.text
    with pytest.raises(FileNotFoundError):
        repository.log_artifacts(str(folder / "nowhere"))


@pytest.mark.parametrize("path", ["../b", "/etc/passwd", "x/../../b", ".."])
def test_a_path_out_of_the_run_leads_nowhere(
    repository: ArtifactRepository, bucket: Bucket, tmp_path: Path, path: str
) -> None:
    other = bucket.write(f"artifacts/1/{'a' * 32}/b", b"another's", expected=ABSENT)
    (tmp_path / "file").write_text("")
    for use in (
        lambda: repository.list_artifacts(path),
        lambda: repository.download_artifacts(path, str(tmp_path)),
        lambda: repository.get_local_path(path),
        lambda: repository.delete_artifacts(path),
        lambda: repository.log_artifact(str(tmp_path / "file"), path),
    ):
        with pytest.raises(MlflowException, match="Invalid artifact path") as raised:
            use()
        assert raised.value.get_http_status_code() == 400
    assert [entry.version for entry in bucket.list()] == [other]


def test_what_is_not_there(repository: ArtifactRepository, tmp_path: Path) -> None:
    assert repository.list_artifacts() == []
    assert repository.list_artifacts("nothing") == []
    with pytest.raises(MlflowException, match="No such artifact: 'nothing'") as raised:
        repository.download_artifacts("nothing", str(tmp_path))
    assert raised.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_archived_spans_that_would_fill_the_memory_are_not_read(tmp_path: Path) -> None:
    bucket = open_bucket(str(tmp_path / "a bucket"))
    repository = repository_of(bucket)
    archive = tmp_path / f"a bucket/artifacts/1/{'a' * 32}/artifacts/traces.pb"
    archive.parent.mkdir(parents=True)
    archive.touch()
    os.truncate(archive, 32 << 20)
    with pytest.raises(MlflowTraceDataCorrupted):
        repository.download_archived_trace_data()
    os.truncate(archive, (32 << 20) + 1)
    with pytest.raises(MlflowException, match=r"33,554,433 bytes, 33,554,432 are the most"):
        repository.download_archived_trace_data()


def test_an_artifact_in_a_folder_is_there_already(tmp_path: Path) -> None:
    repository = repository_of(open_bucket(str(tmp_path / "a bucket")))
    (tmp_path / "model.bin").write_bytes(b"weights")
    repository.log_artifact(str(tmp_path / "model.bin"), "model")
    there = repository.download_artifacts("model/model.bin")
    assert there == repository.get_local_path("model/model.bin")
    assert Path(there).is_relative_to(tmp_path / "a bucket")
    repository.log_artifact(there, "model")  # who writes there himself logs it as well
    assert Path(there).read_bytes() == b"weights"


def test_a_folder_that_is_not_in_the_bucket_is_mlflows_own(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.txt").write_text("a")
    uri = (tmp_path / "elsewhere").as_uri()
    other = get_artifact_repository(uri, tracking_uri=f"{bucket.uri}/mlruns")
    assert type(other) is LocalArtifactRepository
    assert [each.path for each in other.list_artifacts()] == ["a.txt"]
    assert type(get_artifact_repository(uri, tracking_uri="sqlite://")) is LocalArtifactRepository


def test_in_a_server_over_an_index_it_is_the_bucket_that_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = (tmp_path / "bucket" / "artifacts").as_uri()
    monkeypatch.setenv("_KAGGLEOPS_SERVED_BUCKET", f"bucket+{(tmp_path / 'bucket').as_uri()}")
    index = f"kaggleops+sqlite:///{tmp_path}/index.db"
    found = get_artifact_repository(f"{root}/1/{'a' * 32}/artifacts", tracking_uri=index)
    assert isinstance(found, BucketArtifactRepository)
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "bucket").write_text("a file where the bucket was")
    with pytest.raises(MlflowException, match="writing bucket"):
        found.log_artifact(str(tmp_path / "a.txt"))
    assert not (tmp_path / "home").exists()


def test_a_run_in_a_folder_is_read_by_mlflow_without_us(fluent: str, tmp_path: Path) -> None:
    if not fluent.startswith("bucket+file://"):
        return
    with mlflow.start_run() as run:
        mlflow.log_text("hello", "a/b.txt")
    uri = run.info.artifact_uri
    assert uri.startswith("file:///")
    assert [each.path for each in LocalArtifactRepository(uri).list_artifacts("a")] == ["a/b.txt"]


def test_another_place_in_the_bucket_is_at_the_same_service(s3_server: S3Server) -> None:
    s3_server.create_bucket("ours")
    s3_server.put("ours", "elsewhere/file", b"")
    tracked_in = f"{s3_server.address('ours', 'some/prefix')}/mlruns"
    found = get_artifact_repository("s3://ours/elsewhere", tracking_uri=tracked_in)
    assert [each.path for each in found.list_artifacts()] == ["file"]
