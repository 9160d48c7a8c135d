"""The whole road on RunPod: this project's own training, on a pod whose submitter is dead."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaggleops.backends.lookup import backend_named, download, submitted_run
from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import Launch
from kaggleops.launch.overrides import Overrides
from tests.fakes.git_server import Repository
from tests.fakes.runpod_server import RunPodServer

from .test_commands import here
from .world import BUCKET, TRACKING, Gate, World

ROOT = Path(__file__).resolve().parents[2]
CANARY = "canary-in-the-key"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def runpod(
    outside: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunPodServer]:
    around = {"STORAGE_EMULATOR_HOST": outside.gcs.url, "KAGGLEOPS_FLUSH_SECONDS": "1"}
    with RunPodServer(tmp_path / "runpod", around) as server:
        server.secrets["kaggleops_key"] = json.dumps({"type": "fake", "mark": CANARY})
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def project(outside: World) -> Repository:
    """This project as it stands, in a repository whose origin anybody can fetch."""
    options = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(["git", "-C", ROOT, *options], check=True, capture_output=True)
    repository = Repository(outside.folder / "git/kaggleops")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            copy = repository.folder / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy)
    repository.commit("As it stands")
    origin = outside.repository.git("remote", "get-url", "origin")
    repository.git("remote", "add", "origin", origin.removesuffix("toy") + "kaggleops")
    return repository


def test_a_training_whose_submitter_died(
    outside: World, runpod: RunPodServer, project: Repository, tmp_path: Path
) -> None:
    config = tmp_path / "runpod.yaml"
    config.write_text("packages: []\n")
    overrides = ["trainer=fast", "data.rows=60", "--budget", "3", "--backend-config", str(config)]
    command = ["-m", "kaggleops", "run", "-b", "runpod", "--bucket", BUCKET, *overrides]
    runpod.fail("late", op="createPod")  # it never learns which pod it is
    submitter = subprocess.Popen(
        [sys.executable, *command],
        cwd=project.folder,
        env={**os.environ, **outside.laptop("laptop"), **runpod.environment()},
    )
    pod = runpod.first()
    submitter.kill()
    submitter.wait()
    runpod.heal()
    pod.wait(600)

    run_id = str(pod.body["name"]).removeprefix("kaggleops-")
    run = submitted_run(TRACKING, run_id)
    assert run.get_status() == "FINISHED", pod.text
    data = outside.run(run_id).data
    assert 0 < data.metrics["jaccard"] <= 1
    assert (data.tags["exit_code"], data.tags["runpod_pod"]) == ("0", pod.id)
    assert 0 < float(data.tags["cost_usd"]) < 0.40
    assert list(run.logs()) == pod.text.split("\n")
    brought = {file.name for file in download(TRACKING, run_id, tmp_path / "home")[1].files}
    assert {"oof.csv", "model.safetensors"} <= brought
    (row,) = here("status", run_id, "--bucket", BUCKET, "--json").json["runs"]
    assert (row["status"], row["cost_usd"]) == ("FINISHED", float(data.tags["cost_usd"]))
    assert runpod.alive == []

    # The key was on the pod, and is nowhere else.
    everything = [each.data for each in outside.gcs.objects("our-bucket").values()]
    everything += [file.read_bytes() for file in (tmp_path / "runpod").rglob("*") if file.is_file()]
    assert not any(CANARY.encode() in each for each in everything)
    assert CANARY not in pod.text


def test_a_bucket_that_goes_away_keeps_no_pod(
    outside: World, runpod: RunPodServer, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    backend = backend_named("runpod")
    config = backend.read_config({"packages": []}, "a test")
    what = Launch(TRACKING, Overrides((f"gate={gate.path}",), None), "main")
    run = backend.submit(find_commit(outside.repository.folder), what, config)
    gate.wait()
    outside.gcs.deny("our-bucket", write=True)
    gate.open()
    pod = runpod.pod(f"kaggleops-{run.run_id}")
    pod.wait(600)
    outside.gcs.allow("our-bucket")
    assert runpod.alive == []
    assert pod.volume
    # What the bucket did not take outlives the pod, and the key does not.
    assert list((pod.volume / "kaggleops/pods" / pod.id / "work/home/outbox").iterdir())
    assert not (pod.volume / "kaggleops/pods" / pod.id / "work/home/credentials").exists()
    assert run.get_status() == "FAILED"
    assert run.tags["job_ended"] == "TERMINATED"
