"""What a pod costs is said before, bounded, and ended: by the pod, or by whoever reaps."""

import time
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import pytest

from kaggleops.backends.colab.cli import ColabConfig
from kaggleops.backends.colab.supervisor import Job, plan_of
from kaggleops.backends.interface import RefusedError
from kaggleops.backends.lookup import backend_named
from kaggleops.backends.ready_notebook import ready_notebook
from kaggleops.tracking.store import BucketTrackingStore
from tests.fakes.runpod_server import RunPodServer

from .runpod_jobs import change, runs, submit
from .test_commands import here
from .world import BUCKET, TRACKING, World

BUCKET_OPTION = ("--bucket", BUCKET)


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


def test_nothing_is_free(outside: World, runpod: RunPodServer) -> None:
    with pytest.raises(RefusedError, match="none of NVIDIA H100 PCIe is free"):
        submit(outside, gpus=["NVIDIA H100 PCIe"])


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
    assert (
        "has no option --budget"
        in here("run", "-b", "kaggle", "--budget", "1", *BUCKET_OPTION).error
    )
    kept = here("run", "--keep", *BUCKET_OPTION).error
    assert "reading --keep: it is for a run on another machine" in kept

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


def test_the_doctor_says_how_many_pods_there_are(outside: World, runpod: RunPodServer) -> None:
    backend, said = backend_named("runpod"), []
    config = backend.read_config({}, "a test")
    for _ in range(2):
        submit(outside)
        said += [each.said for each in backend.examine(config)]
    assert said == ["the API key is good; 1 pod is there", "the API key is good; 2 pods are there"]


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
    assert "belongs to a run" in here("reap", *BUCKET_OPTION).output
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
    assert (free.code, "Nothing to delete." in free.output) == (0, True)

    # As in a cron that knows no key.
    monkeypatch.setenv("RUNPOD_API_KEY", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    done = here("reap", *BUCKET_OPTION)
    assert (done.code, done.output) == (1, "")
    assert "skipped: signing in to RunPod: there is no API key" in done.errors
    assert "no platform could be checked" in done.errors
    machine = here("reap", *BUCKET_OPTION, "--json")
    assert machine.code == 1
    assert [each["backend"] for each in machine.json["passed_over"]] == ["runpod"]
    assert here("reap", "-b", "runpod", *BUCKET_OPTION).code == 2
    # Colab can be asked where it has had a job, and that says nothing of RunPod.
    job = Job.of("0" * 32)
    notebook = ready_notebook({"bucket": BUCKET, "run_id": "0" * 32})
    job.prepare(plan_of(notebook, ColabConfig()))
    job.note(status="FINISHED")
    done = here("reap", *BUCKET_OPTION)
    assert (done.code, done.output) == (0, "Checked: colab. Not checked: runpod.\n")
    job.remove()
