"""A bucket whose objects were copied as plain files is a bucket, of any kind (docs/moving.md)."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.store.model_registry.file_store import FileStore as FileRegistry
from mlflow.store.tracking.file_store import FileStore

from kaggleops.bucket import ABSENT, Bucket, open_bucket
from kaggleops.bucket.conditions import OWN_KEYS
from kaggleops.index.refresh import Index
from kaggleops.mlruns import EntityStore, Poll
from kaggleops.tracking.store import BucketTrackingStore
from tests.conftest import unavailable
from tests.fakes.gcs_server import GcsServer
from tests.fakes.s3_server import S3Server
from tests.index.corpus import tables
from tests.mlruns.corpus import WITH_ARTIFACTS, allowed, artifacts_through_mlflow, bring, content_of
from tests.mlruns.importing import ended, mlruns
from tests.tracking.scenario import picture

__all__ = ["allowed", "mlruns"]

pytestmark = pytest.mark.usefixtures("allowed")

PREFIX = "some/prefix"


class Place:
    """A bucket, and its files as any program sees them.

    Args:
        name: its name, which begins with its kind: `gs`, `s3` or `folder`.
        folder: where folders lie.
        servers: by kind.
    """

    def __init__(self, name: str, folder: Path, **servers: GcsServer | S3Server) -> None:
        self.name, self.folder = name, folder / name
        self.kind = name.partition("-")[0]
        self.server = servers.get(self.kind)
        self.remote = str(self.folder)
        if self.server:
            self.server.create_bucket(name)
            self.remote = f"{self.kind}:{name}/{PREFIX}"

    @property
    def address(self) -> str:
        if isinstance(self.server, S3Server):
            return self.server.address(self.name, PREFIX)
        return f"gs://{self.name}/{PREFIX}" if self.server else str(self.folder)

    def files(self) -> dict[str, bytes]:
        if self.server:
            found = self.server.objects(self.name)
            return {key.removeprefix(f"{PREFIX}/"): each.data for key, each in found.items()}
        found = {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*")}
        return {
            key: path.read_bytes()
            for key, path in found.items()
            if path.is_file() and not key.startswith(".kaggleops/")
        }

    def take(self, files: dict[str, bytes]) -> None:
        for key, data in files.items():
            if self.server:
                self.server.put(self.name, f"{PREFIX}/{key}", data)
            else:
                self.folder.joinpath(key).parent.mkdir(parents=True, exist_ok=True)
                self.folder.joinpath(key).write_bytes(data)

    def remove(self) -> None:
        self.server.delete_bucket(self.name) if self.server else shutil.rmtree(self.folder)


def by_hand(source: Place, target: Place) -> None:
    if source.server or target.server:
        target.take(source.files())
    else:
        shutil.copytree(source.folder, target.folder)


def by_rclone(source: Place, target: Place) -> None:
    """Copy with the real program, and as docs/moving.md has it."""
    if shutil.which("rclone") is None:
        unavailable("there is no rclone")
    settings = {
        "GS_TYPE": "google cloud storage",
        "GS_ANONYMOUS": "true",
        "GS_BUCKET_POLICY_ONLY": "true",
        "S3_TYPE": "s3",
        "S3_PROVIDER": "Other",
        "S3_ENV_AUTH": "true",
        "S3_NO_CHECK_BUCKET": "true",
        "S3_REGION": "us-east-1",
    }
    for place in (source, target):
        if place.server:
            path = "/storage/v1/" if place.kind == "gs" else ""
            settings[f"{place.kind.upper()}_ENDPOINT"] = place.server.url + path
    done = subprocess.run(
        ["rclone", "copy", source.remote, target.remote, "--exclude", "/.kaggleops/**"],
        env={**os.environ, **{f"RCLONE_CONFIG_{key}": each for key, each in settings.items()}},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def register(mlruns: Path) -> None:
    """Register the model of a run in a file store."""
    runs, registry = FileStore(str(mlruns)), FileRegistry(str(mlruns))
    home = runs.get_experiment_by_name("first").experiment_id
    of = next(each.info for each in runs.search_runs([home], "", 3, 9) if each.data.params)
    registry.create_registered_model("spans")
    registry.create_model_version("spans", f"{of.artifact_uri}/model", of.run_id)
    registry.set_registered_model_alias("spans", "best", "1")


def read(bucket: Bucket, into: Path, empty_index: Path) -> dict[str, Any]:
    """Return all that a bucket holds, its own address left out.

    As MLflow's own client reads it, and as a new index has it.
    """
    uri = f"{bucket.uri}/mlruns"
    mlflow.set_tracking_uri(uri)  # which says what host has the artifacts
    tracking, client = BucketTrackingStore(uri), MlflowClient(uri, uri)
    version = client.get_model_version_by_alias("spans", "best")
    place = client.get_model_version_download_uri("spans", version.version)
    model = Path(mlflow.artifacts.download_artifacts(place, dst_path=str(into / "model")))
    shutil.copyfile(empty_index, into / "index.db")
    index = f"sqlite:///{into / 'index.db'}"
    assert not Index(index, EntityStore(bucket)).refresh().problems
    artifacts = artifacts_through_mlflow(uri, into)
    assert {each.kind for each in artifacts} == set(WITH_ARTIFACTS)
    assert artifacts == {entity_id: content_of(entity_id) for entity_id in artifacts}
    found = {
        **picture(tracking),
        "artifacts": sorted(map(str, artifacts)),
        "registry": {**dict(version), "model": (model / "weights.bin").read_bytes()},
        "index": tables(index),
    }
    ended(tracking)
    root = EntityStore(bucket).artifact_root
    return {key: repr(each).replace(root, "…") for key, each in found.items()}


@pytest.mark.parametrize(
    ("copied", "way"),
    [
        (by_hand, "folder-1 folder-2 gs-1 s3-1 s3-2 folder-3"),
        (by_rclone, "folder-1 s3-1 gs-1 folder-2"),
    ],
    ids=["by hand", "by rclone"],
)
def test_a_bucket_moved_from_kind_to_kind_reads_whole(
    copied: Callable[[Place, Place], None],
    way: str,
    mlruns: Path,
    tmp_path: Path,
    gcs_server: GcsServer,
    s3_server: S3Server,
    empty_index: Path,
) -> None:
    first, *names = way.split()
    here = Place(first, tmp_path, gs=gcs_server, s3=s3_server)
    register(mlruns)
    brought = len(bring(store_of(here.folder), mlruns).new)
    (tmp_path / "before").mkdir()
    before = read(open_bucket(here.address), tmp_path / "before", empty_index)
    for name in names:
        there = Place(name, tmp_path, gs=gcs_server, s3=s3_server)
        copied(here, there)
        here.remove()
        here = there
        bucket = open_bucket(here.address)
        into = tmp_path / "looks" / name
        into.mkdir(parents=True)
        assert read(bucket, into, empty_index) == before
        bucket.write(f"logs/{name}.txt", b"what came next", expected=ABSENT)
        if here.kind == "s3":  # of which another bucket's proof says nothing
            assert json.loads(here.files()[f"{OWN_KEYS}.json"])["bucket"] == name
    # The change log came along: whoever polls reads on in it.
    poll = Poll(EntityStore(bucket))
    assert len(list(poll.changed())) == brought
    client = MlflowClient(f"{bucket.uri}/mlruns")
    run = client.create_run(client.create_experiment("after the move"))
    ended(BucketTrackingStore(f"{bucket.uri}/mlruns"))
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
