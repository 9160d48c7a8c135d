"""What only RunPod does: it sells out, refuses, forgets to answer, and costs money."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import RunTag

from kaggleops.backends.base import RemoteRun
from kaggleops.backends.interface import RefusedError
from kaggleops.backends.lookup import backend_named, resume, submitted_run
from kaggleops.backends.ready_notebook import ready_notebook
from kaggleops.backends.runpod.pod import Offer, RunPodConfig, pod_body
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import Launch
from kaggleops.tags import TO_BE_CONTINUED
from kaggleops.tracking.store import BucketTrackingStore
from tests import secrets_of
from tests.fakes.runpod.contract import document, violations
from tests.fakes.runpod_server import RunPodServer

from .runpod_jobs import runs, submit
from .test_commands import here
from .world import BUCKET, TRACKING, World

BUCKET_OPTION = ("--bucket", BUCKET)


def again(run_id: str, **fields: Any) -> RemoteRun:
    backend = backend_named("runpod")
    return resume(backend, TRACKING, run_id, backend.read_config(fields, "a test"))


def newest(outside: World, before: set[str]) -> str:
    (run_id,) = runs(outside) - before
    return run_id


def test_what_is_created(outside: World, runpod: RunPodServer) -> None:
    before = time.time()
    run = submit(outside, gpu_count=2, hours=1.5, registry="reg1", install_from="a.whl")
    pod = runpod.pod(f"kaggleops-{run.run_id}")
    body = dict(pod.body)
    job = json.loads(body["env"].pop("KAGGLEOPS_JOB"))
    assert body["env"].pop("KAGGLEOPS_START")
    assert "\n" not in body["env"].pop("KAGGLEOPS_BEGIN")
    (volume,) = runpod.volumes.values()
    assert (volume["name"], volume["size"], volume["dataCenter"]) == ("kaggleops", 50, "EU-RO-1")
    assert body == {
        "name": f"kaggleops-{run.run_id}",
        "image": "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404",
        "registry": "reg1",
        "gpu": {"id": "NVIDIA L4", "count": 2, "minCudaVersion": "12.8"},
        "cloud": "SECURE",
        "disk": 50,
        "dataCenterIds": ["EU-RO-1"],
        "mounts": {"network": [{"volumeId": volume["id"], "path": "/workspace"}]},
        "args": "sh -c 'eval \"$KAGGLEOPS_BEGIN\"'",
        "env": {"KAGGLEOPS_KEY": "{{ RUNPOD_SECRET_kaggleops_key }}"},
    }
    assert before + 5400 <= job["deadline"] <= time.time() + 5400
    assert (job["run_id"], job["bucket"], job["price"]) == (run.run_id, BUCKET, 0.8)
    assert (job["install_from"], job["extra"]) == ("a.whl", "")
    tags = run.tags
    assert (tags["runpod_pod"], tags["price_per_hour"]) == (pod.id, "0.8")
    assert run.page == f"https://console.runpod.io/pods?id={pod.id}"
    state = run.state()
    assert str(state) == "PROVISIONING, $0.80/h"

    # The volume is there now: its data center counts more than where most are free.
    other = submit(outside, gpus=["rtx a5000"])
    assert runpod.pod(f"kaggleops-{other.run_id}").data_center == "EU-RO-1"
    assert len(runpod.volumes) == 1


def test_variables_ports_and_a_script_of_ones_own(
    outside: World, runpod: RunPodServer, tmp_path: Path
) -> None:
    runpod.ssh_keys.append("ssh-ed25519 AAAA ada")
    (tmp_path / "setup.sh").write_text("apt-get install -y ffmpeg")
    env = {"KAGGLE_USERNAME": "ada", "KAGGLE_KEY": "{{ RUNPOD_SECRET_kaggle_key }}"}
    fields = {"env": env, "ports": ["6006/http", "22/tcp"], "setup": str(tmp_path / "setup.sh")}
    run = submit(outside, **fields)
    pod = runpod.pod(f"kaggleops-{run.run_id}")
    assert env.items() <= pod.body["env"].items()
    assert (pod.body["ports"], pod.body["startSsh"]) == (["6006/http", "22/tcp"], True)
    job = json.loads(pod.body["env"]["KAGGLEOPS_JOB"])
    assert job["setup"] == "apt-get install -y ffmpeg"
    assert (job["extra"], job["secrets"], job["ssh"]) == ("[kaggle]", ["KAGGLE_KEY"], True)
    assert run.state().access.endswith(f"https://{pod.id}-6006.proxy.runpod.net")

    (tmp_path / "setup.sh").write_text(f"export X={secrets_of.RUNPOD_KEY}")
    with pytest.raises(UsageError, match=r"holds a secret .* Let it read a variable of `env`"):
        submit(outside, **fields)


def test_the_client_of_another_services_bucket_comes_with_it() -> None:
    notebook = ready_notebook({"bucket": "s3://b@h.test"})
    offer = Offer("NVIDIA L4", "EU-RO-1", 0.40)
    body = pod_body("0" * 32, notebook, RunPodConfig(), offer, "", time.time())
    assert json.loads(body["env"]["KAGGLEOPS_JOB"])["extra"] == "[s3]"
    assert body["env"]["KAGGLEOPS_KEY"] == "{{ RUNPOD_SECRET_kaggleops_key }}"


def test_without_a_volume_runpod_chooses_where(outside: World, runpod: RunPodServer) -> None:
    run = submit(outside, volume="", cloud="COMMUNITY", template="abc", image="", min_cuda="")
    body = runpod.pod(f"kaggleops-{run.run_id}").body
    assert not {"mounts", "dataCenterIds", "image"} & set(body)
    assert (body["templateId"], body["cloud"]) == ("abc", "COMMUNITY")
    assert runpod.volumes == {}


def test_bodies_are_checked_against_the_document() -> None:
    if document() is None:
        pytest.skip("RunPod's OpenAPI document is not at hand")
    assert violations("CreatePodRequest", {"name": "a", "image": "b"}) == []
    assert violations("CreatePodRequest", {"name": "a", "image": "b", "nonsense": 1}) != []
    assert violations("CreatePodRequest", {"name": "a"}) != []


def test_the_next_is_taken_where_one_is_not_to_be_had(
    outside: World, runpod: RunPodServer, caplog: pytest.LogCaptureFixture
) -> None:
    runpod.sold_out.add("NVIDIA L4")
    runpod.forbidden.add("NVIDIA RTX A5000")
    run = submit(outside)
    # Another price was announced.
    assert caplog.messages[-1] == (
        "RunPod gives NVIDIA GeForce RTX 4090 in US-KS-2, $0.70 an hour: at most $4.34 "
        "(NVIDIA L4 would have been $2.48)."
    )
    pod = runpod.pod(f"kaggleops-{run.run_id}")
    assert pod.body["gpu"]["id"] == "NVIDIA GeForce RTX 4090"
    assert runpod.count("createPod") == 5  # two of them in two data centers
    # Of the volumes that were made on the way, the pod's is left.
    assert [each["dataCenter"] for each in runpod.volumes.values()] == ["US-KS-2"]


def test_a_pod_that_is_dearer_than_announced_is_told(
    outside: World, runpod: RunPodServer, caplog: pytest.LogCaptureFixture
) -> None:
    runpod.dearer = 3
    run = submit(outside)
    assert run.tags["price_per_hour"] == "1.2"
    assert "$1.20 an hour: at most $7.44" in caplog.messages[-1]


def test_one_that_was_sold_since_it_was_announced_is_told(
    outside: World,
    runpod: RunPodServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = backend_named("runpod")
    config = backend.read_config({"gpus": ["NVIDIA L4", "NVIDIA GeForce RTX 4090"]}, "a test")
    assert backend.announce(config).startswith("NVIDIA L4 in ")
    monkeypatch.setitem(runpod.stock, "NVIDIA L4", {})
    backend.submit(find_commit(outside.repository.folder), Launch(TRACKING), config)
    assert "RTX 4090 in US-KS-2, $0.70 an hour: at most $4.34 (NVIDIA L4" in caplog.messages[-1]


def test_a_pod_that_is_too_dear_and_stays_is_told_and_never_taken(
    outside: World, runpod: RunPodServer
) -> None:
    before = runs(outside)
    runpod.dearer = 3
    runpod.fail(503, times=None, op="deletePod")
    fields: dict[str, Any] = {"gpus": ["NVIDIA L4"], "budget": 3.0}
    with pytest.raises(KaggleOpsError) as told:
        submit(outside, **fields)
    run_id, (dear,) = newest(outside, before), runpod.alive
    said = str(told.value)
    assert f"deleting pod {dear.id}: it costs $1.20 an hour, more than the budget" in said
    assert "is still there (RunPod has a fault (503))" in said
    assert f"To end it: kaggleops cancel {run_id}, and kaggleops reap" in said
    with pytest.raises(KaggleOpsError, match=r"more than the budget allows, and is still there"):
        again(run_id, **fields)
    runpod.heal()
    again(run_id, **fields)
    assert [(pod.id == dear.id, pod.price) for pod in runpod.alive] == [(False, 0.4)]


@pytest.mark.parametrize(
    ("trouble", "problem", "tries"),
    [
        ({"funds": False}, "insufficient balance", 1),
        ({"sold_out": {"NVIDIA L4"}}, "no instances currently available", 2),
        ({"forbidden": {"NVIDIA L4"}}, "access denied", 2),
    ],
)
def test_what_runpod_refuses_has_failed(
    outside: World, runpod: RunPodServer, trouble: dict[str, Any], problem: str, tries: int
) -> None:
    before = runs(outside)
    for name, value in trouble.items():
        setattr(runpod, name, value)
    with pytest.raises(RefusedError, match=problem):
        submit(outside, gpus=["NVIDIA L4"])
    run = outside.run(newest(outside, before))
    assert run.info.status == "FAILED"
    assert problem in run.data.tags["job_ended"]
    assert runpod.count("createPod") == tries
    assert (runpod.alive, runpod.volumes) == ([], {})


def test_a_body_that_runpod_no_longer_takes(outside: World, runpod: RunPodServer) -> None:
    before = runs(outside)
    runpod.fail(422, op="createPod")
    with pytest.raises(RefusedError, match="something is wrong"):
        submit(outside)
    assert outside.run(newest(outside, before)).info.status == "FAILED"
    assert (runpod.alive, runpod.volumes) == ([], {})


def test_answers_that_are_lost(outside: World, runpod: RunPodServer) -> None:
    runpod.fail("lost-response", op="createPod")
    run = submit(outside)
    assert [pod.id for pod in runpod.alive] == [run.tags["runpod_pod"]]

    # Nobody knows whether this one arrived: it has not.
    before = runs(outside)
    runpod.fail(503, op="createPod")
    with pytest.raises(KaggleOpsError, match=r"Then go on with the run: kaggleops resume"):
        submit(outside)
    lost = newest(outside, before)
    assert outside.run(lost).info.status == "SCHEDULED"
    said = f"no pod yet: if it is yours and its submit failed, kaggleops resume {lost[:8]}"
    assert str(submitted_run(TRACKING, lost).state()) == said
    assert again(lost).get_status() == "SCHEDULED"
    assert len(runpod.alive) == 2
    # And this one is there already.
    assert again(lost).get_status() == "SCHEDULED"
    assert len(runpod.alive) == 2


@pytest.mark.slow  # a minute each, until the client gives the request up
def test_an_answer_that_never_comes(outside: World, runpod: RunPodServer) -> None:
    late = runpod.fail("late", op="createPod")  # the pod is there all the same
    run = submit(outside)
    assert (late.hits, [pod.id for pod in runpod.alive]) == (1, [run.tags["runpod_pod"]])

    before = runs(outside)
    hanging = runpod.fail("hang", op="createPod")
    with pytest.raises(KaggleOpsError, match=r"Then go on with the run: kaggleops resume"):
        submit(outside)
    lost = newest(outside, before)
    assert (hanging.hits, len(runpod.alive)) == (1, 1)
    hanging.release()  # and now it arrives after all
    runpod.pod(f"kaggleops-{lost}")
    # Whoever goes on with the run takes that pod, and makes no second one.
    assert again(lost).get_status() == "SCHEDULED"
    assert len(runpod.alive) == 2


def test_a_request_too_many_is_made_again_when_runpod_says(
    outside: World, runpod: RunPodServer
) -> None:
    busy = runpod.fail(429, retry_after=1)
    submit(outside)
    assert busy.hits == 1


def test_a_pod_that_vanished_has_failed(outside: World, runpod: RunPodServer) -> None:
    run = submit(outside)
    pod = runpod.pod(f"kaggleops-{run.run_id}")
    pod.delete()
    assert run.get_status() == "FAILED"
    # As one whose secret is not there does, after the pod's own end.
    assert run.tags["job_ended"].startswith("TERMINATED: the bucket has heard nothing of it: ")
    with pytest.raises(KaggleOpsError, match=r"none left its log.*credentials create runpod"):
        list(run.logs(follow=True))
    resumed = again(run.run_id)
    assert resumed.get_status() == "SCHEDULED"
    # As one does whose leg has ended: that it has told the bucket.
    BucketTrackingStore(TRACKING).set_tag(run.run_id, RunTag(TO_BE_CONTINUED, "from step 1"))
    runpod.pod(f"kaggleops-{run.run_id}").delete()
    assert str(resumed.state()) == "TERMINATED"
    resumed = again(run.run_id)
    runpod.pod(f"kaggleops-{run.run_id}").stop()
    assert resumed.get_status() == "FAILED"
    # One that was stopped is not started again: another takes its place.
    again(run.run_id)
    assert len(runpod.alive) == 1
    resumed.cancel()
    assert resumed.clean_up()
    assert runpod.alive == []
    assert not resumed.clean_up()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"gpus": ["NVIDIA L3"]}, "It has: NVIDIA GeForce RTX 4090, NVIDIA H100 PCIe"),
        ({"cloud": "COMMUNITY"}, "no network volumes: leave it empty"),
        ({"hours": 0}, "hours: 0: input should be greater than 0"),
        ({"hours": float("inf")}, "less than or equal to 168"),
        ({"budget": 0}, "budget: 0: input should be greater than 0"),
        ({"min_cuda": "12"}, "min_cuda: '12': string should match"),
        ({"image": ""}, "name it, or a template"),
        ({"keep": True}, "there is no public SSH key"),
        ({"ports": ["6006"]}, "'6006': string should match"),
        ({"env": {"WANDB_API_KEY": "in plain text"}}, "WANDB_API_KEY is called like a secret"),
        (
            {"env": {"KAGGLE_JSON": secrets_of.KAGGLE_KEY}},
            r"KAGGLE_JSON holds a secret \(Kaggle key",
        ),
        ({"env": {"KAGGLEOPS_KEY": "x"}}, "'KAGGLEOPS_KEY' cannot be a variable of yours"),
        # No value of theirs is repeated, which may be a secret that looks like none.
        ({"env": {f"A{n}": "x" for n in range(47)}}, "env: dictionary should have at most 46"),
        ({"env": "WANDB_API_KEY=in plain text"}, "env: input should be a valid dictionary"),
        ({"setup": "/nowhere.sh"}, "No such file"),
    ],
)
def test_a_configuration_that_cannot_be_meant(
    outside: World, runpod: RunPodServer, fields: dict[str, object], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        submit(outside, **fields)
    assert runpod.count("createPod") == 0


def test_a_machine_without_a_key(
    runpod: RunPodServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    done = here("quota", "-b", "runpod")
    assert (done.code, "there is no API key" in done.error) == (2, True)
    # RunPod's own command has put one here.
    (tmp_path / ".runpod").mkdir()
    (tmp_path / ".runpod/config.toml").write_text(f"apikey = '{secrets_of.RUNPOD_KEY}'\n")
    assert here("quota", "-b", "runpod").code == 0
    monkeypatch.setenv("RUNPOD_API_KEY", "nonsense")
    assert "does not accept the API key" in here("quota", "-b", "runpod").error
