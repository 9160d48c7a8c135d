"""`kaggleops serve`: comes up, shows what comes, outlives what breaks, ends with all it started."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import psutil
import pytest
import requests

from tests.buckets import S3_SELDOM
from tests.fakes.gcs_server import GcsServer
from tests.fakes.s3_server import S3Server
from tests.server.serving import Serving, eventually, serving
from tests.tracking.processes import train
from tests.warm import children, forked

BIG = 60 << 20  # bytes


@dataclass
class Service:
    """What has the bucket: the server, and the address of what is served."""

    server: GcsServer | S3Server
    uri: str


@pytest.fixture(scope="module", params=["gcs", S3_SELDOM])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    kind = GcsServer if request.param == "gcs" else S3Server
    with kind() as server, pytest.MonkeyPatch.context() as patch:
        server.create_bucket("our-bucket")
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "a-key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "a-word")
        place = "gs://our-bucket/some/prefix"
        if isinstance(server, S3Server):
            place = server.address("our-bucket", "some/prefix")
        yield Service(server, f"{place}/mlruns")


BROKEN = "a" * 32

LOG = """
client = mlflow.MlflowClient()
known = client.get_experiment_by_name("tweets")
home = known.experiment_id if known else client.create_experiment("tweets")
run = client.create_run(home, run_name=os.environ["NAME"], tags={"backend": "kaggle"})
client.log_metric(run.info.run_id, "f1", 0.5, step=1)
client.log_text(run.info.run_id, "what the model says", "report.txt")
client.set_terminated(run.info.run_id)
print(home)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, service: Service) -> Path:
    return tmp_path_factory.mktemp("machine")


@pytest.fixture(scope="module")
def experiment(service: Service, home: Path) -> str:
    """The id of an experiment with one run, and with one that cannot be read."""
    found = train(LOG, service.uri, home / "training", NAME="first").output.strip()
    service.server.put("our-bucket", f"some/prefix/mlruns/{found}/{BROKEN}.tar.gz", b"no archive")
    return found


@pytest.fixture(scope="module")
def server(experiment: str, service: Service, home: Path) -> Iterator[Serving]:
    with serving("--bucket", service.uri, home=home / "server") as server:
        # It has refreshed the index itself: what that takes is in memory, whichever test is first.
        server.runs(experiment)
        assert eventually(lambda: server.health()["looks_every_seconds"])
        yield server
    assert not list((home / "server" / "serve").glob("*/scratch*"))


def names(server: Serving, experiment: str) -> set[str]:
    return {run["info"]["run_name"] for run in server.runs(experiment)}


def test_it_shows_what_was_there_and_what_comes(
    server: Serving, experiment: str, service: Service, home: Path
) -> None:
    assert "first" in names(server, experiment)
    assert server.found["link"] == (
        f"{server.url}/#/experiments/{experiment}/runs?workflowType=machine_learning"
    )
    train(LOG, service.uri, home / "training", NAME="second")
    eventually(lambda: "second" in names(server, experiment))


def test_what_is_changed_there_is_in_the_bucket_at_once(
    server: Serving, experiment: str, service: Service
) -> None:
    [run] = server.runs(experiment, filter="attributes.run_name = 'first'")
    there = mlflow.MlflowClient(server.url)
    there.set_tag(run["info"]["run_id"], "mlflow.note.content", "the best so far")
    found = mlflow.MlflowClient(service.uri).get_run(run["info"]["run_id"])
    assert found.data.tags["mlflow.note.content"] == "the best so far"


def test_the_health_page_is_for_people_and_for_programs(server: Serving, service: Service) -> None:
    content = server.health()
    assert content["status"] == "fresh"
    assert content["bucket"] == service.uri.removesuffix("/mlruns")
    assert content["holds"]["runs"] >= 1
    [problem] = content["problems"]
    assert BROKEN in problem
    assert server.found["problems"] == 1
    assert content["versions"]["mlflow"] == mlflow.__version__
    page = requests.get(server.found["health"], headers={"Accept": "text/html"}, timeout=60)
    assert page.headers["content-type"].startswith("text/html")
    assert "The index is fresh" in page.text
    assert BROKEN in page.text
    assert requests.get(f"{server.found['health']}.json", timeout=60).json()["status"] == "fresh"
    stranger = requests.get(server.found["health"], headers={"Host": "evil.example"}, timeout=60)
    assert stranger.status_code == 403


def test_it_is_for_this_machine_only(server: Serving) -> None:
    def status(host: str) -> int:
        headers = {"Host": host}
        return server.session.get(f"{server.url}/health", headers=headers, timeout=60).status_code

    assert {status(host) for host in ("localhost:7", "127.0.0.1", "[::1]:5000")} == {200}
    others = ("10.evil.com", "203.0.113.7", "10.0.0.1:5000", "0.0.0.0:5000", "ml.example.com")
    assert {status(host) for host in others} == {403}
    assert server.session.get(f"{server.url}/signup", timeout=60).status_code == 404


def test_a_bucket_out_of_reach_is_said_and_survived(
    server: Serving, experiment: str, service: Service
) -> None:
    service.server.deny("our-bucket", read=True)
    server.runs(experiment)
    trouble = eventually(lambda: server.health()["trouble"])
    assert "our-bucket" in trouble
    assert "first" in names(server, experiment)
    service.server.allow("our-bucket")
    eventually(lambda: server.health()["trouble"] == "")
    eventually(lambda: server.errors.count("The index is up to date again") == 1)
    assert server.errors.count("The index cannot be updated for now") == 1


def test_a_large_artifact_is_never_in_memory_as_a_whole(
    server: Serving, experiment: str, service: Service, home: Path
) -> None:
    run_id = server.runs(experiment)[0]["info"]["run_id"]
    service.server.put(
        "our-bucket", f"some/prefix/artifacts/{experiment}/{run_id}/artifacts/big.bin", bytes(BIG)
    )
    # First a part of a small one: what any artifact takes is in memory then.
    part = {"Range": "bytes=5-9"}
    report = {"path": "report.txt", "run_uuid": run_id}
    with requests.get(f"{server.url}/get-artifact", report, headers=part, timeout=60) as answer:
        assert (answer.status_code, answer.content) == (206, b"the m")
        assert answer.headers["content-range"] == "bytes 5-9/19"
    [worker] = server.children
    before = worker.memory_info().rss
    scratch = next((home / "server").glob("serve/*/scratch*"))
    where = {"path": "big.bin", "run_uuid": run_id}
    with requests.get(f"{server.url}/get-artifact", where, stream=True, timeout=60) as answer:
        assert int(answer.headers["content-length"]) == BIG
        # Nobody reads what comes, and there is time enough for all of it to be produced.
        with pytest.raises(AssertionError):
            eventually(lambda: worker.memory_info().rss - before > BIG / 3, seconds=3)
        assert list(scratch.iterdir())
        assert sum(map(len, answer.iter_content(1 << 20))) == BIG
    eventually(lambda: not list(scratch.iterdir()))
    with requests.get(f"{server.url}/get-artifact", where, stream=True, timeout=60):
        assert list(scratch.iterdir())
    eventually(lambda: not list(scratch.iterdir()))  # though nobody has read it
    assert "Downloading" not in server.errors


def test_a_server_process_that_dies_is_started_again(server: Serving, experiment: str) -> None:
    [worker] = server.children
    worker.kill()
    psutil.wait_procs([worker])
    server.session.close()  # its connection went with the process
    assert "first" in names(server, experiment)  # who asks meanwhile waits
    [other] = server.children
    assert other.pid != worker.pid
    assert "SIGKILL" in server.errors


def test_it_can_be_ended_while_the_bucket_comes_in(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kaggleops", "serve", "--port", "0", "--bucket", "gs://slow/a"]
    with GcsServer() as slow:
        slow.create_bucket("slow")
        slow.fail("hang", times=None)
        environment = {"STORAGE_EMULATOR_HOST": slow.url, "KAGGLEOPS_HOME": str(tmp_path / "home")}
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
        )
        eventually(lambda: psutil.Process(forked(process.pid)).children())
        started = children(process.pid)
        process.terminate()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        assert not psutil.wait_procs(started, timeout=60)[1], "it has left a process behind"


def test_downloads_that_take_long_are_cut_off_without_a_trace(tmp_path: Path) -> None:
    uri = f"bucket+file://{tmp_path}/bucket/mlruns"
    client = mlflow.MlflowClient(uri)
    run = client.create_run(client.create_experiment("tweets")).info
    folder = Path(urlsplit(run.artifact_uri).path)
    folder.mkdir(parents=True)
    # Some fit into the kernel's buffers, and of some but a little is left for the server to send.
    sizes = [*range(2_000_000, 4_000_000, 60_000), BIG]
    with ExitStack() as stack:
        with serving("--bucket", uri, home=tmp_path / "server") as server:
            answers = []
            for size in sizes:
                with (folder / str(size)).open("wb") as artifact:
                    artifact.truncate(size)
                reader = HTTPConnection(urlsplit(server.url).netloc)
                reader.sock = stack.enter_context(socket.socket())
                reader.sock.settimeout(60)
                reader.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                reader.sock.connect((reader.host, reader.port))
                reader.request("GET", f"/get-artifact?path={size}&run_uuid={run.run_id}")
                answers.append(reader.getresponse())
        cut_off = sum(not _is_whole(answer) for answer in answers)
    assert server.errors == f"WARNING: Answers that were cut off: {cut_off}.\n"


def _is_whole(answer: HTTPResponse) -> bool:
    try:
        answer.read()
    except (IncompleteRead, ConnectionError):
        return False
    return True
