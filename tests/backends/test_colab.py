"""What only Colab does: its CLI misleads, its runtimes cost units, and somebody holds them."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
from mlflow.entities import RunTag

from kaggleops.backends.base import RemoteRun
from kaggleops.backends.colab.supervisor import (
    JOB,
    Job,
    finish,
    outcome_of,
    plan_of,
    release_abandoned,
)
from kaggleops.backends.interface import JobState
from kaggleops.backends.lookup import resume
from kaggleops.backends.ready_notebook import ready_notebook
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.launch.launcher import experiment_id_of
from kaggleops.tracking.store import BucketTrackingStore
from tests import secrets_of
from tests.canaries import marks_in

from .places import OnColab, end_supervisor
from .test_commands import here
from .world import BUCKET, TRACKING, Gate, World

UNITS = 0.08  # an hour, without an accelerator
CANARY = secrets_of.SERVICE_ACCOUNT


def slow(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def place(outside: World) -> Iterator[OnColab]:
    made = OnColab(outside)
    made.key.write_text(CANARY)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def usual(place: OnColab) -> None:
    """Colab behaves as usual, and nothing was asked of it."""
    place.colab.behave()
    place.colab.forget_calls()


def scheduled(place: OnColab, **fields: Any) -> Job:
    """Return a job of a run in the bucket, for this process to be its supervisor."""
    mlflow.set_tracking_uri(TRACKING)
    home = experiment_id_of(mlflow.MlflowClient(), "toy")
    run = BucketTrackingStore(TRACKING).schedule_run(home, "ada", [], [])
    run_id = run.info.run_id
    job = Job.of(run_id)
    mlflow.MlflowClient().set_tag(run_id, JOB, job.address)
    values = {"repository": "toy", "version": place.world.sha, "bucket": BUCKET, "run_id": run_id}
    config = place.backend.read_config(place.fields | fields, "a test")
    job.prepare(plan_of(ready_notebook(values), config))
    return job


def supervised(job: Job) -> JobState:
    finish(job, outcome_of(job))
    return job.progress.state


def names(place: OnColab) -> list[str]:
    return [call[0] for call in place.colab.calls]


def test_from_the_allocation_to_the_release(place: OnColab) -> None:
    job = scheduled(place, accelerator="T4", high_mem=True)
    place.colab.behave(exec="done")
    assert supervised(job) == JobState("FINISHED", "done")
    assert names(place) == [
        *("usage", "new", "sessions", "usage", "upload", "exec", "stop", "sessions")
    ]
    assert ["new", "-s", job.session, "--gpu", "T4", "--high-mem"] in place.colab.calls
    assert place.colab.runtimes == []
    assert job.log.read_text() == "half a line"
    (uploaded,) = place.colab.folder.glob("machines/*/content/kaggleops-key.json")
    assert uploaded.read_text() == CANARY
    # The key is there and in its own file; in no argument, log, history, notebook or tag.
    kept = [*job.folder.parents[1].rglob("*"), place.colab.folder / "calls"]
    assert any("history" in str(path) for path in kept)
    texts = [path.read_text() for path in kept if path.is_file()]
    said = [*texts, str(place.world.run(job.run_id).to_dictionary())]
    assert marks_in("\n".join(said)) == set()
    assert job.folder.stat().st_mode & 0o77 == 0


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ({"refuse": "Backend rejected accelerator 'T4'."}, "Backend rejected accelerator 'T4'."),
        ({"gives": "A100"}, "Colab gave A100 instead of T4"),
        slow({"upload": "fails"}, "Upload failed: 500 Server Error"),
        slow({"exec": "failed"}, "the notebook failed; its log says why"),
        ({"exec": "lose"}, "the connection to the runtime was lost"),
    ],
)
def test_whatever_goes_wrong_the_runtime_is_released(
    place: OnColab, behaviour: dict[str, str], reason: str
) -> None:
    job = scheduled(place, accelerator="T4")
    place.colab.behave(**behaviour)
    assert supervised(job) == JobState("FAILED", "failed", reason)
    assert job.progress.released
    assert place.colab.runtimes == []
    run = RemoteRun(place.backend, TRACKING, job.run_id)
    assert (run.get_status(), run.failure) == ("FAILED", reason)


def test_when_the_connection_is_lost_the_bucket_tells_how_the_run_ended(place: OnColab) -> None:
    job = scheduled(place)
    mlflow.MlflowClient().set_terminated(job.run_id, "FINISHED")
    BucketTrackingStore(TRACKING).flush()
    place.colab.behave(exec="lose")
    assert supervised(job) == JobState("FINISHED", "done")
    assert "the bucket tells how the run goes on" in job.log.read_text()


def test_nothing_is_allocated_for_what_nobody_wants_any_more(place: OnColab) -> None:
    cancelled, elsewhere = scheduled(place), scheduled(place)
    RemoteRun(place.backend, TRACKING, cancelled.run_id).cancel()
    store = BucketTrackingStore(TRACKING)
    store.set_tag(elsewhere.run_id, RunTag(JOB, f"another:{elsewhere.folder}"))
    store.flush()
    assert supervised(cancelled) == JobState("KILLED", "stopped", "it was cancelled")
    assert supervised(elsewhere).reason == "it was handed to another machine"
    assert names(place) == []


def test_when_its_hours_are_over_it_is_ended(place: OnColab, tmp_path: Path) -> None:
    job = scheduled(place, session_hours=0.0005)
    gate = Gate(tmp_path / "gate")
    place.colab.behave(exec=str(gate.path))
    os.open(f"{gate.path}.reached", os.O_RDWR)  # nobody has to wait there
    assert supervised(job) == JobState("KILLED", "stopped", "its session_hours were over")
    assert place.colab.runtimes == []


def test_a_release_that_fails_is_tried_again_and_by_the_next_command(place: OnColab) -> None:
    job = scheduled(place)
    place.colab.behave(exec="done", stop_fails=2)
    finish(job, outcome_of(job), pauses=[0.0])
    assert "its runtime may still use up units" in job.progress.state.reason
    assert len(place.colab.runtimes) == 1
    reaped = place.backend.reap(TRACKING, delete=False)
    assert [each.machine for each in reaped] == [job.session]
    release_abandoned(job)
    assert len(place.colab.runtimes) == 1
    (again,) = place.backend.reap(TRACKING, delete=True)
    assert (again.run_id, again.problem) == (job.run_id, "")
    assert place.colab.runtimes == []
    assert job.progress.state == JobState("FINISHED", "done")
    assert place.backend.reap(TRACKING, delete=True) == []


def test_a_supervisor_needs_no_terminal_and_its_death_leaves_no_runtime(
    place: OnColab, tmp_path: Path, cold_python: None
) -> None:
    """It is a process of its own: its session, its children and its command line are looked at."""
    gate = Gate(tmp_path / "gate")
    place.colab.behave(exec=str(gate.path))
    run = place.submit()
    gate.wait()
    job = place.job(run)
    pid = int((job.folder / "pid").read_text())
    assert os.getsid(pid) == pid
    assert next(run.logs(follow=True)) == "it begins"
    assert run.state() == JobState("RUNNING", "running", units=UNITS)
    (row,) = here("status", run.run_id, "--bucket", BUCKET, "--json").json["runs"]
    assert (row["platform"], row["units_per_hour"]) == (f"running, {UNITS:.2f} units/h", UNITS)
    (held,) = psutil.Process(pid).children()

    end_supervisor(job)
    assert held.is_running()
    state = run.state()
    assert state == JobState("FAILED", "failed", "its supervisor on this machine died")
    assert place.colab.runtimes == []
    assert not held.is_running() or held.status() == psutil.STATUS_ZOMBIE
    assert list(run.logs(follow=True)) == ["it begins"]
    assert run.get_status() == "FAILED"

    # It goes on, and this time its supervisor is told to end.
    again = resume(place.backend, TRACKING, run.run_id, job.config)
    gate.wait()
    with pytest.raises(KaggleOpsError, match="its runtime is not released yet"):
        place.backend.remove(again.tags)
    os.kill(int((job.folder / "pid").read_text()), signal.SIGTERM)
    job.wait()
    assert again.state() == JobState("KILLED", "stopped", "its supervisor was told to end")
    assert list(again.logs()) == ["it begins"]  # but what the first one printed
    assert place.colab.runtimes == []
    assert again.get_status() == "KILLED"
    assert again.clean_up()
    assert not job.folder.exists()
    assert not again.clean_up()
    with pytest.raises(KaggleOpsError, match="there is no such job"):
        list(again.logs())


def test_units_are_what_is_counted(
    place: OnColab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config/backend/colab.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"cli: {place.colab.program}\n")
    told = "colab: 87.50 compute units are left; 0.00 an hour are used up now\n"
    assert here("quota", "-b", "colab").output == told
    (units,) = here("quota", "-b", "colab", "--json").json["units"]
    assert units == {"backend": "colab", "left": 87.5, "per_hour": 0.0}
    place.colab.behave(signed_out=True)
    assert "you are not signed in" in here("quota", "-b", "colab").error
    assert here("quota", "-b", "docker").output == "docker has no quota.\n"


def test_no_tag_leads_to_another_folder(place: OnColab, tmp_path: Path) -> None:
    job = scheduled(place)
    there = tmp_path / job.run_id  # what a download brought, say: it names a program to start
    job.folder.rename(there)
    tags = {JOB: Job(there).address}
    assert place.backend.state(tags) is None
    assert not place.backend.remove(tags)
    assert (there / "plan.json").is_file()
    assert names(place) == []


def test_another_machine_asks_nobody(place: OnColab) -> None:
    tags = {JOB: f"not-{socket.gethostname()}:/a/folder"}
    assert place.backend.state(tags) is None
    assert not place.backend.remove(tags)
    with pytest.raises(KaggleOpsError, match="/a/folder"):
        list(place.backend.logs(tags, False))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"accelerator": "A10"}, "'L4', 'G4', 'A100', 'H100', 'v5e1' or 'v6e1'"),
        ({"auth": "password"}, "input should be 'oauth2' or 'adc'"),
        ({"credentials": "/nowhere/key.json"}, "there is no key of the bucket, /nowhere/key.json"),
        ({"cli": "/nowhere/colab"}, "uv tool install google-colab-cli"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_asked_for(
    place: OnColab, fields: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError) as caught:
        place.backend.check(TRACKING, place.backend.read_config(place.fields | fields, "a test"))
    assert problem in str(caught.value)
    assert names(place) == []


@pytest.mark.parametrize(
    ("auth", "how"),
    [("oauth2", "--auth oauth2 usage"), ("adc", "gcloud auth application-default login --scopes=")],
)
def test_who_is_not_signed_in_is_told_how(place: OnColab, auth: str, how: str) -> None:
    place.colab.behave(signed_out=True)
    config = place.backend.read_config(place.fields | {"auth": auth}, "a test")
    with pytest.raises(UsageError, match="you are not signed in") as caught:
        place.backend.check(TRACKING, config)
    assert how in str(caught.value)


def test_a_folder_is_no_bucket_that_colab_reaches(place: OnColab) -> None:
    config = place.backend.read_config(place.fields, "a test")
    with pytest.raises(UsageError, match="its machines cannot reach bucket"):
        place.backend.check("bucket+file:///tmp/mlruns", config)
