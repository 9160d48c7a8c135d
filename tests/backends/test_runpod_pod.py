"""What the start script of a pod promises: the job runs once, and no pod outlives it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.runpod_server import RunPodServer

from .light_pods import LightPods, light_pods, soon


@pytest.fixture
def pods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LightPods]:
    toys = {"PYTHONPATH": str(tmp_path / "toys")}
    with RunPodServer(tmp_path / "runpod", toys) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield light_pods(tmp_path, server)
        assert server.alive == []


def test_a_job_is_reported_and_its_pod_deleted(pods: LightPods) -> None:
    first = pods.create("ends")
    first.wait()
    (report,) = pods.reports
    assert (report["code"], report["run_id"], report["bucket"]) == (0, "0" * 32, "gs://b")
    assert 0 < report["cost"] < 0.40  # an hour's price
    assert report["log"] == first.text + "\n"
    assert "the job begins" in report["log"]
    # A job can delete no pod, and needs none of what started it.
    names = set((pods.word / "variables").read_text().split("\n"))
    assert not {"RUNPOD_API_KEY", "KAGGLEOPS_START", "KAGGLEOPS_JOB"} & names
    assert {"HF_HOME", "PIP_CACHE_DIR", "KAGGLEOPS_KEY"} <= names
    assert first.volume
    mark = first.volume / "kaggleops/pods" / first.id
    assert [each.name for each in mark.iterdir()] == ["begun"]

    second = pods.create("fails")
    second.wait()
    assert pods.reports[1]["code"] == 3
    assert ("made in" in first.text, "made in" in second.text) == (True, False)
    assert "kept on the volume" in second.text
    assert pods.jobs == [first.id, second.id]


@pytest.mark.parametrize("volume", [True, False])
def test_a_container_that_is_started_again_runs_no_job(pods: LightPods, volume: bool) -> None:
    pod = pods.create("waits", volume=volume)
    pod.wait_for_log("the kernel waits")
    pod.crash()
    pod.wait()
    assert pod.starts == 2
    assert pods.jobs == [pod.id]
    assert [report["code"] for report in pods.reports] == [None]


@pytest.mark.parametrize(("toy", "words"), [("waits", True), ("is deaf", False)])
def test_at_the_deadline_the_job_is_ended(pods: LightPods, toy: str, words: bool) -> None:
    pods.create(toy, deadline=soon(), grace=20 if words else 0.5).wait()
    (report,) = pods.reports
    assert report["code"] == 124
    assert "Its time is up." in report["log"]
    assert ("the last words" in report["log"]) == words


def test_a_bucket_that_does_not_answer_keeps_no_pod(pods: LightPods) -> None:
    pod = pods.create("has no bucket", patience=1.5, grace=0.5)
    pod.wait()
    assert pod.volume
    # What could not be sent outlives the pod.
    assert (pod.volume / "kaggleops/pods" / pod.id / "work/home").is_dir()


def test_runpod_is_asked_until_the_pod_is_deleted(pods: LightPods) -> None:
    refused = pods.server.fail(500, times=1, op="deletePod")
    broken = pods.server.fail("reset", times=1, op="deletePod")
    pod = pods.create("ends")
    pod.wait()
    assert (refused.hits, broken.hits) == (1, 1)
    assert pods.jobs == [pod.id]
    assert "cannot be deleted" in pod.text


def test_a_deletion_whose_answer_is_lost(pods: LightPods) -> None:
    pods.server.fail("lost-response", op="deletePod")
    pods.create("ends").wait()


@pytest.mark.parametrize(
    "job",
    [{"packages": ["./nowhere"]}, {"notebook": "nonsense"}, {"deadline": "soon"}],
)
def test_a_job_that_cannot_begin_keeps_no_pod(pods: LightPods, job: dict[str, object]) -> None:
    pods.create("ends", **job).wait()


def test_a_wrapper_that_hangs_keeps_no_pod(pods: LightPods) -> None:
    pods.create("breaks the wrapper", deadline=soon(), grace=0.1, patience=0.1).wait()
    assert not (pods.word / "reports").exists()


def test_one_that_is_kept_is_deleted_at_its_deadline(pods: LightPods) -> None:
    pods.create("ends", keep=True, deadline=soon()).wait()
    (report,) = pods.reports
    assert report["code"] == 0
