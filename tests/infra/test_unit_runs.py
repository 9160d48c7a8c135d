"""The server as its unit starts it: its disk fills, the power goes, its index is deleted."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests

from tests.conftest import unavailable
from tests.fakes.gcs_server import GcsServer
from tests.fakes.systemd import Unit
from tests.fakes.wire import free_port
from tests.infra.world import SERVER
from tests.server.serving import eventually

URI = "gs://our-bucket/mlruns"

# What the unit asks systemd for, as far as it can be had without one: the system is read-only, the
# state is a file system of its own, and there are no capabilities nor a way to new ones.
CONTAINED = """
mount --make-rprivate / && mount -t tmpfs -o size=48m state "$1" && mount -o remount,bind,ro / &&
echo ready && exec sleep infinity
"""
HARMLESS = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--"]


class Machine:
    """One machine, whose disk outlives its processes.

    Args:
        root: its `/`.
        keeper: the process that keeps its disk.
    """

    def __init__(self, root: Path, keeper: "subprocess.Popen[str]") -> None:
        self.unit = Unit(root, "kaggleops.service", free_port())
        self.url = f"http://127.0.0.1:{self.unit.port}"
        self._keeper = keeper
        self.disk = Path(f"/proc/{keeper.pid}/root{root}/var/lib/kaggleops")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the unit and return when it answers."""
        users = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        enter = ["nsenter", "--target", str(self._keeper.pid), "--mount", *users, "--"]
        self._process = subprocess.Popen(
            [*enter, *HARMLESS, *self.unit.command()],
            env={**os.environ, **self.unit.environment()},
            start_new_session=True,
        )
        assert eventually(lambda: self.health()["status"], 240) == "fresh"

    def end(self, how: signal.Signals) -> int:
        """End it, by SIGKILL with all that it started; return how it ended."""
        assert self._process is not None
        if how is signal.SIGKILL:  # the power goes: nobody can tidy up
            os.killpg(self._process.pid, how)
        else:
            self._process.send_signal(how)
        return self._process.wait(60)

    def health(self) -> dict[str, Any]:
        """Return what its health page says."""
        found: dict[str, Any] = requests.get(f"{self.url}/kaggleops/health.json", timeout=60).json()
        return found

    def runs(self, experiment: str) -> set[str]:
        """Return the names of the runs that it shows."""
        answer = requests.post(
            f"{self.url}/api/2.0/mlflow/runs/search",
            json={"experiment_ids": [experiment]},
            timeout=60,
        )
        answer.raise_for_status()
        return {each["info"]["run_name"] for each in answer.json().get("runs", [])}


@pytest.fixture
def machine(tmp_path: Path, gcs_server: GcsServer) -> Iterator[Machine]:
    gcs_server.create_bucket("our-bucket")
    root = tmp_path / "root"
    shutil.copytree(SERVER / "files", root)
    (root / "etc/kaggleops").mkdir()
    settings = (
        'KAGGLEOPS_BUCKET="gs://our-bucket"\nKAGGLEOPS_OPTIONS="--anyone-may-read-and-write"\n'
    )
    (root / "etc/kaggleops/server.env").write_text(settings)
    command = root / "opt/kaggleops/current/bin/kaggleops"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m kaggleops "$@"\n')
    command.chmod(0o755)
    state = root / "var/lib/kaggleops"
    state.mkdir(parents=True)
    users = [] if os.geteuid() == 0 else ["--map-root-user"]
    keeper = subprocess.Popen(
        ["unshare", "--mount", *users, "sh", "-c", CONTAINED, "sh", str(state)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert keeper.stdout is not None
    said = keeper.stdout.readline().strip()
    try:
        if said != "ready":
            unavailable(f"nothing can be mounted here ({said})")
        machine = Machine(root, keeper)
        yield machine
        if machine._process is not None and machine._process.poll() is None:
            machine.end(signal.SIGKILL)
    finally:
        keeper.kill()
        keeper.wait()
        keeper.stdout.close()


def log(name: str) -> str:
    """Log a run, sent when this returns; return its experiment."""
    client = mlflow.MlflowClient(URI)
    known = client.get_experiment_by_name("tweets")
    experiment = known.experiment_id if known else client.create_experiment("tweets")
    run = client.create_run(experiment, run_name=name)
    client.set_terminated(run.info.run_id)
    return str(experiment)


def fill(folder: Path) -> Path:
    """Fill a disk to its last byte; return the file that does."""
    file = folder / "something large"
    done = subprocess.run(["dd", "if=/dev/zero", f"of={file}", "bs=4k"], capture_output=True)
    assert b"No space left" in done.stderr
    return file


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_happens_to_machines(machine: Machine) -> None:
    experiment = log("first")
    machine.start()
    assert machine.runs(experiment) == {"first"}

    # The disk fills: what the index has is shown, what is wrong is said, and nothing dies of it.
    large = fill(machine.disk)
    log("second")
    trouble = eventually(lambda: machine.runs(experiment) and machine.health()["trouble"])
    assert "full" in trouble or "No space" in trouble
    assert machine.runs(experiment) == {"first"}
    large.unlink()
    assert eventually(lambda: len(machine.runs(experiment)) == 2)
    assert eventually(lambda: not machine.health()["trouble"])

    # The power goes, and comes back after something has happened.
    machine.end(signal.SIGKILL)
    log("third")
    machine.start()
    # It answers with what is there while the rest comes in.
    assert eventually(lambda: machine.runs(experiment) == {"first", "second", "third"})

    # It is stopped as systemd stops it, and the index is deleted.
    assert machine.end(signal.SIGTERM) == 0
    (index,) = machine.disk.glob("serve/*/index.db")
    for each in index.parent.glob("index.db*"):
        each.unlink()
    machine.start()
    assert eventually(lambda: machine.runs(experiment) == {"first", "second", "third"})
    assert machine.end(signal.SIGTERM) == 0
