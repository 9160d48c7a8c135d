"""What the tests of the campaign share."""

from pathlib import Path

import pytest

from .world import World, toy
from .world import world as made


@pytest.fixture(scope="session")
def toy_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository of all worlds, to be copied."""
    return toy(tmp_path_factory.mktemp("toy")).folder


@pytest.fixture
def world(tmp_path: Path, toy_repository: Path) -> World:
    """A repository and a bucket on this machine."""
    return made(tmp_path, copied=toy_repository)
