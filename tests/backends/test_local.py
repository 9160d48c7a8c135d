"""This machine as a backend: jobs that outlive who started them, and slots that they wait for."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaggleops.backends import local
from kaggleops.backends.base import RemoteRun
from kaggleops.backends.lookup import resume, submitted_run
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.tags import JOB_ENDED, NOTE
from tests.command import kaggleops_here

from .places import Here, end_job, job_of
from .world import BUCKET, TRACKING, Gate, World


@pytest.fixture
def here(outside: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    """This machine, with slots of its own."""
    monkeypatch.setenv("KAGGLEOPS_HOME", str(tmp_path / "home"))
    made = Here(outside)
    yield made
    made.close()


def submitted_again(here: Here, run: RemoteRun) -> RemoteRun:
    return resume(here.backend, TRACKING, run.run_id, here.backend.read_config(here.fields, "-"))


def test_one_that_finds_no_slot_waits_and_is_not_started_twice(here: Here) -> None:
    run = here.submit("alpha=0.5")
    assert str(run.state()) == "waiting"
    assert str(submitted_again(here, run).state()) == "waiting"
    config = here.backend.read_config(here.fields, "-")
    assert here.backend.offers(TRACKING, config, 0)[0].sessions == 0
    here.start(run)
    job_of(run).wait()
    assert (run.get_status(), str(run.state())) == ("FINISHED", "ended")
    assert "**alpha 1**" in here.world.run(run.run_id).data.tags[NOTE]
    lines = list(run.logs())
    assert sum("the training begins" in line for line in lines) == 1
    assert here.backend.offers(TRACKING, config, 0)[0].sessions == 6
    assert here.backend.offers(TRACKING, config, 5)[0].sessions == 1
    assert job_of(run).log.stat().st_mode & 0o777 == 0o600
    job = job_of(run)
    assert run.clean_up()
    assert not job.alive  # whoever waits for its end looks once more
    with pytest.raises(KaggleOpsError, match="there is no such job"):
        run.state()
    logs = kaggleops_here("logs", run.run_id, "--bucket", BUCKET)
    assert (logs.code, logs.errors) == (0, "")
    assert "the training begins" in logs.output  # kept with the run


def test_one_whose_process_dies_is_known_to_have_failed_and_goes_on(here: Here) -> None:
    run = here.submit()
    end_job(job_of(run))
    state = run.state()
    assert state
    assert (state.status, str(state)) == ("FAILED", "ended: its process died")
    # Nobody has told the bucket yet: who looks first is told all of it, too.
    done = kaggleops_here("status", run.run_id, "--bucket", TRACKING, "--json")
    (row,) = done.json["runs"]
    assert (row["status"], row["failure"]) == ("FAILED", "ended: its process died")
    assert row["ended"]
    assert submitted_run(TRACKING, run.run_id).get_status() == "FAILED"
    again = submitted_again(here, run)
    assert str(again.state()) == "waiting"
    here.start(again)
    job_of(again).wait()
    assert again.get_status() == "FINISHED"


def test_one_that_ended_while_the_bucket_was_away_is_what_it_says(
    here: Here, tmp_path: Path
) -> None:
    gate, outside = Gate(tmp_path / "gate"), here.world.gcs
    run = here.submit(f"gate={gate.path}")
    here.start(run)
    gate.wait()
    outside.fail(403, times=None)  # nobody tries that again
    gate.open()
    job_of(run).wait()
    outside.heal()
    assert here.world.run(run.run_id).info.status == "RUNNING"
    assert run.get_status() == "FINISHED"
    data = here.world.run(run.run_id).data
    assert (data.metrics["alpha"], JOB_ENDED in data.tags) == (0.2, False)


def test_what_has_ended_is_not_run_again_by_who_did_not_know(here: Here) -> None:
    run = here.submit()
    here.start(run)
    job_of(run).wait()
    tags = run.tags
    plan = job_of(run).plan
    job_of(run).start(plan)  # as a watcher does that was killed and saw nothing of it
    job_of(run).wait()
    assert str(run.state()) == "ended: its run was FINISHED already"
    assert here.world.run(run.run_id).data.metrics == {"alpha": 0.2}
    assert tags == run.tags


def test_another_machines_job_is_nobodys_to_ask(here: Here) -> None:
    tags = {local.JOB: "elsewhere:/home/ada/x"}
    assert here.backend.state(tags) is None
    with pytest.raises(KaggleOpsError, match="it is not here"):
        list(here.backend.logs(tags, follow=False))
    jobs = local.Job.of("a" * 32).folder.parent
    jobs.mkdir(parents=True)
    for folder in ("/etc", f"{jobs}/..", f"{jobs}/.", str(jobs)):  # anybody may have written it
        with pytest.raises(KaggleOpsError, match="it is not here"):
            here.backend.remove({local.JOB: f"{socket.gethostname()}:{folder}"})
    assert jobs.is_dir()


def test_a_configuration_that_cannot_be_meant(here: Here) -> None:
    with pytest.raises(UsageError, match="jobs: -1: input should be greater"):
        here.backend.read_config({"jobs": -1}, "-")
    with pytest.raises(UsageError, match="less than or equal to 256"):  # a file for each
        here.backend.read_config({"jobs": 10**9}, "-")
    assert here.backend.read_config({}, "-").with_room_for(10**9).slots < 1000
