"""What only SkyPilot does: its task file, its words, its recovery, and that it may be away."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml

from kaggleops.backends.base import RemoteRun
from kaggleops.backends.interface import Offer, RefusedError
from kaggleops.backends.lookup import resume
from kaggleops.backends.ready_notebook import ready_notebook
from kaggleops.backends.skypilot import SkyPilotBackend, task_file
from kaggleops.campaign import children
from kaggleops.campaign.sweep import Sweep, trial_id
from kaggleops.campaign.watch import Watcher
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import Launch
from tests import secrets_of
from tests.canaries import marks_in

from .places import OnSkyPilot
from .world import BUCKET, MLPROJECT, TRACKING, World

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "config/backend/skypilot.yaml").read_text())
NAME = "kaggleops-" + "a" * 32
NOTEBOOK = ready_notebook({"bucket": "gs://our-bucket", "run_id": "a" * 32})

# Each leg makes one step; the first one has not done all.
LEGS = """
import sys
import mlflow
with mlflow.start_run() as run:
    done = mlflow.MlflowClient().get_metric_history(run.info.run_id, "step")
    mlflow.log_metric("step", len(done), step=len(done))
    if not done:
        sys.exit(42)
"""

SKY = os.environ.get("KAGGLEOPS_TEST_SKY", "")
"""A Python that has SkyPilot, for a second opinion on the task file."""


@pytest.fixture(scope="module")
def place(outside: World) -> Iterator[OnSkyPilot]:
    made = OnSkyPilot(outside)
    yield made
    made.close()


def config(**fields: Any) -> Any:
    return SkyPilotBackend().read_config(CONFIG | fields, "a test")


def again(place: OnSkyPilot, run: RemoteRun) -> RemoteRun:
    fields = place.backend.read_config(place.fields, "a test")
    return resume(SkyPilotBackend(), TRACKING, run.run_id, fields)


def name_of(run: RemoteRun) -> str:
    return run.tags["skypilot_name"]


def test_the_task_file_says_all_but_the_secret() -> None:
    task = yaml.safe_load(task_file(NAME, NOTEBOOK, config(max_hourly_cost=0.8)))
    assert task["name"] == NAME
    assert task["resources"] == {
        **{"accelerators": "L4:1", "use_spot": True, "max_hourly_cost": 0.8},
        "job_recovery": {"max_restarts_on_errors": 0, "recover_on_exit_codes": [42]},
    }
    assert task["secrets"] == {"KAGGLEOPS_KEY": None}
    assert f'run_id = "{"a" * 32}"' in task["run"]
    assert "--python 3.12" in task["setup"]
    assert "'torch>=2.6' 'hydra-core>=1.3.2'" in task["setup"]


def test_machines_of_ones_own_have_no_price() -> None:
    task = yaml.safe_load(task_file(NAME, NOTEBOOK, config(max_hourly_cost=0)))
    assert "max_hourly_cost" not in task["resources"]


def test_what_is_set_is_a_word_of_the_shell_and_no_command() -> None:
    odd = config(python="3.12; touch x", packages=["$(touch y)"])
    setup = yaml.safe_load(task_file(NAME, NOTEBOOK, odd))["setup"]
    assert "--python '3.12; touch x' " in setup
    assert "'$(touch y)'" in setup


def test_the_key_goes_to_skypilot_and_nowhere_else(place: OnSkyPilot) -> None:
    run = place.submit()
    (job,) = place.sky.jobs(name_of(run))
    assert marks_in((job / "secrets.json").read_bytes()) == {"authorized user"}
    assert marks_in((job / "job.json").read_bytes()) == set()
    assert run.tags["skypilot_job"] == job.name
    run.cancel()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"resources": {"job_recovery": "FAILOVER"}}, "job_recovery is set by KaggleOps"),
        ({"resources": {"max_hourly_cost": 1}}, "max_hourly_cost is set by KaggleOps"),
        ({"max_hourly_cost": -1}, "max_hourly_cost: -1: input should be greater"),
        ({"resources": {"image_id": secrets_of.HUGGING_FACE_TOKEN}}, "holds a secret"),
    ],
)
def test_a_configuration_that_cannot_be_meant(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        config(**fields)


def test_without_the_command_or_the_key_nothing_is_made(place: OnSkyPilot) -> None:
    with pytest.raises(UsageError, match=r"there is no command 'skie'\. Install it in an"):
        place.submit(cli="skie")
    with pytest.raises(UsageError, match="credentials create skypilot"):
        place.submit(credentials="")


def test_what_skypilot_refuses_has_failed(place: OnSkyPilot) -> None:
    with pytest.raises(RefusedError, match=r"additional properties \['acelerators'\]") as refused:
        place.submit(resources={"acelerators": "L4:1"})
    assert "\x1b" not in str(refused.value)


def test_a_launch_whose_answer_was_lost_is_found(place: OnSkyPilot) -> None:
    (place.sky.folder / "lost").touch()
    run = place.submit()
    assert len(place.sky.jobs(name_of(run))) == 1
    assert run.get_status() == "SCHEDULED"
    run.cancel()


def test_while_skypilot_is_away_nothing_is_lost(place: OnSkyPilot) -> None:
    run = place.submit()
    (place.sky.folder / "away").touch()
    try:
        with pytest.raises(KaggleOpsError, match="Could not connect to the SkyPilot API"):
            run.get_status()
        with pytest.raises(KaggleOpsError, match="go on with the run: kaggleops resume"):
            place.submit()
    finally:
        (place.sky.folder / "away").unlink()
    assert run.get_status() == "SCHEDULED"
    run.cancel()


def test_an_answer_that_cannot_be_read_ends_no_run(place: OnSkyPilot) -> None:
    run = place.submit()
    try:
        for said in ("", "<html>", '{"a": 1}', "null"):
            (place.sky.folder / "says").write_text(said)
            with pytest.raises(KaggleOpsError, match="its answer cannot be read"):
                run.get_status()
    finally:
        (place.sky.folder / "says").unlink()
    run.cancel()


def test_a_word_that_is_new_is_that_of_a_live_job(place: OnSkyPilot) -> None:
    run = place.submit()
    listed = [{}, 7, {"job_id": "x", "job_name": name_of(run), "status": "HIBERNATING"}]
    (place.sky.folder / "says").write_text(json.dumps(listed))
    try:
        assert str(run.state()) == "HIBERNATING"
        assert run.get_status() == "SCHEDULED"
        assert again(place, run).run_id == run.run_id
    finally:
        (place.sky.folder / "says").unlink()
    assert len(place.sky.jobs(name_of(run))) == 1
    run.cancel()


def test_one_that_failed_is_launched_again_under_its_name(place: OnSkyPilot) -> None:
    run = place.submit()
    job = place.sky.jobs(name_of(run))[0]
    (job / "ended").write_text("1")
    assert run.get_status() == "FAILED"
    assert "user code failed" in run.tags["job_ended"]
    again(place, run)
    assert len(place.sky.jobs(name_of(run))) == 2
    assert run.get_status() == "SCHEDULED"
    run.cancel()


def test_one_that_is_to_be_continued_is_skypilots_to_continue(place: OnSkyPilot) -> None:
    run = place.submit()
    (place.sky.jobs(name_of(run))[0] / "ended").write_text("42")
    assert str(run.state()) == "RECOVERING"
    again(place, run)
    assert len(place.sky.jobs(name_of(run))) == 1
    run.cancel()


def test_a_training_that_is_not_done_goes_on_on_another_machine(place: OnSkyPilot) -> None:
    repository = place.world.repository
    repository.write(legs_py=LEGS)
    repository.write(MLproject=MLPROJECT + '  legs: {command: "python legs.py"}\n')
    repository.commit("Train in two legs")
    run = place.submit(entry_point="legs")
    (job,) = place.sky.jobs(name_of(run))
    place.start(run)
    place.wait(run)
    assert (job / "ended").read_text() == "42\n"
    assert (run.get_status(), str(run.state())) == ("SCHEDULED", "RECOVERING")
    place.start(run)
    place.wait(run)
    assert run.wait()
    assert len(list(job.glob("machine-*"))) == 2
    history = mlflow.MlflowClient(TRACKING).get_metric_history(run.run_id, "step")
    assert [each.step for each in history] == [0, 1]


def test_a_job_that_waits_is_cancelled_with_its_run(place: OnSkyPilot) -> None:
    run = place.submit()
    run.cancel()
    assert run.clean_up()
    assert str(run.state()) == "CANCELLED"
    assert not run.clean_up()


def test_a_sweeps_jobs_are_launched(place: OnSkyPilot, tmp_path: Path) -> None:
    fields = asdict(config(**place.fields, max_hourly_cost=0))
    sweep = Sweep(["alpha=1,2"], backends=["skypilot"], configs={"skypilot": fields})
    commit = find_commit(place.world.repository.folder)
    sweep_id = children.begin(commit, Launch(TRACKING), sweep, "clouds")
    watcher = Watcher(BUCKET, index=f"sqlite:///{tmp_path / 'index.db'}")
    turn = watcher.turn()
    watcher.close()
    assert turn.problems == []
    for number in range(2):
        (job,) = place.sky.jobs(f"kaggleops-{trial_id(sweep_id, number)}")
        assert trial_id(sweep_id, number) in (job / "job.json").read_text()


def test_sweeps_are_offered_machines_whose_price_is_known() -> None:
    (unknown,) = SkyPilotBackend().offers(TRACKING, config(), 0)
    assert (unknown.sessions, "max_hourly_cost" in unknown.problem) == (0, True)
    (known,) = SkyPilotBackend().offers(TRACKING, config(max_hourly_cost=0.8), 3)
    assert (known.price, known.accelerator, known.problem) == (0.8, "L4", "")
    assert known.sessions > 0
    assert (known.session_hours, known.ending_hours) == (24.0, 0.5)


def test_a_job_ends_when_its_hours_are_over(tmp_path: Path) -> None:
    whole, offer = config(hours=24), Offer("skypilot", 1, session_hours=24)
    assert SkyPilotBackend().for_session(whole, offer, 2.5, 1.0).hours == 2.5
    before = time.time()
    said = yaml.safe_load(task_file(NAME, NOTEBOOK, config(hours=2.5)))["run"]
    (deadline,) = re.findall(r"left=\$\(\((\d+) - ", said)
    assert before + 9000 - 1 <= int(deadline) <= time.time() + 9000
    said = said.replace("~", str(tmp_path))
    # Whenever a machine begins, its training knows until when it has.
    place = tmp_path / "kaggleops-job/bin/python"
    place.parent.mkdir(parents=True)
    place.write_text('#!/bin/sh\necho "$KAGGLEOPS_SESSION_ENDS"\n')
    place.chmod(0o755)
    done = subprocess.run(["bash", "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout == f"{deadline}\n"
    # A machine that comes too late begins nothing.
    late = said.replace(deadline, f"{before - 60:.0f}")
    done = subprocess.run(["bash", "-c", late], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (124, "Its hours are over.\n")


if SKY:  # KAGGLEOPS_TEST_SKY=…/bin/python make test PYTEST=tests/backends/test_skypilot.py

    def test_the_real_skypilot_takes_the_task_file_and_our_commands(tmp_path: Path) -> None:
        file = tmp_path / "task.yaml"
        file.write_text(task_file(NAME, NOTEBOOK, config(max_hourly_cost=0.8)))
        script = """if True:
            import json, sys, sky
            from sky.client.cli import command
            from sky.utils import yaml_utils
            overrides = [("KAGGLEOPS_KEY", "a value")]
            with open(sys.argv[1]) as file:
                task = sky.Task.from_yaml_config(
                    yaml_utils.safe_load(file), secrets_overrides=overrides)
            (resources,) = task.resources
            for name, *arguments in json.loads(sys.argv[2]):
                command.jobs.commands[name].make_context(name, arguments)
            print(json.dumps([resources.to_yaml_config(), list(task.secrets), task.name]))
        """
        arguments = ["--name", NAME, "--secret", "KAGGLEOPS_KEY", "--detach-run", "--yes"]
        ours = [
            ["launch", str(file), *arguments],
            ["queue", "--all", "--verbose", "--output", "json"],
            ["cancel", "--yes", "7"],
            ["logs", "--no-follow", "--tail", "0", "7"],
        ]
        done = subprocess.run(
            [SKY, "-c", script, str(file), json.dumps(ours)],
            env={"HOME": str(tmp_path), "PATH": os.environ["PATH"], "KAGGLEOPS_KEY": "a value"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        resources, secrets, name = json.loads(done.stdout.splitlines()[-1])
        assert resources["job_recovery"]["recover_on_exit_codes"] == [42]
        assert (resources["accelerators"], resources["max_hourly_cost"]) == ({"L4": 1}, 0.8)
        assert (secrets, name) == (["KAGGLEOPS_KEY"], NAME)
