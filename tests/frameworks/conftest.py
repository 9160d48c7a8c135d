"""Scripts that start fast, and come to the same each time."""

import pytest

from tests.warm import stand_in


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a script be forked, and add up in one order."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    order = {"PYTHONHASHSEED": "0"}  # of a set that LightGBM's flavor writes down
    for name, value in {**stand_in("training"), **threads, **order}.items():
        monkeypatch.setenv(name, value)
