"""A whole run logged through the stock MLflow server over an index, and what is left of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.index.conftest import Replicated
from tests.server.serving import serving
from tests.tracking.test_flavors import SCRIPTS


def play(part: str, tracking_uri: str, machine: Path) -> None:
    machine.mkdir()
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": tracking_uri,
        "KAGGLEOPS_HOME": str(machine / "home"),
        "POINTS": "1",
    }
    done = subprocess.run(
        [sys.executable, SCRIPTS / "fluent.py", part],
        env=environment,
        cwd=machine,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("bucket", ["gcs"], indirect=True)
def test_what_is_logged_over_rest_is_in_the_bucket(replicated: Replicated, tmp_path: Path) -> None:
    where = ("--bucket", replicated.bucket.uri, "--index", replicated.index_url)
    with serving(*where, home=tmp_path / "server") as server:
        play("log", server.url, tmp_path / "logging")
    play("read", replicated.tracking_uri, tmp_path / "elsewhere")
