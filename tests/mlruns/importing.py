"""What tests of importing share: a source, a bucket, and looks at both."""

from pathlib import Path

import pytest

from kaggleops.bucket import Bucket
from kaggleops.mlruns import EntityStore
from kaggleops.mlruns.entity import dump_yaml
from kaggleops.tracking.registry import BucketRegistryStore
from kaggleops.tracking.store import BucketTrackingStore
from tests.mlruns.corpus import (
    add_artifacts,
    make_mlruns,
)


@pytest.fixture
def store(bucket: Bucket) -> EntityStore:
    return EntityStore(bucket)


@pytest.fixture
def mlruns(tmp_path: Path) -> Path:
    """An `mlruns` with every kind of entity, and artifacts in it."""
    make_mlruns(tmp_path / "mlruns")
    add_artifacts(tmp_path / "mlruns", tmp_path / "mlruns")
    return tmp_path / "mlruns"


def versions(store: EntityStore) -> dict[str, str]:
    """Return the version of every object."""
    return {entry.key: entry.version for entry in store.bucket.list()}


def ended(store: BucketTrackingStore | BucketRegistryStore) -> None:
    """End a store: what it has logged is in the bucket."""
    store._session.close()


def small_mlruns(folder: Path, experiment_id: str, name: str, created: int) -> Path:
    """Make an `mlruns` as MLflow made them when ids were counted."""
    (folder / experiment_id).mkdir(parents=True)
    meta = {
        "artifact_location": f"file:///content/mlruns/{experiment_id}",
        "creation_time": created,
        "experiment_id": experiment_id,
        "lifecycle_stage": "active",
        "name": name,
    }
    (folder / experiment_id / "meta.yaml").write_bytes(dump_yaml(meta))
    return folder


def break_run(mlruns: Path) -> str:
    """Break a run; return its id."""
    folder = next(path.parent for path in sorted(mlruns.glob("*/*/metrics/loss")))
    folder.joinpath("..", "metrics", "loss").resolve().write_text("no metric\n")
    return folder.parent.name
