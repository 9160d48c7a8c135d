"""A pod in all that may become of it, and what the bucket is told of it, by what really tells it.

Only the training is a toy: the start script, the claim, the sign-in and the report are the real
ones, and the key that they get is looked for on the volume.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest

from kaggleops.backends import job_log
from kaggleops.backends.runpod.client import RunPod
from kaggleops.bucket import open_bucket
from kaggleops.tracking.store import BucketTrackingStore
from tests import secrets_of
from tests.buckets import ON_EACH_SERVICE
from tests.canaries import found_below, found_in_bucket
from tests.fakes.object_server import ObjectServer
from tests.fakes.runpod.pod import Pod
from tests.fakes.runpod_server import RunPodServer
from tests.fakes.s3_server import S3Server
from tests.fakes.wire import Request
from tests.warm import passed_on

from .light_pods import LightPods, light_pods

pytestmark = ON_EACH_SERVICE


@pytest.fixture
def bucket_uri(service: ObjectServer) -> str:
    service.create_bucket("our-bucket")
    if isinstance(service, S3Server):
        service.add_key("a-key", "a-word")
        service.add_key(secrets_of.S3_KEY_ID, secrets_of.S3_SECRET, "our-bucket")
    return service.address("our-bucket")


@pytest.fixture
def pods(
    service: ObjectServer, bucket_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LightPods]:
    toys = passed_on(str(tmp_path / "toys"))
    around = {**toys, "STORAGE_EMULATOR_HOST": service.url}
    with RunPodServer(tmp_path / "runpod", around) as server:
        s3 = isinstance(service, S3Server)
        server.secrets["kaggleops_key"] = secrets_of.S3_KEY if s3 else secrets_of.SERVICE_ACCOUNT
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield light_pods(tmp_path, server, told=True)
        assert server.alive == []


class Case:
    """A pod of a run of its own."""

    def __init__(
        self, pods: LightPods, bucket: str, toy: str, *, volume: bool | str, **job: object
    ) -> None:
        self.bucket, tracking = bucket, f"{bucket}/mlruns"
        mlflow.set_tracking_uri(tracking)
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name("pods")
        number = experiment.experiment_id if experiment else client.create_experiment("pods")
        self.run_id = str(client.create_run(number).info.run_id)
        BucketTrackingStore(tracking).flush()
        self.pod: Pod = pods.create(toy, volume=volume, run_id=self.run_id, bucket=bucket, **job)

    def told(self) -> tuple[str, str, str]:
        """Return what the bucket has: status, how it ended, and the log."""
        run = mlflow.MlflowClient().get_run(self.run_id)
        lines = job_log.kept(open_bucket(self.bucket), self.run_id)
        return run.info.status, run.data.tags.get("job_ended", ""), "\n".join(lines or [])


def each_log_once() -> Callable[[Request], bool]:
    """Return what accepts the first write of each log."""
    known: set[bytes] = set()

    def chosen(request: Request) -> bool:
        named = re.search(rb"logs/[0-9a-f]{32}", request.path.encode() + request.body)
        if request.method == "HEAD" or not named or named[0] in known:
            return False
        known.add(named[0])
        return True

    return chosen


def other_volume(change: Callable[[Path], object], pods: LightPods, folder: Path) -> str:
    made = RunPod().create_volume("other", "EU-RO-1", 10)
    change(folder / "runpod/volumes" / made)
    return made


@pytest.mark.parametrize("volume", [True, False])
def test_whatever_becomes_of_a_pod_is_told(
    pods: LightPods, service: ObjectServer, bucket_uri: str, tmp_path: Path, volume: bool
) -> None:
    looks: list[dict[str, set[str]]] = []
    # While the bucket is told: once for each log.
    service.fail(
        times=None,
        where=each_log_once(),
        then=lambda: looks.append(found_below(tmp_path / "runpod/volumes")),
    )
    crashed = Case(pods, bucket_uri, "waits", volume=volume)
    fails = Case(pods, bucket_uri, "fails", volume=volume)
    unmade = Case(pods, bucket_uri, "ends", volume=volume, packages=["./nowhere"])
    odd = Case(pods, bucket_uri, "ends", volume=volume, notebook="nonsense")
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
    assert looks == [{}, {}, {}, {}]
    assert found_below(tmp_path / "runpod/volumes") == {}
    assert found_in_bucket(service, "our-bucket") == {}


def test_a_start_that_finds_only_rubble(pods: LightPods, bucket_uri: str, tmp_path: Path) -> None:
    """The container ended while the environment was made, or the volume takes nothing."""
    full = other_volume(lambda place: (place / "kaggleops").touch(), pods, tmp_path)
    cannot = Case(pods, bucket_uri, "ends", volume=full)
    pods.server.held = True
    ended = Case(pods, bucket_uri, "ends", volume=True)
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
    pods: LightPods, service: ObjectServer, bucket_uri: str, tmp_path: Path
) -> None:
    service.deny("our-bucket", read=True, write=True)
    fails = pods.create("fails", bucket=bucket_uri)
    unmade = pods.create("ends", bucket=bucket_uri, packages=["./nowhere"])
    for pod in (fails, unmade):
        pod.wait()
        assert pod.volume
        assert (pod.volume / "kaggleops/pods" / pod.id / "work/log.txt").read_text()
    service.allow("our-bucket")
    assert found_below(tmp_path / "runpod/volumes") == {}
