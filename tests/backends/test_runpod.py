"""What only RunPod does: it sells out, refuses, forgets to answer, and costs money."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import pytest

from kaggleops.backends.base import RefusedError
from kaggleops.backends.colab.config import ColabConfig
from kaggleops.backends.colab.job import Job
from kaggleops.backends.finding import backend_named
from kaggleops.backends.ready_notebook import ready_notebook
from kaggleops.backends.remote_run import RemoteRun
from kaggleops.backends.resuming import resume
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.project.git import find_commit
from kaggleops.project.launch import Launch
from kaggleops.tracking.store import BucketTrackingStore
from tests.fakes.runpod.contract import document, violations
from tests.fakes.runpod_server import RunPodServer

from .test_commands import here
from .world import BUCKET, TRACKING, World

BUCKET_OPTION = ("--bucket", BUCKET)


@pytest.fixture
def runpod(
    outside: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunPodServer]:
    """A RunPod whose pods wait for a machine for ever."""
    with RunPodServer(tmp_path / "runpod") as server:
        server.held = True
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


def submit(outside: World, **fields: Any) -> RemoteRun:
    backend = backend_named("runpod")
    config = backend.read_config(fields, "a test")
    return backend.submit(find_commit(outside.repository.folder), Launch(TRACKING), config)


def again(run_id: str, **fields: Any) -> RemoteRun:
    backend = backend_named("runpod")
    return resume(backend, TRACKING, run_id, backend.read_config(fields, "a test"))


def runs(outside: World) -> set[str]:
    keys = [key.split("/") for key in outside.gcs.objects("our-bucket")]
    found = [key[2] for key in keys if key[0] == "mlruns" and len(key) == 3]
    return {name.removesuffix(".tar.gz") for name in found}


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
    assert job["install_from"] == "a.whl"
    tags = run.tags
    assert (tags["runpod_pod"], tags["price_per_hour"]) == (pod.id, "0.8")
    assert run.page == f"https://console.runpod.io/pods?id={pod.id}"
    state = run.state()
    assert str(state) == "PROVISIONING, $0.80/h"

    # The volume is there now: its data center counts more than where most are free.
    other = submit(outside, gpus=["rtx a5000"])
    assert runpod.pod(f"kaggleops-{other.run_id}").data_center == "EU-RO-1"
    assert len(runpod.volumes) == 1


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


def test_the_next_is_taken_where_one_is_not_to_be_had(outside: World, runpod: RunPodServer) -> None:
    runpod.sold_out.add("NVIDIA L4")
    runpod.forbidden.add("NVIDIA RTX A5000")
    run = submit(outside)
    pod = runpod.pod(f"kaggleops-{run.run_id}")
    assert pod.body["gpu"]["id"] == "NVIDIA GeForce RTX 4090"
    assert runpod.count("createPod") == 5  # two of them in two data centers
    # Of the volumes that were made on the way, the pod's is left.
    assert [each["dataCenter"] for each in runpod.volumes.values()] == ["US-KS-2"]


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
    assert run.tags["job_ended"] == "TERMINATED"
    with pytest.raises(KaggleOpsError, match="none left its log"):
        list(run.logs(follow=True))
    resumed = again(run.run_id)
    assert resumed.get_status() == "SCHEDULED"
    runpod.pod(f"kaggleops-{run.run_id}").stop()
    assert resumed.get_status() == "FAILED"
    # One that was stopped is not started again: another takes its place.
    again(run.run_id)
    assert len(runpod.alive) == 1
    resumed.cancel()
    assert resumed.clean_up()
    assert runpod.alive == []
    assert not resumed.clean_up()


def test_no_pod_costs_more_than_the_budget(outside: World, runpod: RunPodServer) -> None:
    runpod.dearer = 2.0
    with pytest.raises(RefusedError, match=r"\$0\.50 an hour, more than the budget"):
        submit(outside, budget=2.0)
    assert (runpod.alive, runpod.volumes) == ([], {})  # nor a volume that was made for it
    runpod.dearer = 1.0
    before = runs(outside)
    # A pod may take twelve minutes to end, which are paid for.
    with pytest.raises(RefusedError, match=r"and 12 min to end cost up to \$1\.55") as caught:
        submit(outside, budget=1.5)
    assert "hours: 5.8." in str(caught.value)
    with pytest.raises(RefusedError, match="It is enough for none"):
        submit(outside, budget=0.05)
    assert runs(outside) == before
    cheap = submit(outside, budget=2.0)
    assert runpod.pod(f"kaggleops-{cheap.run_id}").body["gpu"]["id"] == "NVIDIA RTX A5000"
    cheap.cancel()
    cheap.clean_up()
    # What the catalogue does not say: it is seen before the pod has done anything.
    runpod.dearer = 2.0
    with pytest.raises(RefusedError, match=r"\$0\.50 an hour, more than the budget"):
        submit(outside, budget=2.0)
    assert runpod.alive == []


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"gpus": ["NVIDIA L3"]}, "It has: NVIDIA GeForce RTX 4090, NVIDIA H100 PCIe"),
        ({"gpus": []}, "gpus: .*name one at least"),
        ({"cloud": "COMMUNITY"}, "no network volumes: leave it empty"),
        ({"hours": 0}, "hours: 0.0: it is more than 0"),
        ({"hours": 1e9}, "and 168 at most"),
        ({"hours": float("inf")}, "and 168 at most"),
        ({"hours": float("nan")}, "and 168 at most"),
        ({"budget": 0}, "budget: 0.0: it is more than 0"),
        ({"volume_gb": 5}, "between 10 and 4096"),
        ({"min_cuda": "12"}, "of the form 12.8"),
        ({"image": ""}, "name it, or a template"),
        ({"keep": True}, "there is no public SSH key"),
    ],
)
def test_a_configuration_that_cannot_be_meant(
    outside: World, runpod: RunPodServer, fields: dict[str, object], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        submit(outside, **fields)
    assert runpod.count("createPod") == 0


def test_nothing_is_free(outside: World, runpod: RunPodServer) -> None:
    with pytest.raises(RefusedError, match="none of NVIDIA H100 PCIe is free"):
        submit(outside, gpus=["NVIDIA H100 PCIe"])


def test_a_machine_without_a_key(
    runpod: RunPodServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    done = here("quota", "-b", "runpod")
    assert (done.code, "there is no API key" in done.error) == (2, True)
    # RunPod's own command has put one here.
    (tmp_path / ".runpod").mkdir()
    (tmp_path / ".runpod/config.toml").write_text("apikey = 'rpa_ada'\n")
    assert here("quota", "-b", "runpod").code == 0
    monkeypatch.setenv("RUNPOD_API_KEY", "nonsense")
    assert "does not accept the API key" in here("quota", "-b", "runpod").error


def test_the_commands_say_what_it_costs(
    outside: World, runpod: RunPodServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(outside.repository.folder)
    prices = here("quota", "-b", "runpod", "--json").json["prices"]
    assert [(each["resource"], each["per_hour"], each["free"]) for each in prices[:2]] == [
        ("NVIDIA RTX A5000", 0.25, "medium"),
        ("NVIDIA L4", 0.40, "high"),
    ]
    assert prices[-1]["free"] == ""
    assert "$0.25" in here("quota", "-b", "runpod").output

    over = here("run", "-b", "runpod", "--budget", "1", *BUCKET_OPTION)
    assert (over.code, "more than the budget of $1.00" in over.error) == (1, True)
    assert "takes no --budget" in here("run", "-b", "kaggle", "--budget", "1", *BUCKET_OPTION).error
    assert "for machines that cost money" in here("run", "--keep", *BUCKET_OPTION).error

    runpod.ssh_keys.append("ssh-ed25519 AAAA ada")
    done = here("run", "-b", "runpod", "--budget", "3", "--keep", *BUCKET_OPTION, "--json")
    assert (
        "NVIDIA L4 in EU-RO-1, $0.40 an hour: at most $2.48 in 6 h and 12 min to end, kept until "
        "then; the volume kaggleops (50 GB), about $3.50 a month until you delete it"
    ) in done.errors
    assert (done.json["price_per_hour"], done.json["status"]) == (0.4, "SCHEDULED")
    run_id = done.json["run_id"]
    pod = runpod.pod(f"kaggleops-{run_id}")
    assert (pod.body["startSsh"], pod.body["ports"]) == (True, ["22/tcp"])
    pod.starts = 1
    (row,) = here("status", run_id, *BUCKET_OPTION, "--json").json["runs"]
    assert (row["price_per_hour"], row["cost_usd"]) == (0.4, None)
    assert row["platform"] == "PROVISIONING, $0.40/h, ssh root@192.0.2.7 -p 34446"
    here("cancel", run_id, *BUCKET_OPTION)

    # Its job has ended, and the pod is kept: that costs money, named or not.
    for named in ([run_id], []):
        rows = here("status", *named, *BUCKET_OPTION, "--json").json["runs"]
        (row,) = [each for each in rows if each["run_id"] == run_id]
        assert (row["status"], row["price_per_hour"]) == ("KILLED", 0.4)
        assert row["platform"].endswith("ssh root@192.0.2.7 -p 34446")
    pod.delete()
    # Anybody may have written a tag.
    mlflow.MlflowClient(TRACKING).set_tag(run_id, "kept_until", "noon")
    BucketTrackingStore(TRACKING).flush()
    (row,) = here("status", run_id, *BUCKET_OPTION, "--json").json["runs"]
    assert here("status", *BUCKET_OPTION).code == 0
    assert (row["status"], row["price_per_hour"], row["platform"]) == ("KILLED", None, "")


def test_what_is_over_is_reaped(outside: World, runpod: RunPodServer) -> None:
    at_work, ended, late = (submit(outside) for _ in range(3))
    elsewhere = submit(outside)
    stranger = dict(runpod.pod(f"kaggleops-{at_work.run_id}").body, name="somebody's")
    backend = backend_named("runpod")
    backend._runpod.create_pod(stranger)  # type: ignore[attr-defined]
    ended.cancel()
    change(runpod, late, deadline=time.time() - 3600)
    change(runpod, elsewhere, bucket="gs://another")
    gone = [runpod.pod(f"kaggleops-{each.run_id}").id for each in (ended, late)]
    found = {gone[0]: "its run is KILLED", gone[1]: "its time is up"}

    looked = here("reap", *BUCKET_OPTION, "--dry-run", "--json").json
    assert {each["machine"]: each["why"] for each in looked["machines"]} == found
    assert len(runpod.alive) == 5

    runpod.fail(403, times=None, op="deletePod")
    failed = here("reap", *BUCKET_OPTION, "--json")
    assert failed.code == 1
    assert "($0.40/h) was not deleted: " in failed.errors
    assert len(runpod.alive) == 5
    runpod.heal()

    done = here("reap", *BUCKET_OPTION)
    assert (done.code, "($0.40/h): its time is up" in done.output) == (0, True)
    assert {pod.id for pod in runpod.alive}.isdisjoint(gone)
    assert len(runpod.alive) == 3
    assert late.get_status() == "FAILED"
    assert "has its work" in here("reap", *BUCKET_OPTION).output
    # Nobody must believe that nothing costs money only because RunPod did not say so.
    runpod.fail(403, op="listPods")
    assert here("reap", *BUCKET_OPTION).code == 1


def test_a_pod_that_never_begins_is_pointed_at_and_reaped(
    outside: World, runpod: RunPodServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(outside.repository.folder)
    slow, broken, at_work = (submit(outside) for _ in range(3))
    for run, minutes in ((slow, 50), (broken, 70), (at_work, 70)):
        pod = runpod.pod(f"kaggleops-{run.run_id}")
        pod.created = datetime.fromtimestamp(time.time() - minutes * 60, UTC).isoformat()
    mlflow.MlflowClient(TRACKING).update_run(at_work.run_id, "RUNNING")
    BucketTrackingStore(TRACKING).flush()

    rows = here("status", *BUCKET_OPTION, "--json").json["runs"]
    said = {each["run_id"]: each["platform"] for each in rows}
    assert said[slow.run_id] == said[at_work.run_id] == "PROVISIONING, $0.40/h"
    told = "PROVISIONING: it should have begun: `kaggleops reap -b runpod`, $0.40/h"
    assert said[broken.run_id] == told
    told = "3 machines cost $1.20 an hour now: `kaggleops reap -b runpod` deletes what is over"
    assert told in here("quota", "-b", "runpod").output
    (billed,) = here("quota", "-b", "runpod", "--json").json["machines"]
    assert billed["count"] == 3
    assert told in here("run", "-b", "runpod", "--budget", "9", *BUCKET_OPTION).errors

    (found,) = here("reap", "-b", "runpod", *BUCKET_OPTION, "--json").json["machines"]
    assert (found["run_id"], found["why"]) == (broken.run_id, "it did not begin within 60 minutes")
    assert broken.get_status() == "FAILED"
    assert len(runpod.alive) == 3


def test_nobody_hears_that_all_is_well_who_could_not_ask(
    outside: World, runpod: RunPodServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = submit(outside)
    change(runpod, late, deadline=time.time() - 3600)
    # What is over without a word of the bucket is deleted all the same.
    typo = here("reap", "--bucket", "gs://our-bukket", "--json")
    assert (typo.code, "our-bukket" in typo.json["problems"][0]) == (1, True)
    assert [each["run_id"] for each in typo.json["machines"]] == [late.run_id]
    assert runpod.alive == []

    free = here("reap", "-b", "kaggle", *BUCKET_OPTION)
    assert (free.code, "No machine there costs money." in free.output) == (0, True)

    # As in a cron that knows no key.
    monkeypatch.setenv("RUNPOD_API_KEY", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    done = here("reap", *BUCKET_OPTION)
    assert (done.code, done.output) == (1, "")
    assert "passed over: signing in to RunPod: there is no API key" in done.errors
    assert "nobody could be asked" in done.errors
    machine = here("reap", *BUCKET_OPTION, "--json")
    assert machine.code == 1
    assert [each["backend"] for each in machine.json["passed_over"]] == ["runpod"]
    assert here("reap", "-b", "runpod", *BUCKET_OPTION).code == 2
    # Colab can be asked where it has had a job, and that says nothing of RunPod.
    job = Job(Job.folder_of("0" * 32))
    job.create(ready_notebook({"bucket": BUCKET, "run_id": "0" * 32}), ColabConfig())
    job.note(status="FINISHED")
    done = here("reap", *BUCKET_OPTION)
    assert (done.code, done.output) == (0, "Asked: colab. Nobody knows of runpod.\n")
    job.remove()


def change(runpod: RunPodServer, run: RemoteRun, **job: Any) -> None:
    """Let a pod have been made to do something else."""
    environment = runpod.pod(f"kaggleops-{run.run_id}").body["env"]
    given = json.loads(environment["KAGGLEOPS_JOB"])
    environment["KAGGLEOPS_JOB"] = json.dumps(given | job)
