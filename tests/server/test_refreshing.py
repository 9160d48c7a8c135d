"""The thread that refreshes an index, among the others that serve it."""

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from kaggleops.bucket import open_bucket
from kaggleops.index.refresh import Index
from kaggleops.mlruns import EntityStore
from kaggleops.server.refresher import Refresher
from kaggleops.server.settings import Settings
from tests.server.serving import eventually


@pytest.fixture
def settings(tmp_path: Path, empty_index: Path) -> Settings:
    """Of an index of an empty bucket, brought up to date once."""
    shutil.copyfile(empty_index, tmp_path / "index.db")
    index_url = f"sqlite:///{tmp_path}/index.db"
    (tmp_path / "bucket").mkdir()
    bucket = open_bucket(str(tmp_path / "bucket"))
    Index(index_url, EntityStore(bucket)).refresh()
    return Settings(bucket.uri, index_url, scratch="")


def test_what_a_first_refresh_comes_to_is_told_once(settings: Settings) -> None:
    told: list[dict[str, Any]] = []
    refresher = Refresher(settings, lambda **found: told.append(found), lambda _: None)
    refresher.start()
    assert refresher.begun.wait(30)
    eventually(lambda: refresher.notice.fresh, seconds=30)
    refresher.somebody_looks()  # after a pause: it looks at once
    first = refresher.notice.fresh
    eventually(lambda: refresher.notice.fresh > first, seconds=30)
    refresher.stop()
    [found] = [each for each in told if "complete" in each]
    assert found == {"complete": True, "warning": "", "problems": 0, "experiment": None}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_does_not_die_silently(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    def tell(**found: Any) -> None:
        raise RuntimeError("not thought of")

    died = threading.Event()
    refresher = Refresher(settings, tell, lambda _: died.set())
    refresher.start()
    assert died.wait(30)
    refresher.stop()
    assert "not thought of" in caplog.text
