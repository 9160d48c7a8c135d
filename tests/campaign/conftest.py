"""What the tests of the campaign share."""

from pathlib import Path

import pytest

from .world import World
from .world import world as made


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A repository and a bucket on this machine."""
    return made(tmp_path)
