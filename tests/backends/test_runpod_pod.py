"""What the start script of a pod promises: the job runs once, and no pod outlives it."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kaggleops.backends.runpod.client import RunPod
from tests.conftest import unavailable
from tests.fakes.runpod_server import RunPodServer
from tests.warm import passed_on

from .light_pods import LightPods, light_pods


@pytest.fixture(scope="module")
def of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LightPods]:
    """One volume for all tests: an environment on it is made once."""
    folder = tmp_path_factory.mktemp("pods")
    toys = passed_on(str(folder / "toys"))
    with RunPodServer(folder / "runpod", toys) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        yield light_pods(folder, server)


@pytest.fixture
def pods(of_all: LightPods, tmp_path: Path) -> Iterator[LightPods]:
    yield replace(of_all, word=tmp_path)
    of_all.server.heal()
    of_all.server.image = None
    assert of_all.server.alive == []


def test_a_job_is_reported_and_its_pod_deleted(pods: LightPods) -> None:
    first = pods.create("ends", image="another")
    first.wait()
    (report,) = pods.reports
    assert (report["code"], report["run_id"], report["bucket"]) == (0, "0" * 32, "gs://b")
    assert 0 < report["cost"] < 0.40  # an hour's price
    assert report["log"] == first.text + "\n"
    assert "the job begins" in report["log"]
    # A job can delete no pod, and needs none of what started it.
    names = set((pods.word / "variables").read_text().split("\n"))
    assert not {"RUNPOD_API_KEY", "KAGGLEOPS_BEGIN", "KAGGLEOPS_START", "KAGGLEOPS_JOB"} & names
    assert {"HF_HOME", "PIP_CACHE_DIR", "KAGGLEOPS_KEY"} <= names
    assert first.volume
    mark = first.volume / "kaggleops/pods" / first.id
    assert {each.name for each in mark.iterdir()} == {"begun", "told"}

    # It costs from when it was asked for, however long its image was pulled.
    second = pods.create("fails", image="another", asked=time.time() - 1800)
    second.wait()
    assert 0.20 < pods.reports[1]["cost"] < 0.40
    assert pods.reports[1]["code"] == 3
    assert ("made in" in first.text, "made in" in second.text) == (True, False)
    assert "kept on the volume" in second.text
    assert pods.jobs == [first.id, second.id]


def test_a_script_of_ones_own_comes_first_and_what_it_leaves_runs_on(pods: LightPods) -> None:
    setup = "echo prepared; sleep 600 & echo $! > $WORD/server"
    pod = pods.create("waits", setup=setup)
    pod.wait_for_log("the kernel waits")
    assert pod.text.index("prepared") < pod.text.index("Environment") < pod.text.index("the job")
    os.kill(int((pods.word / "server").read_text()), 0)
    pod.delete()
    pod.wait()


def test_where_it_fails_the_run_does(pods: LightPods) -> None:
    pod = pods.create("ends", setup="echo no such package; exit 7", secrets=["KAGGLE_KEY"])
    pod.wait()
    (report,) = pods.reports
    assert report["code"] == 7
    assert "no such package\nThe set-up script ended with 7." in report["log"]
    assert pods.jobs == []


@pytest.mark.parametrize("volume", [True, False])
def test_a_container_that_is_started_again_runs_no_job(pods: LightPods, volume: bool) -> None:
    pod = pods.create("waits", volume=volume)
    pod.wait_for_log("the kernel waits")
    pod.crash()
    pod.wait()
    assert pod.starts == 2
    assert pods.jobs == [pod.id]
    assert [report["code"] for report in pods.reports] == [None]


def test_a_bucket_that_does_not_answer_keeps_no_pod(pods: LightPods) -> None:
    pod = pods.create("has no bucket", patience=1.5, grace=0.5)
    pod.wait()
    assert pod.volume
    # What could not be sent outlives the pod.
    assert (pod.volume / "kaggleops/pods" / pod.id / "work/log.txt").is_file()


def test_runpod_is_asked_until_the_pod_is_deleted(pods: LightPods) -> None:
    refused = pods.server.fail(500, times=1, op="deletePod")
    broken = pods.server.fail("reset", times=1, op="deletePod")
    pod = pods.create("ends")
    pod.wait()
    assert (refused.hits, broken.hits) == (1, 1)
    assert pods.jobs == [pod.id]
    assert "cannot be deleted" in pod.text


def test_a_crash_after_the_report_is_not_reported(pods: LightPods) -> None:
    pods.server.fail(500, op="deletePod", then=lambda: list(pods.server.pods.values())[-1].crash())
    pod = pods.create("ends")
    pod.wait()
    assert (pod.starts, pods.jobs, len(pods.reports)) == (2, [pod.id], 1)


def test_a_deletion_whose_answer_is_lost(pods: LightPods) -> None:
    pods.server.fail("lost-response", op="deletePod")
    pods.create("ends").wait()


@pytest.mark.parametrize(
    "job",
    [{"packages": ["./nowhere"]}, {"notebook": "nonsense"}, {"deadline": "soon"}],
)
def test_a_job_that_cannot_begin_keeps_no_pod(pods: LightPods, job: dict[str, object]) -> None:
    pods.create("ends", **job).wait()
    assert pods.jobs == []
    if "deadline" not in job:
        (report,) = pods.reports
        said = "nowhere" if "packages" in job else "Traceback"
        assert (report["code"], said in report["log"]) == (1, True)


@pytest.mark.parametrize("has", ["curl", "an old Python"])
def test_an_image_that_cannot_run_the_script_keeps_no_pod(
    pods: LightPods, tmp_path: Path, has: str
) -> None:
    pods.server.image = {name: program(name) for name in ("sh", "sleep")}
    if has == "curl":
        pods.server.image["curl"] = program("curl")
    else:
        old = tmp_path / "python3"
        fails = 'case "$*" in *version_info*) exit 1;; esac'
        old.write_text(f'#!/bin/sh\n{fails}\nexec {sys.executable} "$@"\n')
        old.chmod(0o755)
        pods.server.image["python3"] = old
    pod = pods.create("ends")
    pod.wait()
    assert "The image has no Python 3.11 or newer" in pod.text
    assert (pod.starts, pods.jobs) == (1, [])


def test_an_image_without_a_shell_is_for_others_to_delete(pods: LightPods) -> None:
    pods.server.image = {}
    pod = pods.create("ends")
    pod.wait_for_starts(2)
    assert (pod.status, pod.alive) == ("STARTING", True)
    assert RunPod().delete_pod(pod.id)
    pod.wait()


def program(name: str) -> Path:
    """Return where this machine has a program."""
    found = shutil.which(name)
    if found is None:
        unavailable(f"there is no {name}")
    return Path(found)


def test_no_pod_outlives_its_deadline(pods: LightPods) -> None:
    """They wait for it side by side, and need no environment made by then."""
    pods.create("ends").wait()
    deadline = time.time() + 30  # by which all have surely begun
    gentle = pods.create("waits", deadline=deadline, grace=20)
    deaf = pods.create("is deaf", deadline=deadline, grace=0.5)
    hanging = pods.create("breaks the wrapper", deadline=deadline, grace=0.1, patience=0.1)
    kept = pods.create("ends", deadline=deadline, keep=True)
    for each in (gentle, deaf, hanging, kept):
        each.wait()
    _, *later = pods.reports
    reports = {report["pod"]: report for report in later}
    assert set(reports) == {gentle.id, deaf.id, kept.id}
    # That of the job alone, and when the pod ends that of all its time.
    job, whole = [report for report in later if report["pod"] == kept.id]
    assert whole["cost"] > job["cost"]
    assert kept.volume
    begun = float((kept.volume / "kaggleops/pods" / kept.id / "begun").read_text())
    assert whole["cost"] >= 0.40 * (deadline - begun) / 3600
    assert whole["log"] == job["log"] == kept.text + "\n"
    assert [reports[each.id]["code"] for each in (gentle, deaf, kept)] == [124, 124, 0]
    assert "Its time is up." in deaf.text
    assert "the last words" in reports[gentle.id]["log"]
    assert "the last words" not in deaf.text
    # The image's own start lets people in. It tells them no secrets.
    started = (kept.volume / "started-by-image").read_text()
    names = {each.split("=")[0] for each in started.split("\0")}
    assert "RUNPOD_POD_ID" in names
    assert not {"KAGGLEOPS_KEY", "KAGGLEOPS_JOB"} & names
