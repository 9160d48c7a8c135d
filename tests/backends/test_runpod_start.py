"""A pod in all that may become of it, and what the bucket is told of it, by what really tells it.

Only the training is a toy: the start script, the claim, the sign-in and the report are the real
ones, and the key that they get is looked for on the volume.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest

from kaggleops.backends.runpod import log
from kaggleops.backends.runpod.client import RunPod
from kaggleops.bucket import open_bucket
from kaggleops.tracking.store import BucketTrackingStore
from tests.fakes.gcs_server import GcsServer
from tests.fakes.runpod.pod import Pod
from tests.fakes.runpod_server import RunPodServer
from tests.fakes.wire import Request

from .light_pods import LightPods, light_pods

BUCKET = "gs://our-bucket"
TRACKING = f"{BUCKET}/mlruns"
CANARY = "canary-in-the-key"


@pytest.fixture
def pods(
    gcs_server: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LightPods]:
    gcs_server.create_bucket("our-bucket")
    around = {"PYTHONPATH": str(tmp_path / "toys"), "STORAGE_EMULATOR_HOST": gcs_server.url}
    with RunPodServer(tmp_path / "runpod", around) as server:
        server.secrets["kaggleops_key"] = json.dumps({"type": "fake", "mark": CANARY})
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield light_pods(tmp_path, server, told=True)
        assert server.alive == []


class Case:
    """A pod of a run of its own."""

    def __init__(self, pods: LightPods, toy: str, *, volume: bool | str, **job: object) -> None:
        mlflow.set_tracking_uri(TRACKING)
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name("pods")
        number = experiment.experiment_id if experiment else client.create_experiment("pods")
        self.run_id = str(client.create_run(number).info.run_id)
        BucketTrackingStore(TRACKING).flush()
        self.pod: Pod = pods.create(toy, volume=volume, run_id=self.run_id, bucket=BUCKET, **job)

    def told(self) -> tuple[str, str, str]:
        """Return what the bucket has: status, how it ended, and the log."""
        run = mlflow.MlflowClient().get_run(self.run_id)
        lines = log.kept(open_bucket(BUCKET), self.run_id)
        return run.info.status, run.data.tags.get("job_ended", ""), "\n".join(lines or [])


def each_log_once() -> Callable[[Request], bool]:
    """Return what accepts the first write of each log."""
    known: set[bytes] = set()

    def chosen(request: Request) -> bool:
        named = re.search(rb"logs/[0-9a-f]{32}", request.body)
        if not named or named[0] in known:
            return False
        known.add(named[0])
        return True

    return chosen


def keys_on(folder: Path) -> list[Path]:
    """Return the files that hold the key."""
    found = []
    for file in folder.rglob("*"):
        if file.is_file() and CANARY.encode() in file.read_bytes():
            found.append(file)
    return found


def other_volume(change: Callable[[Path], object], pods: LightPods, folder: Path) -> str:
    made = RunPod().create_volume("other", "EU-RO-1", 10)
    change(folder / "runpod/volumes" / made)
    return made


@pytest.mark.parametrize("volume", [True, False])
def test_whatever_becomes_of_a_pod_is_told(
    pods: LightPods, gcs_server: GcsServer, tmp_path: Path, volume: bool
) -> None:
    looks: list[list[Path]] = []
    # While the bucket is told: once for each log.
    gcs_server.fail(
        times=None,
        where=each_log_once(),
        then=lambda: looks.append(keys_on(tmp_path / "runpod/volumes")),
    )
    crashed = Case(pods, "waits", volume=volume)
    fails = Case(pods, "fails", volume=volume)
    unmade = Case(pods, "ends", volume=volume, packages=["./nowhere"])
    odd = Case(pods, "ends", volume=volume, notebook="nonsense")
    crashed.pod.wait_for_log("the kernel waits")
    crashed.pod.crash()
    for each in (crashed, fails, unmade, odd):
        each.pod.wait()

    status, how, said = crashed.told()
    assert (status, how) == ("FAILED", "its container crashed and was started again")
    assert "The job is not." in said
    if volume:  # without one, its disk is gone
        assert "the kernel waits" in said
    status, how, said = fails.told()
    assert (status, how, "the job begins" in said) == ("FAILED", "exit code 3", True)
    status, how, said = unmade.told()
    assert (status, how, "nowhere" in said) == ("FAILED", "exit code 1", True)
    status, how, said = odd.told()
    assert (status, how, "Traceback" in said) == ("FAILED", "exit code 1", True)
    assert sorted(pods.jobs) == sorted([crashed.pod.id, fails.pod.id])
    assert looks == [[], [], [], []]
    assert keys_on(tmp_path / "runpod/volumes") == []


def test_a_start_that_finds_only_rubble(pods: LightPods, tmp_path: Path) -> None:
    """The container ended while the environment was made, or the volume takes nothing."""
    full = other_volume(lambda place: (place / "kaggleops").touch(), pods, tmp_path)
    cannot = Case(pods, "ends", volume=full)
    pods.server.held = True
    ended = Case(pods, "ends", volume=True)
    assert ended.pod.volume
    (ended.pod.volume / "kaggleops/pods" / ended.pod.id / "work/environment").mkdir(parents=True)
    ended.pod.start()
    cannot.pod.wait()
    ended.pod.wait()
    status, how, said = cannot.told()
    assert (status, how) == ("FAILED", "exit code 1")
    assert "Nothing can be kept in /workspace" in said
    assert ended.told()[:2] == ("FAILED", "its container crashed and was started again")
    assert pods.jobs == []


def test_a_bucket_that_refuses_leaves_the_log_and_no_key(
    pods: LightPods, gcs_server: GcsServer, tmp_path: Path
) -> None:
    gcs_server.deny("our-bucket", read=True, write=True)
    fails = pods.create("fails", bucket=BUCKET)
    unmade = pods.create("ends", bucket=BUCKET, packages=["./nowhere"])
    for pod in (fails, unmade):
        pod.wait()
        assert pod.volume
        assert (pod.volume / "kaggleops/pods" / pod.id / "work/log.txt").read_text()
    gcs_server.allow("our-bucket")
    assert keys_on(tmp_path / "runpod/volumes") == []
