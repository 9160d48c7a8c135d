"""The thread that refreshes an index, among the others that serve it."""

import shutil
import threading
from pathlib import Path

import pytest

from kaggleops.bucket import open_bucket
from kaggleops.index.refresh import Index
from kaggleops.mlruns import EntityStore
from kaggleops.server.health import NoticeBoard
from kaggleops.server.refresher import Refresher, refresh_lock
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


def test_one_leads_and_hears_that_somebody_looks_elsewhere(settings: Settings) -> None:
    board = NoticeBoard(settings.index)
    leader = Refresher(settings, board, lambda: None)
    leader.start()
    eventually(lambda: not refresh_lock(settings.index).held())
    other = Refresher(settings, board, lambda: None)
    other.start()
    other.somebody_looks()
    fresh = eventually(lambda: leader.notice.fresh, seconds=30)
    eventually(lambda: other.notice.fresh == fresh, seconds=30)
    leader.stop()
    eventually(lambda: other.notice.fresh > fresh, seconds=30)  # the other one leads now
    other.stop()


class Broken(NoticeBoard):
    """A board that fails in a way that nobody has thought of."""

    def looks(self) -> int:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("not thought of")
        return super().looks()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_does_not_die_silently(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    died = threading.Event()
    refresher = Refresher(settings, Broken(settings.index), died.set)
    refresher.start()
    assert died.wait(30)
    refresher.stop()
    assert "not thought of" in caplog.text
