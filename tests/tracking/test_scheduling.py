"""A run that is made here and runs elsewhere: SCHEDULED at once, in nobody's hands."""

from collections.abc import Callable

from mlflow.entities import Param, RunStatus, RunTag

from kaggleops.tracking.store import BucketTrackingStore

Machines = Callable[[], BucketTrackingStore]


def test_it_is_scheduled_at_once_and_another_machine_runs_it(machines: Machines) -> None:
    here, there = machines(), machines()
    experiment_id = here.create_experiment("e")
    made = here.schedule_run(experiment_id, "ada", [RunTag("a", "b")], [Param("p", "1")])
    run_id = made.info.run_id
    assert made.info.status == "SCHEDULED"
    assert [each.name for each in here._working.live.runs] == []

    seen = there.get_run(run_id)
    assert (seen.info.status, seen.data.tags["a"], seen.data.params) == (
        "SCHEDULED",
        "b",
        {"p": "1"},
    )
    there.update_run_info(run_id, RunStatus.RUNNING, None, None)
    there.flush()
    here.set_tag(run_id, RunTag("where", "there"))
    here.flush()
    assert here.get_run(run_id).info.status == "RUNNING"
    assert there.get_run(run_id).data.tags["where"] == "there"


def test_one_that_failed_is_scheduled_anew_and_that_beats_how_it_ended(machines: Machines) -> None:
    here, there = machines(), machines()
    experiment_id = here.create_experiment("e")
    run_id = here.schedule_run(experiment_id, "ada", [], []).info.run_id
    there.update_run_info(run_id, RunStatus.RUNNING, None, None)
    there.update_run_info(run_id, RunStatus.FAILED, 2000, None)
    there.flush()
    here.get_run(run_id)
    here.update_run_info(run_id, RunStatus.SCHEDULED, None, None)
    here.flush()
    there.set_tag(run_id, RunTag("late", "word"))
    there.flush()
    assert machines().get_run(run_id).info.status == "SCHEDULED"
