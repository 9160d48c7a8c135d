"""A run of stock MLflow says its commit once it is imported."""

from pathlib import Path

import pytest
from mlflow.entities import RunTag, ViewType
from mlflow.store.tracking.file_store import FileStore

from kaggleops.bucket.directory import DirectoryBucket
from kaggleops.bucket.location import tracking_uri
from kaggleops.mlruns.store import EntityStore
from kaggleops.tracking.store import BucketTrackingStore
from tests.command import kaggleops
from tests.mlruns.corpus import bring
from tests.mlruns.importing import ended

SHA = "0123456789abcdef0123456789abcdef01234567"


def test_a_run_of_stock_mlflow_says_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    source = FileStore(str(tmp_path / "mlruns"))
    home = source.create_experiment("old")
    told = {
        "mlflow.source.git.commit": SHA,
        "mlflow.source.git.branch": "main",
        "mlflow.source.git.repoURL": "https://ada:" + "horse-battery@github.com/ada/toy.git",
        "mlflow.source.name": "https://" + "horse-battery@github.com/ada/toy.git",
        "mlflow.note.content": "my note",
    }
    new = source.create_run(home, "ada", 1, [RunTag(*tag) for tag in told.items()], "new")
    none = source.create_run(home, "ada", 3, [RunTag("mlflow.source.name", "x.py")], "none")
    bucket = DirectoryBucket(tmp_path / "bucket")
    bring(EntityStore(bucket), tmp_path / "mlruns")
    assert bring(EntityStore(bucket), tmp_path / "mlruns").changed == []

    store = BucketTrackingStore(tracking_uri(bucket.uri))
    [found] = store.search_runs([home], "tags.git_commit = '0123456789'", ViewType.ALL)
    assert found.info.run_id == new.info.run_id
    tags = store.get_run(new.info.run_id).data.tags
    link = f"Commit [`0123456789`](https://github.com/ada/toy/commit/{SHA}) on `main`"
    assert tags["mlflow.note.content"].startswith(link)
    assert tags["mlflow.note.content"].endswith("\n\nmy note")
    assert tags["git_branch"] == "main"
    assert "horse" not in str(tags)
    assert "git_commit" not in store.get_run(none.info.run_id).data.tags
    # Through a server, whoever logs may have no plugin of ours either.
    logged = store.create_run(home, "ada", 4, [RunTag(*tag) for tag in told.items()], "rest")
    assert logged.data.tags["git_commit"] == "0123456789"
    assert "horse" not in str(logged.data.tags)
    ended(store)
    rows = kaggleops(
        "status",
        new.info.run_id,
        logged.info.run_id,
        "--bucket",
        bucket.uri,
        "--json",
        cwd=tmp_path,
    )
    assert [row["commit"] for row in rows.json["runs"]] == ["0123456789"] * 2
