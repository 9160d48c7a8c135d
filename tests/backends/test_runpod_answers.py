"""RunPod answers what its document allows, and less: no command ends in a trace, no pod by it."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kaggleops.backends.base import RemoteRun
from kaggleops.backends.ready_notebook import ready_notebook
from kaggleops.backends.runpod import RunPodBackend, client
from kaggleops.backends.runpod.pod import NAME, POD, RunPodConfig
from kaggleops.reports.doctor import examine_platforms
from tests.fakes.odd_answers import all_odd, odd, whole
from tests.fakes.runpod.contract import document, sample
from tests.fakes.runpod_server import RunPodServer
from tests.fakes.wire import Request, Response

from .runpod_jobs import submit
from .test_commands import here
from .test_odd_answers import examine
from .world import BUCKET, World

BUCKET_OPTION = ("--bucket", BUCKET)
JSON = [("Content-Type", "application/json")]


def change(runpod: RunPodServer, op: str, how: Callable[[Response], Response]) -> None:
    """Let answers to an operation be others on their way."""

    def changed(request: Request, response: Response) -> Response:
        if response.stream is not None:  # nobody has to wait until it falls silent
            return Response(200, response.headers)
        return how(response) if request.op == op else response

    runpod._http.change = changed


def pods_as(how: Callable[[dict[str, Any]], Any], pod_id: str) -> Callable[[Response], Response]:
    """Return what changes one pod of an answer."""

    def changed(response: Response) -> Response:
        content = json.loads(response.body or b"{}")
        if "pods" in content:
            content["pods"] = [
                how(each) if each["id"] == pod_id else each for each in content["pods"]
            ]
        elif content.get("id") == pod_id:
            content = how(content)
        return Response(response.status, response.headers, json.dumps(content).encode())

    return changed


@pytest.fixture
def live(outside: World, runpod: RunPodServer) -> Iterator[RemoteRun]:
    """A run whose pod waits for a machine; no test may end either."""
    run = submit(outside)
    yield run
    runpod._http.change = lambda request, response: response
    assert runpod.pod(f"kaggleops-{run.run_id}").alive
    assert outside.run(run.run_id).info.status == "SCHEDULED"


def commands(run_id: str, folder: Path) -> list[tuple[object, ...]]:
    return [
        ("status", run_id, *BUCKET_OPTION),
        ("logs", run_id, *BUCKET_OPTION),
        ("resume", run_id, *BUCKET_OPTION),
        ("reap", "-b", "runpod", *BUCKET_OPTION),
        ("download", run_id, folder, *BUCKET_OPTION),
        ("quota", "-b", "runpod"),
        ("cleanup", run_id, *BUCKET_OPTION),
    ]


@pytest.mark.skipif(document() is None, reason="RunPod's OpenAPI document is not at hand")
@pytest.mark.parametrize(
    ("schema", "read", "told_by"),
    [
        (
            "Pod",
            client.pod_of,
            {
                "createdAt": ("created", "created_at"),
                "env": ("job",),
                "ports": ("access",),
                "id": ("id", "access"),
            },
        ),
        (
            "GpuType",
            client.gpu_of,
            {"maxCount": ("most",), "memory": ("memory_gb",), "dataCenters": ("places",)},
        ),
        ("NetworkVolume", client.volume_of, {"dataCenter": ("data_center",)}),
    ],
)
def test_one_odd_field_hides_no_other(
    schema: str, read: Callable[[Any], Any], told_by: dict[str, tuple[str, ...]]
) -> None:
    good = sample(schema)
    job = {"run_id": "0" * 32, "bucket": "gs://b", "deadline": 1.5, "keep": True}
    if schema == "Pod":
        good["env"] = {"KAGGLEOPS_JOB": json.dumps(job)}
        for _, changed in odd(job):
            read({**good, "env": {"KAGGLEOPS_JOB": json.dumps(changed)}})
    expected = vars(read(good))
    assert all(expected.values()) or schema == "GpuType"
    told_by = {"ssh": ("access",), "availability": ("stock",), **told_by}
    for (name, *_), changed in odd(good):
        own = told_by.get(str(name), (name,))
        found = vars(read(changed))
        assert {key: found[key] for key in found if key not in own} == {
            key: expected[key] for key in expected if key not in own
        }


SLOW = ("logs", "cleanup", "quota")
ASKED_BY = {
    "getPod": ("status", "logs", "cleanup"),
    "listPods": ("resume", "reap", "quota"),
    "listGpuTypes": ("resume", "quota"),
    "listNetworkVolumes": ("resume",),
}


@pytest.mark.parametrize("op", list(ASKED_BY))
def test_an_answer_that_is_none(
    runpod: RunPodServer, live: RemoteRun, tmp_path: Path, op: str
) -> None:
    for name, answer in whole(json.dumps({"pods": [{"id": "pod1"}]}).encode()):
        change(runpod, op, lambda response, answer=answer: answer)  # type: ignore[misc]
        for command in commands(live.run_id, tmp_path):
            if command[0] not in ASKED_BY[op]:
                continue
            done = here(*command)
            errors = done.errors.count("error:")
            assert (name, command[0], done.code in (0, 1, 2)) == (name, command[0], True)
            assert errors == (1 if done.code else 0), (name, command, done.errors)
            if command[0] == "reap":
                assert (name, done.code) == (name, int(op == "listPods"))
            if op == "listPods" and command[0] == "quota":
                examine()
    assert runpod.count("createPod") == 1


def test_one_odd_pod_is_live_and_hides_no_other(
    outside: World, runpod: RunPodServer, live: RemoteRun, tmp_path: Path
) -> None:
    pod = runpod.pod(f"kaggleops-{live.run_id}")
    given = runpod._listed()[0]
    odd_ones = list(all_odd({name: given[name] for name in given if name not in ("id", "name")}))
    odd_ones += [{"status": "RESUMING"}, {"env": {"KAGGLEOPS_JOB": "********"}}]
    naive = datetime.now(UTC).replace(tzinfo=None).isoformat()
    odd_ones += [{"createdAt": None}, {"createdAt": "yesterday"}, {"createdAt": naive}]
    for number, fields in enumerate(odd_ones):
        for op in ("getPod", "listPods"):
            change(runpod, op, pods_as(lambda each, fields=fields: {**each, **fields}, pod.id))  # type: ignore[misc]
            for command in commands(live.run_id, tmp_path):
                if command[0] not in ASKED_BY[op] or (number < 9 and command[0] in SLOW):
                    continue
                done = here(*command)
                assert done.code == (1 if command[0] in ("logs", "cleanup") and done.code else 0)
                assert done.errors.count("error:") == (1 if done.code else 0), done.errors
    # As one, and as what has no id, it hides no pod that is over.
    for how in (*[lambda each, f=f: {**each, **f} for f in odd_ones[:4]], lambda each: 7):  # type: ignore[misc]
        over = submit(outside)
        over.cancel()
        change(runpod, "listPods", pods_as(how, pod.id))
        done = here("reap", "-b", "runpod", *BUCKET_OPTION, "--json")
        reaped = [each["run_id"] for each in done.json["machines"] if not each["problem"]]
        assert reaped == [over.run_id]
        assert not runpod.pod(f"kaggleops-{over.run_id}").alive
    assert (done.code, "a pod without an id" in done.errors) == (1, True)
    assert runpod.count("createPod") == 6
    assert list(examine_platforms(tmp_path))


def test_a_pod_that_hides_its_environment_is_found_by_its_name(
    outside: World, runpod: RunPodServer, live: RemoteRun
) -> None:
    over, elsewhere = submit(outside), submit(outside)
    over.cancel()
    body = runpod.pod(f"kaggleops-{elsewhere.run_id}").body
    body["name"] = f"kaggleops-{'f' * 32}"  # type: ignore[index]

    def masked(response: Response) -> Response:
        content = json.loads(response.body)
        for each in content["pods"]:
            each["env"] = dict.fromkeys(each["env"], "********")
        return Response(200, JSON, json.dumps(content).encode())

    change(runpod, "listPods", masked)
    done = here("reap", "-b", "runpod", *BUCKET_OPTION, "--json")
    # Of the others, one's run is open, and one's may be in another bucket.
    assert [each["run_id"] for each in done.json["machines"]] == [over.run_id]
    assert {pod.body["name"] for pod in runpod.alive} == {
        f"kaggleops-{live.run_id}",
        f"kaggleops-{'f' * 32}",
    }
    assert "$0.80 an hour" in here("quota", "-b", "runpod").output


@pytest.mark.parametrize("op", ["createPod", "createNetworkVolume"])
def test_what_was_made_without_a_word_is_found(
    outside: World, runpod: RunPodServer, op: str
) -> None:
    made = []
    for _, answer in whole(b'{"id": "pod1"}'):
        if answer.status != 200:
            continue
        change(runpod, op, lambda response, answer=answer: Response(201, JSON, answer.body))  # type: ignore[misc]
        volume = f"volume-{len(made)}" if "Volume" in op else ""
        if not made:
            run = submit(outside, volume=volume)
            assert outside.run(run.run_id).info.status == "SCHEDULED"
            made.append(run.tags[POD])
            continue
        tags, config = {NAME: f"kaggleops-{len(made):032x}"}, RunPodConfig(volume=volume)
        made.append(RunPodBackend().send(tags, ready_notebook({"bucket": BUCKET}), config)[POD])
    assert sorted(made) == sorted(pod.id for pod in runpod.alive)
    assert len(runpod.volumes) == (len(made) if "Volume" in op else 0)


def test_a_log_that_cannot_be_had_is_an_error(runpod: RunPodServer, live: RemoteRun) -> None:
    runpod.fail(503, times=None, op="getPodLogs")
    done = here("logs", live.run_id, *BUCKET_OPTION)
    assert (done.code, "RunPod has a fault (503)" in done.error) == (1, True)
    runpod.heal()
    # Its words are no events, and none is lost.
    pod = runpod.pod(f"kaggleops-{live.run_id}")
    lines = [b"id: \xc3\xa9\n", b"data: not JSON\n\n", b'data: {"line": null}\n\n', b"data: 7\n\n"]
    lines += [b'data: {"line":\ndata: "two halves"}\n\n']
    runpod._http.change = lambda request, response: (
        Response(200, [("Content-Type", "text/event-stream")], b"".join(lines))
        if request.op == "getPodLogs"
        else response
    )
    done = here("logs", live.run_id, *BUCKET_OPTION)
    assert done.output.splitlines() == ["not JSON", '{"line": null}', "7", "two halves"]
    assert pod.alive
