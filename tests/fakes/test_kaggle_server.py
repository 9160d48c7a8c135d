"""The fake Kaggle, request by request: what it refuses, and how it misbehaves."""

import base64
import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from packaging.version import Version
from requests import HTTPError

from tests import secrets_of
from tests.fakes.kaggle_server import KaggleServer
from tests.fakes.kaggle_uses import dataset_folder, kernel_folder

KERNELS = "/api/v1/kernels.KernelsApiService"
GOOD = {
    "slug": "ada/my-script",
    "newTitle": "My script",
    "text": "print(1)",
    "language": "python",
    "kernelType": "script",
    "isPrivate": True,
    "enableInternet": False,
}


def ask(
    server: KaggleServer,
    path: str,
    content: Any,
    *,
    user: str = f"ada:{secrets_of.HEX}",
    method: str = "POST",
    **headers: str,
) -> tuple[int, dict[str, Any]]:
    """Return status and JSON of what the server answers to a bare request."""
    basic = "Basic " + base64.b64encode(user.encode()).decode()
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    request = urllib.request.Request(
        server.url + path, body, {"Authorization": basic, **headers}, method=method
    )
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def push(server: KaggleServer, **more: Any) -> tuple[int, dict[str, Any]]:
    return ask(server, f"{KERNELS}/SaveKernel", GOOD | more)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"secrets": ["key"]}, "Unknown fields"),
        ({"isPrivate": "true"}, "isPrivate is of type bool"),
        ({"sessionTimeoutSeconds": 1.5}, "of type int"),
        ({"datasetDataSources": "ada/data"}, "is a list"),
        ({"datasetDataSources": [1]}, "of type str"),
        ({"kernelExecutionType": "LATER"}, "is one of"),
        ({"kernelExecutionType": "INTER_ACTIVE"}, "no interactive"),
        ({"kernelType": "module"}, "kernel type"),
        ({"language": "cobol"}, "Python only"),
        ({"text": ""}, "no source"),
        ({"kernelType": "notebook"}, "no notebook"),
        ({"machineShape": "NvidiaTeslaT4x2"}, "machine shape"),
        ({"sessionTimeoutSeconds": 12 * 3600 + 1}, "43200 seconds at most"),
        ({"machineShape": "TpuV5E8", "sessionTimeoutSeconds": 10 * 3600}, "32400 seconds"),
        ({"dockerImagePinningType": "newest"}, "pinning type"),
        ({"newTitle": "Four"}, "between 5 and 50"),
        ({"slug": "ada/four"}, "Invalid slug"),
        ({"slug": "ada/My-Script"}, "Invalid slug"),
    ],
)
def test_what_no_client_sends_is_refused(
    kaggle: KaggleServer, change: dict[str, Any], reason: str
) -> None:
    status, answer = push(kaggle, **change)
    assert (status, answer["code"]) == (400, 400)
    assert reason in answer["message"]
    assert kaggle.kernels == []
    assert kaggle.requests[-1].message == answer["message"]


def test_who_may_ask_for_what(kaggle: KaggleServer) -> None:
    kaggle.hold_sessions()
    status = f"{KERNELS}/GetKernelSessionStatus"
    mine = {"userName": "ada", "kernelSlug": "my-script"}
    assert ask(kaggle, status, mine, user="ada:wrong")[0] == 401
    assert ask(kaggle, status, mine, Authorization="Bearer KGAT_wrong")[0] == 401
    assert ask(kaggle, status, mine)[0] == 403  # nothing is there: it looks like another's
    assert push(kaggle)[1]["versionNumber"] == 1
    assert ask(kaggle, status, mine)[1]["status"] == "QUEUED"
    assert ask(kaggle, status, mine, user=f"bob:{secrets_of.HEX}")[0] == 403
    assert push(kaggle, slug="bob/my-script")[1]["error"] == "Notebook not found"
    assert push(kaggle, isPrivate=False)[1]["versionNumber"] == 2
    assert ask(kaggle, status, mine, user=f"bob:{secrets_of.HEX}")[0] == 200
    assert ask(kaggle, f"{KERNELS}/DeleteKernel", mine, user=f"bob:{secrets_of.HEX}")[0] == 403
    session = {"kernelSessionId": kaggle.session("ada/my-script").id}
    cancel = f"{KERNELS}/CancelKernelSession"
    assert ask(kaggle, cancel, session, user=f"bob:{secrets_of.HEX}")[0] == 403
    assert ask(kaggle, cancel, session)[0] == 200
    assert kaggle.session("ada/my-script").wait() == "CANCEL_ACKNOWLEDGED"
    without = {name: value for name, value in GOOD.items() if name != "isPrivate"}
    ask(kaggle, f"{KERNELS}/SaveKernel", without)
    assert kaggle.kernel("ada/my-script").latest.private
    assert push(kaggle, kernelExecutionType="QUICK_SAVE")[1]["versionNumber"] == 4
    assert ask(kaggle, status, mine)[1]["status"] == "NEW_SCRIPT"


def test_what_is_no_operation(kaggle: KaggleServer) -> None:
    assert ask(kaggle, f"{KERNELS}/GetKernelLogs", {})[0] == 404
    assert ask(kaggle, f"{KERNELS}/SaveKernel", {}, method="PUT")[0] == 404
    assert ask(kaggle, f"{KERNELS}/GetAcceleratorQuotaStatistics?x=1", {})[0] == 400
    assert ask(kaggle, f"{KERNELS}/SaveKernel", b"no json")[0] == 400
    assert ask(kaggle, f"{KERNELS}/SaveKernel", [])[0] == 400
    lines = json.dumps({"cells": [{"source": ["1\n", "2"]}]})
    assert push(kaggle, kernelType="notebook", text=lines)[0] == 500
    assert ask(kaggle, f"{KERNELS}/SaveKernel", {}, Host="www.example.org")[0] == 502
    assert {logged.status for logged in kaggle.requests} == {400, 404, 500, 502}


def test_refused_pushes_look_like_success(kaggle: KaggleServer) -> None:
    kaggle.hold_sessions()
    kaggle.refuse_push("Something is wrong.")
    gpu = {"machineShape": "NvidiaTeslaT4"}
    answers = [
        push(kaggle),
        push(kaggle, newTitle="Another title"),
        push(kaggle, **gpu),
        push(kaggle, **gpu),
        push(kaggle, **gpu),
        push(
            kaggle, datasetDataSources=["ada/absent"], modelDataSources=["a/b"], categoryIds=["x"]
        ),
    ]
    assert {status for status, _ in answers} == {200}
    wrong, misnamed, first, second, third, without = [answer for _, answer in answers]
    assert (wrong["error"], misnamed["error"]) == ("Something is wrong.", "Notebook not found")
    assert (first["versionNumber"], second["versionNumber"]) == (1, 2)
    assert third == {
        "ref": "",
        "url": "",
        "error": "Maximum batch GPU session count of 2 reached.",
    }
    assert without["versionNumber"] == 3
    assert without["invalidDatasetSources"] == ["ada/absent"]
    assert (without["invalidModelSources"], without["invalidTags"]) == (["a/b"], ["x"])
    kaggle.session("ada/my-script", 1).cancel()
    kaggle.session("ada/my-script", 1).wait()
    kaggle.use_gpu("ada", hours=30)
    spent = push(kaggle, enableGpu=True)[1]["error"]
    assert spent == "Maximum weekly GPU quota of 30.00 hours reached."
    quota = ask(kaggle, f"{KERNELS}/GetAcceleratorQuotaStatistics", {})[1]
    assert quota["gpuQuota"]["timeUsed"] == quota["gpuQuota"]["totalTimeAllowed"] == "108000s"


def test_faults(kaggle: KaggleServer, tmp_path: Path) -> None:
    api = kaggle.api("ada")
    folder = kernel_folder(tmp_path / "push", "ada/my-script", "open('kept.txt', 'w').write('1')")
    kaggle.fail("reset", op="SaveKernel")
    with pytest.raises(requests.ConnectionError):
        api.kernels_push(folder)
    assert kaggle.kernels == []
    kaggle.fail("lost-response", op="SaveKernel")
    with pytest.raises(requests.ConnectionError):
        api.kernels_push(folder)
    assert kaggle.session("ada/my-script").wait() == "COMPLETE"
    assert [logged.status for logged in kaggle.requests] == [0, 0]

    # Up to 2.2.4 the client keeps an error's page as the file and writes wherever a name points
    # to; from 2.2.5 on it refuses both.
    client = Version(version("kaggle"))
    checks = client >= Version("2.2.5")
    kaggle.fail(403, op="output file", message="Access denied.")
    with pytest.raises(HTTPError, match="403") if checks else nullcontext():
        api.kernels_output("ada/my-script", str(tmp_path / "output"))
        assert "Access denied." in (tmp_path / "output/kept.txt").read_text()
    kaggle.behaviour.output_name = lambda name: f"../evil/{name}"
    with pytest.raises(ValueError, match="outside") if checks else nullcontext():
        api.kernels_output("ada/my-script", str(tmp_path / "output"))
        assert (tmp_path / "evil/kept.txt").read_text() == "1"

    kaggle.behaviour.statuses.append("PREEMPTED")
    with pytest.raises(KeyError, match="PREEMPTED"):
        api.kernels_status("ada/my-script")
    kaggle.fail(500, op="GetKernelSessionStatus", message="Internal error")
    with pytest.raises(HTTPError, match="Internal error"):
        api.kernels_status("ada/my-script")
    assert api.kernels_status("ada/my-script").status.name == "COMPLETE"
    kaggle.fail("truncate", op="GetKernelSessionStatus")
    with pytest.raises(requests.RequestException):
        api.kernels_status("ada/my-script")

    kaggle.fail(429, op="StartBlobUpload", times=2, retry_after=0)
    files = dataset_folder(tmp_path / "data", "ada/my-credentials", key_json="{}")
    kaggle.fail("lost-response", op="CreateDataset")
    # From 2.2.4 on the client asks again, so that its own success looks like somebody else's.
    again = client >= Version("2.2.4")
    with nullcontext() if again else pytest.raises(requests.ConnectionError):
        assert "already in use" in api.dataset_create_new(files, quiet=True).error
    assert kaggle.dataset("ada/my-credentials").versions == [{"key.json": b"{}"}]
    assert (kaggle.count("StartBlobUpload"), kaggle.count("CreateDataset")) == (3, 1 + again)
    kaggle.behaviour.dataset_statuses.append("BLOBS_RECEIVED")
    assert api.dataset_status("ada/my-credentials") == "blobs_received"
    assert api.dataset_status("ada/my-credentials") == "ready"


def test_hanging_requests_go_on_when_released(kaggle: KaggleServer, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    os.mkfifo(ran)
    for kind in ("hang", "late"):
        fault = kaggle.fail(kind, op="SaveKernel")
        pushing = threading.Thread(
            target=push, args=(kaggle,), kwargs={"text": f"open({str(ran)!r}, 'w').close()"}
        )
        pushing.start()
        assert fault.struck.wait(60)
        if kind == "late":
            ran.read_text()  # the session has begun, and its push is not answered
        assert len(kaggle.kernels) == (kind == "late")
        assert pushing.is_alive()
        fault.release()
        pushing.join(60)
        assert kaggle.count("SaveKernel") == 1
        if kind == "hang":
            ran.read_text()
        ask(kaggle, f"{KERNELS}/DeleteKernel", {"userName": "ada", "kernelSlug": "my-script"})
        kaggle.reset_counts()


def test_logs_break_off_replay_and_come_late(kaggle: KaggleServer, tmp_path: Path) -> None:
    api = kaggle.api("ada")
    source = """
import os
from pathlib import Path
print("one", flush=True)
print("two", flush=True)
gate = Path(os.environ["KAGGLEOPS_ROOT"], "gate")
os.mkfifo(gate)
print("three", flush=True)
gate.read_text()
"""
    kaggle.hold_sessions()
    kaggle.behaviour.no_log_in_queue = True
    api.kernels_push(kernel_folder(tmp_path, "ada/my-script", source))
    with pytest.raises(HTTPError, match="404"):
        next(api.kernels_logs_stream("ada/my-script"))
    session = kaggle.session("ada/my-script")
    session.start()
    session.wait_for_log("three")

    def shown(events: Iterator[dict[str, str]]) -> list[str]:
        got = []
        try:
            for event in events:
                got.append(event["data"].strip())
        except requests.exceptions.ChunkedEncodingError:
            got.append("broken off")
        return got

    kaggle.behaviour.drop_streams += [0, 2]
    assert shown(api.kernels_logs_stream("ada/my-script")) == ["broken off"]
    assert shown(api.kernels_logs_stream("ada/my-script")) == ["one", "two", "broken off"]
    live = api.kernels_logs_stream("ada/my-script")
    assert [next(live)["data"] for _ in range(3)] == ["one\n", "two\n", "three\n"]
    assert api.kernels_logs("ada/my-script") == ""  # only an ended session's is kept
    address = f"{kaggle.url}/api/v1/kernels/logs/stream/ada/my-script"
    with requests.get(address, auth=("ada", secrets_of.HEX), stream=True) as bare:
        (session.root / "gate").write_text("")
        assert bare.text.endswith('"data": "three\\n"}\n\ndata: END_OF_LOG\n\n')
    assert shown(live) == []
    session.wait()
    kaggle.behaviour.late_logs = 2
    assert api.kernels_logs("ada/my-script") == ""
    assert shown(api.kernels_logs_stream("ada/my-script")) == []
    assert shown(api.kernels_logs_stream("ada/my-script")) == ["one", "two", "three"]


def test_versions_can_be_ignored(kaggle: KaggleServer) -> None:
    kaggle.hold_sessions()
    push(kaggle)
    push(kaggle)
    kaggle.session("ada/my-script", 1).start()
    kaggle.session("ada/my-script", 1).wait()
    first = {"userName": "ada", "kernelSlug": "my-script", "versionLabel": "v1"}
    status = f"{KERNELS}/GetKernelSessionStatus"
    assert ask(kaggle, status, first)[1]["status"] == "COMPLETE"
    kaggle.behaviour.ignore_versions = True
    assert ask(kaggle, status, first)[1]["status"] == "QUEUED"


def test_nothing_is_left_of_a_stopped_server(tmp_path: Path) -> None:
    source = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE,
                         start_new_session=True)
print("child", child.pid, flush=True)
child.wait()
"""
    with KaggleServer(tmp_path / "kaggle") as server:
        server.add_user("ada")
        server.api("ada").kernels_push(kernel_folder(tmp_path, "ada/my-script", source))
        session = server.session("ada/my-script")
        session.wait_for_log("child ")
        child = psutil.Process(int(session.text.split()[1]))
    assert session.state == "CANCEL_ACKNOWLEDGED"
    # Where nobody collects orphans, a dead one stays as a zombie.
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
