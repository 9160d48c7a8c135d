"""The fake Cloud Storage, through the other clients: gcsfs, pandas, MLflow."""

import os
from pathlib import Path

import gcsfs
import pandas as pd
import pytest
from mlflow.store.artifact.gcs_artifact_repo import GCSArtifactRepository

from tests.fakes.gcs_server import GcsServer

KIB = 1024


@pytest.fixture
def server(gcs_server: GcsServer) -> GcsServer:
    gcs_server.create_bucket("b")
    return gcs_server


@pytest.fixture
def files(server: GcsServer) -> gcsfs.GCSFileSystem:
    return gcsfs.GCSFileSystem(token="anon")


def test_gcsfs(server: GcsServer, files: gcsfs.GCSFileSystem, tmp_path: Path) -> None:
    content = os.urandom(600 * KIB)
    with files.open("b/folder/small.bin", "wb") as stream:
        stream.write(b"small")
    with files.open("gs://b/folder/large ü.bin", "wb", block_size=256 * KIB) as stream:
        for start in range(0, len(content), 100_000):
            stream.write(content[start : start + 100_000])
    files.pipe("b/folder/sub/piped", b"piped")
    (tmp_path / "file").write_bytes(content)
    files.put(str(tmp_path / "file"), "b/put")
    assert server.objects("b")["folder/large ü.bin"].data == content
    assert server.objects("b")["put"].data == content
    files.invalidate_cache()
    with files.open("b/folder/large ü.bin", "rb", block_size=KIB) as stream:
        stream.seek(300_000)
        assert stream.read(10) == content[300_000:300_010]
        assert stream.read() == content[300_010:]
    assert files.cat("b/folder/small.bin") == b"small"
    assert files.cat_file("b/folder/small.bin", start=1, end=3) == b"ma"
    assert files.ls("b/folder") == [
        "b/folder/large ü.bin",
        "b/folder/small.bin",
        "b/folder/sub",
    ]
    assert files.glob("b/**/*.bin") == ["b/folder/large ü.bin", "b/folder/small.bin"]
    assert files.find("b") == [
        "b/folder/large ü.bin",
        "b/folder/small.bin",
        "b/folder/sub/piped",
        "b/put",
    ]
    assert files.info("b/put")["size"] == len(content)
    assert files.exists("b/put")
    assert not files.exists("b/absent")
    assert files.isdir("b/folder")
    files.get("b/put", str(tmp_path / "got"))
    assert (tmp_path / "got").read_bytes() == content
    files.rm("b/folder", recursive=True)
    assert set(server.objects("b")) == {"put"}
    files.rm("b/put")
    assert not server.objects("b")
    with pytest.raises(FileNotFoundError):
        files.cat("b/absent")


def test_gcsfs_creates_only_what_is_absent(server: GcsServer, files: gcsfs.GCSFileSystem) -> None:
    with files.open("b/k", "xb") as stream:
        stream.write(b"first")
    with pytest.raises(FileExistsError), files.open("b/k", "xb") as stream:
        stream.write(b"second")
    assert server.objects("b")["k"].data == b"first"


def test_pandas_reads_and_writes(server: GcsServer) -> None:
    server.put("b", "data/train.csv", b"text,label\nhello,1\nbye,0\n")
    frame = pd.read_csv("gs://b/data/train.csv", storage_options={"token": "anon"})
    assert frame["label"].tolist() == [1, 0]
    frame.to_csv("gs://b/data/copy.csv", index=False, storage_options={"token": "anon"})
    assert server.objects("b")["data/copy.csv"].data == b"text,label\nhello,1\nbye,0\n"


def test_mlflow_artifacts(server: GcsServer, tmp_path: Path) -> None:
    repository = GCSArtifactRepository("gs://b/prefix/artifacts/run")
    (tmp_path / "model" / "weights").mkdir(parents=True)
    (tmp_path / "model" / "MLmodel").write_text("flavors")
    large = os.urandom(9 * KIB * KIB)
    (tmp_path / "model" / "weights" / "large.bin").write_bytes(large)
    repository.log_artifact(str(tmp_path / "model" / "MLmodel"), "first")
    repository.log_artifacts(str(tmp_path / "model"), "model")
    assert set(server.objects("b")) == {
        "prefix/artifacts/run/first/MLmodel",
        "prefix/artifacts/run/model/MLmodel",
        "prefix/artifacts/run/model/weights/large.bin",
    }
    assert [(info.path, info.is_dir) for info in repository.list_artifacts()] == [
        ("first", True),
        ("model", True),
    ]
    assert [(info.path, info.file_size) for info in repository.list_artifacts("model")] == [
        ("model/MLmodel", 7),
        ("model/weights", None),
    ]
    got = Path(repository.download_artifacts("model", str(tmp_path)))
    assert (got / "weights" / "large.bin").read_bytes() == large
    repository.delete_artifacts("model")
    assert set(server.objects("b")) == {"prefix/artifacts/run/first/MLmodel"}
