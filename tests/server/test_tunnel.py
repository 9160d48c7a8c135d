"""`kaggleops ui`: the UI of a machine behind Identity-Aware Proxy, or the bucket's."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import psutil
import pytest
import requests

from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.server.tunnel import Machine, tunnel
from tests.command import kaggleops, kaggleops_here
from tests.fakes import iap_tunnel
from tests.fakes.wire import free_port
from tests.server.serving import eventually, serving
from tests.server.test_ui import opened
from tests.warm import children

__all__ = ["opened"]

MACHINE = "projects/example.com:a-project/zones/us-central1-b/instances/kaggleops"


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a `gcloud` that leads to a machine whose server has an experiment `tweets`."""
    folder = tmp_path_factory.mktemp("remote")
    uri = f"bucket+file://{folder}/bucket/mlruns"
    client = mlflow.MlflowClient(uri)
    client.create_run(client.create_experiment("tweets"))
    with serving("--bucket", uri, home=folder / "home") as server:
        iap_tunnel.install(folder / "bin", MACHINE, int(server.url.rpartition(":")[2]))
        yield folder / "bin"


@pytest.fixture
def path(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That `gcloud` is the one on the PATH."""
    monkeypatch.setenv("PATH", f"{remote}:{os.environ['PATH']}")


def name_server(folder: Path, bucket: str = "gs://our-bucket") -> None:
    """Write it into the folder's settings."""
    (folder / "config").mkdir()
    (folder / "config/local.yaml").write_text(f"bucket: {bucket}\nserver: {MACHINE}\n")


@pytest.mark.usefixtures("path")
def test_it_opens_the_remote_ui_and_ends_with_the_command(tmp_path: Path, opened: Path) -> None:
    name_server(tmp_path)
    # Here and below not 5000, where some other test's server may just begin to answer.
    process = subprocess.Popen(
        [sys.executable, "-m", "kaggleops", "ui", "--json", "--port", str(free_port())],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # Tests may run in the background, where shells let Ctrl-C be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    shown = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
    assert shown["server"] == MACHINE
    link = shown["link"]
    started = children(process.pid)
    assert started
    url = link.partition("/#/")[0]
    found = requests.get(
        f"{url}/api/2.0/mlflow/experiments/get-by-name",
        {"experiment_name": "tweets"},
        timeout=60,
    ).json()["experiment"]["experiment_id"]
    assert f"/experiments/{found}/runs?" in link
    assert eventually(lambda: opened.exists() and opened.read_text().strip()) == link
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert not psutil.wait_procs(started, timeout=30)[1]


def test_a_machine_that_is_off(tmp_path: Path) -> None:
    iap_tunnel.install(tmp_path / "bin", MACHINE, 1)  # nobody answers there
    name_server(tmp_path)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = kaggleops("ui", "--port", free_port(), cwd=tmp_path, PATH=path)
    assert done.code == 1
    assert "failed to connect to backend" in done.error
    assert "gcloud compute instances start kaggleops --zone=us-central1-b" in done.error
    assert "kaggleops ui --local" in done.error


@pytest.mark.usefixtures("path")
def test_a_machine_that_is_not_there() -> None:
    other = Machine.named(MACHINE.replace("a-project", "another"))
    with (
        pytest.raises(KaggleOpsError, match="Could not fetch resource"),
        tunnel(other, free_port()),
    ):
        pass


def test_without_gcloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(UsageError, match="gcloud is not installed"),
        tunnel(Machine.named(MACHINE)),
    ):
        pass


@pytest.mark.parametrize(
    "name", ["kaggleops", f"{MACHINE}/", MACHINE.replace("/kaggleops", "/--impersonate")]
)
def test_what_is_no_machine(name: str) -> None:
    done = kaggleops_here("ui", "--server", name)
    assert done.code == 2
    assert "projects/PROJECT/zones/ZONE/instances/NAME" in done.error


@pytest.mark.parametrize("command", ["ui", "serve"])
@pytest.mark.parametrize("port", ["99999", "-4"])
def test_what_is_no_port(command: str, port: str) -> None:
    done = kaggleops_here(command, "--port", port)
    assert done.code == 2
    assert "Invalid value for '--port'" in done.errors


@pytest.mark.parametrize("options", [["--bucket", "mistyped"], ["--local"]])
def test_what_is_to_be_served_from_here_is(options: list[str], tmp_path: Path) -> None:
    name_server(tmp_path, bucket="mistyped")
    assert "mistyped" in kaggleops_here("ui", *options).error  # it has looked there


def test_another_bucket_than_the_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name_server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"bucket+file://{tmp_path}/mistyped/mlruns")
    assert "mistyped" in kaggleops_here("ui").error
