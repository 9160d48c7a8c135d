"""One world for a module, and a place in it."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from tests.fakes.runpod_server import RunPodServer

from .places import PLACES, Place
from .world import World, world


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world whose Kaggle lets sessions wait until a test starts them."""
    with pytest.MonkeyPatch.context() as patch, world(tmp_path_factory.mktemp("w"), patch) as made:
        made.kaggle.hold_sessions()
        yield made
        mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module", params=sorted(PLACES))
def place(request: pytest.FixtureRequest, outside: World) -> Iterator[Place]:
    """Each backend with its platform."""
    made = PLACES[request.param](outside)
    yield made
    made.close()


@pytest.fixture
def runpod(
    outside: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunPodServer]:
    """A RunPod whose pods wait for a machine for ever."""
    with RunPodServer(tmp_path / "runpod") as server:
        server.held = True
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server
