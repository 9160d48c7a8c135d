"""Fixtures that all tests share."""

import gc
import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import HealthCheck, settings

from kaggleops import redaction
from kaggleops.bucket import Bucket, open_bucket
from tests import warm
from tests.buckets import FOLDER_SELDOM, NAMED, S3_SELDOM
from tests.chromium import PATIENCE, chromium
from tests.databases import (
    _postgresql_template,
    empty_index,
    postgresql,
    postgresql_database,
    postgresql_index,
)
from tests.fakes.gcs_server import GcsServer
from tests.fakes.object_server import ObjectServer

__all__ = [
    "_postgresql_template",
    "empty_index",
    "postgresql",
    "postgresql_database",
    "postgresql_index",
]

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.fakes.s3_server import S3Server

# Before anything imports MLflow or gcsfs, which read these once.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
# Kaggle's client reads it when it is imported: never does one in this process go to the real one.
os.environ["KAGGLE_API_ENVIRONMENT"] = "LOCALHOST"
# Else Google's client asks for buckets' metadata in a thread of its own, and spoils the counts.
os.environ["DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"] = "true"

# Under nohup a hang-up is ignored, in the background Ctrl-C, and so they would be by all that tests
# start.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A process that a test starts is forked from one that has imported MLflow.
os.environ.update(warm.stand_in())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """The processes that run tests are forked, too: each would import all that tests do."""
    os.environ.update(warm.stand_in("training"))
    warm.begin()


LONG = {
    *("tests/test_main_job.py", "infra/test_server.py", "infra/test_versions.py"),
    *("backends/test_all_at_once.py", "backends/test_runpod_pod.py", "launch/test_bucket_away.py"),
    *("frameworks/test_pages.py", "frameworks/test_one_process.py", "server/test_untrusted.py"),
    *("tracking/test_flavors.py", "launch/test_long_examples.py", "competitions/test_ranks.py"),
    *("competitions/test_folds_together.py", "repository/test_walks.py"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take longest: at the end, all other workers wait for one."""
    items.sort(key=lambda item: "/".join(item.path.parts[-2:]) not in LONG)


def pytest_collection_finish() -> None:
    """Let no training look through all of the tests for what nobody needs any more."""
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    """Let hypothesis draw fewer examples where the slow tests are left out, and always the same."""
    few = config.option.markexpr == "not slow"
    settings.register_profile(
        "anywhere",
        max_examples=30 if few else 100,
        derandomize=few,
        # How fast a machine is, and what else it does, is no property of the code.
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("anywhere")


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Take back what a test's code sets for its process: a training does, and others inherit it.

    And the secrets that it was told: their values would be hidden in what other tests print. And
    from which level on all of it logs: others look for its warnings.
    """
    before, kept, level = dict(os.environ), set(redaction._kept), logging.root.level
    yield
    logging.root.setLevel(level)
    redaction._kept.intersection_update(kept)
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update({name: each for name, each in before.items() if os.environ.get(name) != each})


@pytest.fixture
def cold_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that this test starts begin as anybody's do: it says why."""
    monkeypatch.delenv(warm.VARIABLE)


@pytest.fixture(autouse=True, scope="module")
def mlflow_as_it_was() -> Iterator[None]:
    """Take back what a module's own fixtures tell MLflow."""
    before = _tracking_uri()
    yield
    _set_tracking_uri(before)


def _tracking_uri() -> str | None:
    tracking = sys.modules.get("mlflow.tracking._tracking_service.utils")
    return tracking._tracking_uri if tracking else None


def _set_tracking_uri(uri: str | None) -> None:
    if tracking := sys.modules.get("mlflow.tracking._tracking_service.utils"):
        vars(tracking)["_tracking_uri"] = uri


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this test's working copies lie; no test sees another's tracking stores or settings."""
    monkeypatch.chdir(tmp_path)  # MLflow's default is a database in the working directory
    monkeypatch.setenv("KAGGLEOPS_HOME", str(tmp_path / "home"))
    for name in ("TRACKING_URI", "REGISTRY_URI", "RUN_ID", "EXPERIMENT_ID", "EXPERIMENT_NAME"):
        monkeypatch.delenv(f"MLFLOW_{name}", raising=False)
    before = _tracking_uri()
    yield tmp_path / "home"
    _end_sessions()
    _set_tracking_uri(before)
    if fluent := sys.modules.get("mlflow.tracking.fluent"):
        fluent._active_experiment_id = None  # what `mlflow.set_experiment` leaves, and in here:
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    if tracking := sys.modules.get("mlflow.tracking._tracking_service.utils"):
        tracking._tracking_store_registry._get_store_with_resolved_uri.cache_clear()
    models = sys.modules.get("mlflow.tracking._model_registry.utils")
    if models and models._model_registry_store_registry:
        models._model_registry_store_registry._get_store_with_resolved_uri.cache_clear()


def _end_sessions() -> None:
    if session := sys.modules.get("kaggleops.tracking.session"):
        session.close_all()
        session._sessions.clear()
    if uploads := sys.modules.get("kaggleops.tracking.artifact_uploads"):
        uploads.close_all()
        uploads._all.clear()


@pytest.fixture
def gcs_server(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GcsServer]:
    """A Cloud Storage without buckets, where every client in this process goes.

    `tests.buckets.BOTH_DIALECTS` runs a test on the testbench's dialect, too.
    """
    with GcsServer() as server:
        server.testbench = getattr(request, "param", "") == "testbench"
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        _forget_file_systems()
        yield server
        server.heal()
        _end_sessions()  # while there is somebody to tell: else each waits half a minute
        _forget_file_systems()


def _forget_file_systems() -> None:
    # fsspec keeps one for each set of arguments, and it would go to the server of another test.
    if gcsfs := sys.modules.get("gcsfs"):
        gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.fixture
def s3_server(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> "Iterator[S3Server]":
    """An S3 without buckets, and the settings with which every client gets along there."""
    # Half a second, and most tests need none.
    from tests.fakes.s3_server import S3Server
    from tests.warm import models

    models.read_once()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    folder = tmp_path_factory.mktemp("aws")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        file = folder / name.lower()
        file.touch()
        monkeypatch.setenv(name, str(file))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-word")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with S3Server() as server:
        yield server
        server.heal()
        _end_sessions()


@pytest.fixture
def service(request: pytest.FixtureRequest) -> ObjectServer:
    """A service of object storage without buckets: Cloud Storage, or as `tests.buckets` has it."""
    kind = getattr(request, "param", "gcs")
    if kind == "s3":
        s3: S3Server = request.getfixturevalue("s3_server")
        s3.proven = [""]  # else each test's first write makes 25: tests/bucket is there for that
        return s3
    gcs: GcsServer = request.getfixturevalue("gcs_server")
    gcs.testbench = kind == "testbench"
    return gcs


@pytest.fixture(params=["gcs", FOLDER_SELDOM, S3_SELDOM])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    """An empty bucket of Cloud Storage, unless a test asks for other kinds (`tests.buckets`)."""
    if request.param == "directory":
        folder = request.getfixturevalue("tmp_path") / "a bucket"
        folder.mkdir()
        return open_bucket(str(folder), patience=5)
    if request.param == "named":
        return open_bucket(f"{NAMED}/{secrets.token_hex(8)}", patience=5)
    if request.param in ("s3", "s3-versioned"):
        s3: S3Server = request.getfixturevalue("s3_server")
        s3.proven = ["some/prefix/"]
        server: ObjectServer = s3
    else:
        server = gcs = request.getfixturevalue("gcs_server")
        gcs.testbench = request.param == "testbench"
    server.create_bucket("our-bucket", versioned=request.param == "s3-versioned")
    return open_bucket(server.address("our-bucket", "some/prefix"), patience=5)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name long bytes by their place: an archive's own hold the second in which it was made."""
    return argname if isinstance(val, bytes) and len(val) > 30 else None


def unavailable(reason: str) -> NoReturn:
    """Skip a test for want of something on this machine; where nothing may be wanting, fail it."""
    if os.environ.get("KAGGLEOPS_NO_SKIPS"):
        pytest.fail(f"{reason} (and KAGGLEOPS_NO_SKIPS is set)")
    pytest.skip(reason)


@pytest.fixture
def page() -> Iterator["Page"]:
    """A page in a real browser, headless."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(PATIENCE)
        yield page
