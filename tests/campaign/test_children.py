"""The runs of a sweep: made twice they are one, and a watcher needs no repository to make them."""

import json

import mlflow
import pytest

from kaggleops.campaign import children
from kaggleops.campaign.state import SweepState, open_sweeps
from kaggleops.campaign.sweep import fold_id, trial_id
from kaggleops.cli.indexed import history_of
from kaggleops.errors import UsageError
from kaggleops.tags import CANCELLED, FOLDS, PARENT, POINT, PREVIOUS, SETTINGS, TRIAL

from .world import World


def states(world: World) -> list[SweepState]:
    with history_of(str(world.folder), None, fresh_for=0) as history:
        return open_sweeps(history)


def test_a_sweep_is_a_parent_that_runs_without_a_process(world: World) -> None:
    sweep_id = world.begin("alpha=1,2", overrides=["fold=7"])
    (state,) = states(world)
    assert (state.id, state.name, state.status, state.problem) == (
        sweep_id,
        "toy-sweep",
        "RUNNING",
        "",
    )
    assert list(state.sweep.axes) == ["alpha=1,2"]
    assert state.sweep.declared == {"alpha": "0.1", "fold": "none", "overrides": ""}
    assert state.trials == []


def test_a_job_made_twice_is_one_run(world: World) -> None:
    sweep_id = world.begin("alpha=1,2", overrides=["note=two words"])
    (state,) = states(world)
    (run,) = children.make_trial(world.uri, state, 1, {"alpha": "2"})
    (again,) = children.make_trial(world.uri, state, 1, {"alpha": "2"})
    assert run.info.run_id == again.info.run_id == trial_id(sweep_id, 1)
    assert run.info.status == "SCHEDULED"
    assert run.data.params == {"alpha": "2", "fold": "none", "overrides": "'note=two words'"}
    tags = run.data.tags
    assert (tags[PARENT], tags[TRIAL], json.loads(tags[POINT])) == (sweep_id, "1", {"alpha": "2"})
    assert tags["mlflow.source.git.commit"] == state.tags["mlflow.source.git.commit"]
    assert tags[SETTINGS] == "'note=two words' alpha=2"  # as of a run that is launched so
    assert not [each for each in tags if each == "sweep" or each == "mlflow.note.content"]
    (trial,) = states(world)[0].trials
    assert (trial.number, trial.status, trial.point) == (1, "SCHEDULED", {"alpha": "2"})


def test_what_became_of_a_sweep_is_not_said_of_its_jobs(world: World) -> None:
    sweep_id = world.begin("alpha=1,2")
    children.set_tags(world.uri, sweep_id, {CANCELLED: "2026-11-30 12:00 UTC", PREVIOUS: sweep_id})
    (state,) = states(world)
    (run,) = children.make_trial(world.uri, state, 0, {"alpha": "1"})
    assert not {CANCELLED, PREVIOUS} & run.data.tags.keys()


def test_one_that_another_machine_ended_meanwhile_stays_ended(world: World) -> None:
    world.begin("alpha=1")
    (state,) = states(world)
    (run,) = children.make_trial(world.uri, state, 0, {"alpha": "1"})
    client = mlflow.MlflowClient(world.uri)
    client.set_terminated(run.info.run_id, "KILLED")
    (again,) = children.make_trial(world.uri, state, 0, {"alpha": "1"})
    assert again.info.status == "KILLED"


def test_a_trial_of_folds_is_a_run_of_its_own_between(world: World) -> None:
    sweep_id = world.begin("alpha=1,2", "fold=0,1", fold_axis="fold", folds=["0", "1"])
    (state,) = states(world)
    runs = children.make_trial(world.uri, state, 0, {"alpha": "1"})
    trial = trial_id(sweep_id, 0)
    assert [run.info.run_id for run in runs] == [fold_id(trial, "0"), fold_id(trial, "1")]
    assert [run.data.params["fold"] for run in runs] == ["0", "1"]
    assert {run.data.tags[PARENT] for run in runs} == {trial}
    parent = mlflow.MlflowClient(world.uri).get_run(trial)
    assert (parent.info.status, parent.data.tags[PARENT]) == ("RUNNING", sweep_id)
    assert parent.data.tags[FOLDS] == '["0", "1"]'
    (found,) = states(world)[0].trials
    assert [job.fold for job in found.jobs] == ["0", "1"]
    assert found.run_id == trial


def test_folds_alone_are_the_sweeps_own_children(world: World) -> None:
    sweep_id = world.begin("fold=0,1,2", fold_axis="fold", folds=["0", "1", "2"])
    (state,) = states(world)
    runs = children.make_trial(world.uri, state, 0, {})
    assert {run.data.tags[PARENT] for run in runs} == {sweep_id}
    (trial,) = states(world)[0].trials
    assert (trial.run_id, len(trial.jobs)) == (sweep_id, 3)


def test_what_the_entry_point_does_not_take_is_refused_before_there_is_a_run(world: World) -> None:
    with pytest.raises(UsageError, match="nonsense"):
        world.begin("alpha=1", entry_point="nonsense")
    with pytest.raises(UsageError, match="does not take 'beta=1'"):
        world.begin("alpha=1", entry_point="fail", overrides=["beta=1"])
    with pytest.raises(UsageError, match="characters, and 8,000 are the most"):
        world.begin("alpha=" + ",".join(map(str, range(5000))))
    assert states(world) == []
