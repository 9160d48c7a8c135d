"""What the tests of the campaign share."""

from pathlib import Path

import pytest

from kaggleops.backends.code import address_for_others
from kaggleops.git.commits import find_commit

from .world import World
from .world import world as made


@pytest.fixture(scope="session")
def first_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a world whose bucket has its commit, to be copied."""
    folder = tmp_path_factory.mktemp("world")
    first = made(folder)
    address_for_others(find_commit(first.repository.folder), first.place, allow_secrets=False)
    return folder


@pytest.fixture
def world(tmp_path: Path, first_world: Path) -> World:
    """A repository and a bucket on this machine."""
    return made(tmp_path, copied=first_world)
