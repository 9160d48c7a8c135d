"""Stores on every kind of bucket, on as many machines as a test wants."""

from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest

from kaggleops.bucket import Bucket
from kaggleops.tracking import session as session_module
from kaggleops.tracking.store import BucketTrackingStore
from tests.fakes.object_server import ObjectServer


@pytest.fixture
def tracking_uri(bucket: Bucket) -> str:
    """The tracking URI of an empty bucket of each kind."""
    return f"{bucket.uri}/mlruns"


@pytest.fixture
def machines(tracking_uri: str) -> Iterator[Callable[[], BucketTrackingStore]]:
    """Call it for a store on another machine: it shares nothing with the others but the bucket."""
    sessions: list[session_module.Session] = []

    def machine() -> BucketTrackingStore:
        # Also those of a command that ran in here: theirs would push what a later test looks for.
        sessions.extend(session_module._sessions.values())
        session_module._sessions.clear()
        store = BucketTrackingStore(tracking_uri)
        sessions.append(store._session)
        return store

    yield machine
    for each in sessions:
        each.close()
    session_module._sessions.clear()


@pytest.fixture
def store(machines: Callable[[], BucketTrackingStore]) -> BucketTrackingStore:
    """A store on this machine."""
    return machines()


@pytest.fixture
def fluent(tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """MLflow's own interface, set to the bucket as a user sets it: by one variable."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    yield tracking_uri
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.tracking.fluent._active_experiment_id = None


@pytest.fixture
def server(service: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    """A service with our bucket; whoever trains does so in a folder of its own."""
    service.create_bucket("our-bucket")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return service
