"""A real server over a bucket, and a real browser that looks at it; one of each for all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.browser.world import World
from tests.chromium import PATIENCE, chromium
from tests.fakes.gcs_server import GcsServer
from tests.server.serving import Serving, serving


@pytest.fixture(scope="package")
def context() -> Iterator[BrowserContext]:
    """One browser with one cache, so that MLflow's 20 MB of JavaScript are read once."""
    with chromium() as browser:
        context = browser.new_context(viewport={"width": 1400, "height": 800})
        context.add_init_script("localStorage.clear()")  # where the UI keeps how a table was shown
        yield context


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()


@pytest.fixture(scope="module")
def tab(context: BrowserContext) -> Iterator[Page]:
    """A page for what changes nothing of it: MLflow's scripts run once, and its links lead on."""
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A bucket with the runs of two commits on three backends."""
    with GcsServer() as gcs, pytest.MonkeyPatch.context() as patch:
        gcs.create_bucket("our-bucket")
        patch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
        patch.setenv("KAGGLEOPS_HOME", str(tmp_path_factory.mktemp("training")))
        patch.setenv("KAGGLEOPS_FLUSH_SECONDS", "1")
        yield World("gs://our-bucket/mlruns")


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The disk of the machine that serves."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="package")
def server(world: World, home: Path) -> Iterator[Serving]:
    with serving("--bucket", world.uri, home=home) as server:
        yield server
