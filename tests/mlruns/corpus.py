"""A file-store `mlruns` with every entity that MLflow's file store knows, and with artifacts."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import (
    AssessmentSource,
    AssessmentSourceType,
    Expectation,
    Feedback,
    TraceInfo,
    TraceLocation,
    TraceState,
    ViewType,
)
from mlflow.store.model_registry.file_store import FileStore as FileRegistry
from mlflow.store.tracking.file_store import FileStore

from kaggleops.layout import EntityId, Kind
from kaggleops.mlruns.folder import entities_in
from kaggleops.mlruns.import_sources import opened
from kaggleops.mlruns.importer import Imported, import_into
from kaggleops.mlruns.locations import artifact_path
from kaggleops.mlruns.store import EntityStore
from tests.tracking.scenario import play, tree
from tests.tracking.test_registry import play as play_registry

WITH_ARTIFACTS = (Kind.RUN, Kind.LOGGED_MODEL, Kind.TRACE)
TRACE = "tr-" + "ab" * 16


def make_mlruns(folder: Path, artifact_root: str | None = None) -> None:
    """Make an `mlruns` as MLflow's own stores make it.

    Args:
        folder: where.
        artifact_root: under which its artifacts lie; in it, by default.
    """
    store = FileStore(str(folder), artifact_root)
    play(store)
    play_registry(FileRegistry(str(folder)))
    home = store.get_experiment_by_name("first").experiment_id
    store.start_trace(
        TraceInfo(
            trace_id=TRACE,
            trace_location=TraceLocation.from_experiment_id(home),
            request_time=1_700_000_000_000,
            state=TraceState.OK,
            trace_metadata={"mlflow.user": "ada"},
            tags={"mlflow.traceName": "predict", "gone": "soon"},
        )
    )
    store.delete_trace_tag(TRACE, "gone")
    source = AssessmentSource(source_type=AssessmentSourceType.HUMAN, source_id="ada")
    for assessment in (
        Feedback(name="good", value=True, source=source, trace_id=TRACE),
        Expectation(name="span", value="so sad", source=source, trace_id=TRACE),
    ):
        store.create_assessment(assessment)


def add_artifacts(mlruns: Path, root: Path) -> None:
    """Lay an artifact of its own out under a root for every entity that can have some."""
    for entity_id, folder in entities_in(mlruns):
        if entity_id.kind in WITH_ARTIFACTS:
            place = folder / "artifacts" if root == mlruns else root / artifact_path(entity_id)[1:]
            (place / "model").mkdir(parents=True, exist_ok=True)
            (place / "model" / "weights.bin").write_bytes(content_of(entity_id))
            (place / "übersicht #1.txt").write_bytes(content_of(entity_id)[::-1])
    _long_ago(root)


def content_of(entity_id: EntityId) -> bytes:
    """Return the artifact that `add_artifacts` lays out for an entity."""
    return f"weights of {entity_id.name}".encode() * 10


def _long_ago(folder: Path) -> None:
    # Clearly before any import, whatever the resolution of anybody's clock.
    an_hour_ago = time.time() - 3600
    for path in folder.rglob("*"):
        os.utime(path, (an_hour_ago, an_hour_ago))


def bring(store: EntityStore, source: object) -> Imported:
    """Import a folder or an address into a bucket."""
    with opened(str(source)) as found:
        return import_into(store, found)


def plain_tree(folder: Path) -> dict[str, bytes | None]:
    """Return a file-store folder's content.

    Without an empty `models/`: the file registry makes it where it looks for models.
    """
    found = tree(folder)
    if not any(path.startswith("models/") for path in found):
        found.pop("models", None)
    return found


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MLflow's own file store may be used; the process's own stores are forgotten afterwards."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = mlflow.get_tracking_uri()
    yield
    mlflow.set_tracking_uri(uri)
    mlflow.tracking.fluent._active_experiment_id = None


def artifacts_through_mlflow(tracking_uri: str, into: Path) -> dict[EntityId, bytes]:
    """Return what MLflow's own client downloads for every run, logged model and trace."""
    client = MlflowClient(tracking_uri)
    found: dict[EntityId, bytes] = {}
    ids = [each.experiment_id for each in client.search_experiments(ViewType.ALL, max_results=100)]

    def fetch(kind: Kind, home: str, name: str, uri: str) -> None:
        entity_id = EntityId(kind, home, name)
        target = into / kind / name
        target.mkdir(parents=True)
        path = mlflow.artifacts.download_artifacts(
            artifact_uri=f"{uri}/model/weights.bin",
            dst_path=str(target),
            tracking_uri=tracking_uri,
        )
        found[entity_id] = Path(path).read_bytes()

    for run in client.search_runs(ids, run_view_type=ViewType.ALL, max_results=1000):
        fetch(Kind.RUN, run.info.experiment_id, run.info.run_id, run.info.artifact_uri)
    for model in client.search_logged_models(experiment_ids=ids):
        fetch(Kind.LOGGED_MODEL, model.experiment_id, model.model_id, model.artifact_location)
    for trace in client.search_traces(locations=ids, include_spans=False):
        uri = trace.info.tags["mlflow.artifactLocation"]
        fetch(Kind.TRACE, trace.info.experiment_id, trace.info.trace_id, uri)
    return found
