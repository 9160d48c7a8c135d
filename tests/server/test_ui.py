"""`kaggleops ui`: the server of this machine, and a browser."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import mlflow
import psutil
import pytest

from kaggleops.bucket.location import bucket_uri
from kaggleops.mlruns import ui
from kaggleops.server.address import listening_socket
from kaggleops.server.settings import default_index
from tests.command import kaggleops
from tests.server.serving import eventually
from tests.warm import children


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with the address that the browser was opened with."""
    browser, file = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" >{file}.new && mv {file}.new {file}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    return file


def test_it_serves_opens_the_last_experiment_and_ends_everything_it_started(
    tmp_path: Path, opened: Path, empty_index: Path
) -> None:
    uri = f"bucket+file://{tmp_path}/bucket/mlruns"
    client = mlflow.MlflowClient(uri)
    home = client.create_experiment("tweets")
    client.create_run(home)
    index = Path(default_index(bucket_uri(uri)).removeprefix("sqlite:///"))
    index.parent.mkdir(parents=True)
    shutil.copyfile(empty_index, index)
    process = subprocess.Popen(
        [sys.executable, "-m", "kaggleops", "ui", "--bucket", uri],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # Tests may run in the background, where shells let Ctrl-C be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert "served from here" in process.stdout.readline()
    link = next(line for line in process.stdout if "http://" in line).strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", link.partition("/#/")[0])
    assert link.endswith(f"/{ui.run_table(home)}")
    assert eventually(lambda: opened.exists() and opened.read_text().strip()) == link
    started = children(process.pid)
    assert started
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert not psutil.wait_procs(started, timeout=30)[1]


def test_a_bucket_that_is_mistyped(tmp_path: Path) -> None:
    missing = kaggleops("ui", "--bucket", tmp_path / "mistyped", cwd=tmp_path)
    assert "mistyped" in missing.error
    assert not (tmp_path / "mistyped").exists()


def test_without_a_port_of_somebodys_choice_there_is_always_one() -> None:
    def any_port() -> socket.socket:
        return listening_socket("127.0.0.1", None, to_anyone=False)

    with any_port() as one, any_port() as other:
        assert one.getsockname()[1] != other.getsockname()[1]
