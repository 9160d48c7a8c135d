"""Jobs of a sweep that take longer than a session go on until they are done."""

import mlflow
import pytest

from kaggleops.backends.local import Job
from kaggleops.campaign.sweep import trial_id
from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import Launch, launch
from kaggleops.launch.legs import legs_of
from kaggleops.tags import TO_BE_CONTINUED
from tests.command import kaggleops_here

from .world import World

# One step a session; the second trial fails by itself in its second one, again and again.
TRAIN = """
import os, sys
import kaggleops, mlflow
alpha = float(sys.argv[1])
with open(os.environ["RAN"], "a") as ran:
    ran.write(f"{alpha:g}\\n")
with mlflow.start_run() as run:
    step = len(mlflow.MlflowClient().get_metric_history(run.info.run_id, "score"))
    if alpha == 2 and step:
        raise ValueError("no luck")
    mlflow.log_metric("score", alpha * (step + 1), step=step)
    if step < 2:
        sys.exit(kaggleops.TO_BE_CONTINUED)
"""


def test_a_job_goes_on_as_long_as_it_comes_further(world: World) -> None:
    world.repository.write(train_py=TRAIN)
    world.repository.commit("Train for longer than a session")
    sweep_id = world.begin("alpha=1,2", metrics=["score"], directions=["maximize"])
    problems = world.watched()
    assert problems == []
    client = mlflow.MlflowClient(world.uri)
    done, failed = (client.get_run(trial_id(sweep_id, number)) for number in range(2))
    assert done.info.status == "FINISHED"
    assert [each.how for each in legs_of(done.data.tags)] == ["continued", "continued", "finished"]
    points = client.get_metric_history(done.info.run_id, "score")
    assert [(each.step, each.value) for each in points] == [(0, 1), (1, 2), (2, 3)]
    # A failure that repeats at the same step is repeated once.
    assert failed.info.status == "FAILED"
    assert [each.how for each in legs_of(failed.data.tags)] == ["continued", "failed", "failed"]
    assert sorted(world.jobs_that_ran()) == ["1"] * 3 + ["2"] * 3
    assert client.get_run(sweep_id).info.status == "FINISHED"


def test_a_run_that_was_begun_here_goes_on_from_its_repository(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.repository.write(train_py=TRAIN)
    world.repository.commit("Train for longer than a session")
    commit = find_commit(world.repository.folder)
    run = launch(commit, Launch(world.uri))
    assert TO_BE_CONTINUED in run.data.tags
    resume = ("resume", run.info.run_id, "--bucket", world.place)
    monkeypatch.chdir(world.folder)
    assert "Say where it goes on: -b local is this machine." in kaggleops_here(*resume).error
    elsewhere = kaggleops_here(*resume, "-b", "local")
    assert "resume it in a folder that is its repository" in elsewhere.error
    inside = world.repository.folder / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    assert kaggleops_here(*resume, "-b", "local").code == 0
    Job.of(run.info.run_id).wait()
    points = mlflow.MlflowClient(world.uri).get_metric_history(run.info.run_id, "score")
    assert [each.step for each in points] == [0, 1]
