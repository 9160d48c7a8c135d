"""A bucket whose objects were copied as plain files is a bucket (docs/moving.md)."""

import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.store.model_registry.file_store import FileStore as FileRegistry
from mlflow.store.tracking.file_store import FileStore

from kaggleops.bucket import Bucket, open_bucket
from kaggleops.bucket.directory import DirectoryBucket
from kaggleops.mlruns import EntityStore, Poll
from kaggleops.tracking.store import BucketTrackingStore
from tests.fakes.gcs_server import GcsServer
from tests.mlruns.corpus import WITH_ARTIFACTS, allowed, artifacts_through_mlflow, bring, content_of
from tests.mlruns.importing import ended, mlruns, store
from tests.tracking.scenario import picture

__all__ = ["allowed", "mlruns", "store"]

pytestmark = pytest.mark.usefixtures("allowed")


def register(mlruns: Path) -> None:
    """Register the model of a run in a file store."""
    runs, registry = FileStore(str(mlruns)), FileRegistry(str(mlruns))
    home = runs.get_experiment_by_name("first").experiment_id
    of = next(each.info for each in runs.search_runs([home], "", 3, 9) if each.data.params)
    registry.create_registered_model("spans")
    registry.create_model_version("spans", f"{of.artifact_uri}/model", of.run_id)
    registry.set_registered_model_alias("spans", "best", "1")


def read(bucket: Bucket, into: Path) -> dict[str, Any]:
    """Return all that a bucket holds, as MLflow's own client reads it, its own address left out."""
    uri = f"{bucket.uri}/mlruns"
    tracking, client = BucketTrackingStore(uri), MlflowClient(uri, uri)
    version = client.get_model_version_by_alias("spans", "best")
    place = client.get_model_version_download_uri("spans", version.version)
    model = Path(mlflow.artifacts.download_artifacts(place, dst_path=str(into / "model")))
    found = {
        **picture(tracking),
        "artifacts": artifacts_through_mlflow(uri, into),
        "registry": {**dict(version), "model": (model / "weights.bin").read_bytes()},
    }
    ended(tracking)
    return {key: repr(each).replace(bucket.artifact_uri, "…") for key, each in found.items()}


def test_a_bucket_copied_file_by_file_reads_whole(
    store: EntityStore, mlruns: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    register(mlruns)
    bring(store, mlruns)
    before = read(store.bucket, tmp_path / "before")
    copied = tmp_path / "copied"
    if isinstance(store.bucket, DirectoryBucket):
        shutil.copytree(tmp_path / "a bucket", copied)
        shutil.rmtree(tmp_path / "a bucket")
    else:
        server: GcsServer = request.getfixturevalue("gcs_server")
        for key, found in server.objects("our-bucket").items():
            file = copied / key.removeprefix("some/prefix/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(found.data)
        server.delete_bucket("our-bucket")
    copy = open_bucket(str(copied))
    assert read(copy, tmp_path / "after") == before
    got = artifacts_through_mlflow(f"{copy.uri}/mlruns", tmp_path / "got")
    assert {each.kind for each in got} == set(WITH_ARTIFACTS)
    assert got == {entity_id: content_of(entity_id) for entity_id in got}
    # The change log came along: whoever polls reads on in it.
    poll = Poll(EntityStore(copy))
    assert len(list(poll.changed())) == len(bring(store_of(tmp_path / "other"), mlruns).new)
    client = MlflowClient(f"{copy.uri}/mlruns")
    run = client.create_run(client.create_experiment("after the move"))
    ended(BucketTrackingStore(f"{copy.uri}/mlruns"))
    changes = poll.changed()
    assert not changes.listed
    assert run.info.run_id in {each.id.name for each in changes}


def store_of(folder: Path) -> EntityStore:
    """Return the store of a new folder."""
    bucket = open_bucket(str(folder))
    bucket.prepare()
    return EntityStore(bucket)


def test_what_two_buckets_have_merges_by_an_import(mlruns: Path, tmp_path: Path) -> None:
    source, target = store_of(tmp_path / "source"), store_of(tmp_path / "target")
    bring(source, mlruns)
    bring(target, mlruns)
    homes = {each.name: each.experiment_id for each in clients(source).search_experiments()}
    late = clients(source).create_run(homes["first"])
    clients(source).log_text(late.info.run_id, "hello", "hello.txt")
    ended(BucketTrackingStore(f"{source.bucket.uri}/mlruns"))
    shutil.copytree(tmp_path / "source", tmp_path / "carried")
    assert [each.name for each in bring(target, tmp_path / "carried").new] == [late.info.run_id]
    there = clients(target).get_run(late.info.run_id).info.artifact_uri
    assert there.startswith(target.artifact_root)
    assert mlflow.artifacts.load_text(f"{there}/hello.txt") == "hello"


def clients(store: EntityStore) -> MlflowClient:
    """Return a client of a bucket."""
    return MlflowClient(f"{store.bucket.uri}/mlruns")
