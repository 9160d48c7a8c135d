"""Fixtures of the fakes' own tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.kaggle_server import KaggleServer


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleServer]:
    """A Kaggle with the users ada and bob; nobody's own sign-in is found."""
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    with KaggleServer(tmp_path / "kaggle") as server:
        server.add_user("ada")
        server.add_user("bob")
        yield server
