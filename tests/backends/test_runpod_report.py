"""What a pod tells the bucket, and how its log is read: from RunPod, and afterwards from there."""

import json
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from kaggleops.backends import job_log
from kaggleops.backends.interface import BUCKET
from kaggleops.backends.runpod import RunPodBackend, report
from kaggleops.backends.runpod.pod import NAME, POD
from kaggleops.bucket import Bucket, open_bucket
from kaggleops.bucket.location import tracking_uri
from kaggleops.mlruns import EntityStore, Kind
from tests.fakes.gcs_server import GcsServer
from tests.fakes.runpod.pod import Pod
from tests.fakes.runpod_server import RunPodServer
from tests.fakes.wire import Request, Response
from tests.warm import passed_on

from .light_pods import RUN, light_pods


def a_run(bucket: Bucket) -> str:
    bucket.prepare()
    mlflow.set_tracking_uri(tracking_uri(bucket.uri))
    client = mlflow.MlflowClient()
    run_id: str = client.create_run(client.create_experiment("pods")).info.run_id
    return run_id


def told(bucket: Bucket, run_id: str, code: int | None, log: Path, *, again: bool = False) -> int:
    said = {"bucket": bucket.uri, "run_id": run_id, "code": code, "cost": 0.5, "again": again}
    return report.main([json.dumps(said | {"log": str(log)})])


def in_bucket(bucket: Bucket, run_id: str) -> tuple[str, dict[str, str]]:
    """Return a run's status and tags as another machine sees them."""
    store = EntityStore(bucket)
    run = store.find(Kind.RUN, run_id)
    assert run
    stored = store.read(run)
    assert stored
    tags = {
        name.removeprefix("tags/"): value.decode()
        for name, value in stored.entity.files.items()
        if name.startswith("tags/")
    }
    status = mlflow.entities.RunStatus.to_string(stored.entity.meta["status"])
    return status, tags


@pytest.mark.parametrize(
    ("code", "again", "status", "how"),
    [
        (1, False, "FAILED", "exit code 1"),
        (124, False, "KILLED", "its time was up"),
        (None, False, "KILLED", "its container was stopped"),
        (None, True, "FAILED", "its container crashed and was started again"),
    ],
)
def test_a_run_that_is_still_open_ends_as_its_job_did(
    bucket: Bucket, tmp_path: Path, code: int | None, again: bool, status: str, how: str
) -> None:
    run_id = a_run(bucket)
    (tmp_path / "log.txt").write_text("one\n\ntwo \u2028 halves\n")
    assert told(bucket, run_id, code, tmp_path / "log.txt", again=again) == 0
    found, tags = in_bucket(bucket, run_id)
    assert (found, tags["job_ended"], tags["cost_usd"]) == (status, how, "0.5000")
    assert tags.get("exit_code") == (None if code is None else str(code))
    assert job_log.kept(bucket, run_id) == ["one", "", "two \u2028 halves"]
    # Another job of the same run.
    (tmp_path / "log.txt").write_text("three\n")
    told(bucket, run_id, code, tmp_path / "log.txt")
    assert job_log.kept(bucket, run_id) == ["three"]


def test_a_run_that_has_ended_stays_as_it_is(bucket: Bucket, tmp_path: Path) -> None:
    run_id = a_run(bucket)
    mlflow.MlflowClient().set_terminated(run_id, "FINISHED")
    assert told(bucket, run_id, 0, tmp_path / "no log") == 0
    found, tags = in_bucket(bucket, run_id)
    assert (found, "job_ended" in tags, tags["exit_code"]) == ("FINISHED", False, "0")


def test_a_bucket_that_refuses(
    gcs_server: GcsServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gcs_server.create_bucket("our-bucket")
    bucket = open_bucket("gs://our-bucket")
    run_id = a_run(bucket)
    gcs_server.deny("our-bucket", write=True)
    assert told(bucket, run_id, 0, tmp_path / "no log") == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_job_is_begun_once(bucket: Bucket) -> None:
    run_id = a_run(bucket)
    assert report.main(["claim", bucket.uri, run_id, "pod1"]) == 0
    assert report.main(["claim", bucket.uri, run_id, "pod1"]) == 3
    assert report.main(["claim", bucket.uri, run_id, "pod2"]) == 0


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunPodServer]:
    with RunPodServer(tmp_path, passed_on(str(tmp_path / "toys"))) as made:
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        yield made


def followed(pod: Pod, folder: Path, kept: str) -> Iterator[str]:
    """Yield the log of a pod that has kept this in its bucket, too."""
    (folder / "kept.txt").write_text(kept)
    bucket = open_bucket(str(folder / "bucket"))
    bucket.prepare()
    job_log.keep(bucket, RUN, folder / "kept.txt")
    tags = {NAME: f"kaggleops-{RUN}", POD: pod.id, BUCKET: bucket.uri}
    return RunPodBackend().logs(tags, follow=True)


def test_a_log_that_breaks_off_is_read_on(server: RunPodServer, tmp_path: Path) -> None:
    pod = light_pods(tmp_path, server).create("talks")
    pod.wait_for_log("the kernel waits")
    # In one second, and so with one id: each break begins anew with all of them.
    server.drop_streams += [0, 2, 5, 7]
    lines = []
    for line in followed(pod, tmp_path, "again and again\nthe end\n"):
        lines.append(line)
        if line == "the kernel waits":
            pod.delete()
    assert server.drop_streams == []
    assert lines == [*pod.text.split("\n"), "the end"]
    assert lines.count("again and again") == 5


def test_a_stream_is_taken_up_from_its_last_event(server: RunPodServer, tmp_path: Path) -> None:
    server.held = True
    pod = light_pods(tmp_path, server).create("ends")
    asked = []
    shown = {
        pod.created: ["1 a", "2 b", "2 b"],
        "2": ["2 b", "2 b", "2 c", "3 b"],
        "3": ["3 b"],
    }

    def change(request: Request, response: Response) -> Response:
        if request.op != "getPodLogs" or response.status != 200:
            return response
        asked.append(after := request.headers["Last-Event-ID"])
        if after == "3":
            pod.delete()
        events = [f'id: {each[0]}\ndata: {{"line": "{each[2]}"}}\n\n' for each in shown[after]]
        return Response(200, response.headers, "".join(events).encode())

    server._http.change = change
    assert list(followed(pod, tmp_path, "a\n")) == ["a", "b", "b", "c", "b"]
    assert asked == [pod.created, "2", "3"]
