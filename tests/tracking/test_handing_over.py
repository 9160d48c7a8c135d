"""What the process that makes a run leaves to the one that runs it."""

from collections.abc import Callable

import pytest
from mlflow.entities import RunStatus, RunTag
from mlflow.exceptions import MlflowException

from kaggleops.tracking import session
from kaggleops.tracking.store import BucketTrackingStore
from kaggleops.tracking.working_copy import HANDED_OVER
from tests.buckets import ON_EACH_SERVICE
from tests.fakes.object_server import ObjectServer

Machines = Callable[[], BucketTrackingStore]


def left(store: BucketTrackingStore, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a store leave a run to all that begin from now on."""
    run = store._run(run_id)
    store._session.hand_over(run)
    monkeypatch.setenv(HANDED_OVER, str(store._working.leave(run)))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", run.experiment_id)


def test_what_the_bucket_has_by_then_counts(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = machines()
    run_id = maker.create_run(maker.create_experiment("e"), "ada", 1, [], "x").info.run_id
    gone = maker.create_run(maker._run(run_id).experiment_id, "ada", 1, [], "y").info.run_id
    left(maker, gone, monkeypatch)
    left(maker, run_id, monkeypatch)
    other = machines()
    other.set_tag(run_id, RunTag("edited", "yes"))
    other.update_run_info(run_id, RunStatus.KILLED, 5, None)
    other._hard_delete_run(gone)
    runner = machines()
    found = runner.get_run(run_id)
    assert (found.info.status, found.data.tags["edited"]) == ("KILLED", "yes")
    with pytest.raises(MlflowException, match="not found"):
        runner.get_run(gone)


@ON_EACH_SERVICE
def test_a_run_that_the_bucket_does_not_have_yet_is_found(
    service: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "PATIENCE", 0.2)
    service.create_bucket("our-bucket")
    stores = []

    def machine() -> BucketTrackingStore:
        session._sessions.clear()
        stores.append(BucketTrackingStore(f"{service.address('our-bucket')}/mlruns"))
        return stores[-1]

    maker = machine()
    home = maker.create_experiment("e")
    service.fail(503, times=None)
    run_id = maker.create_run(home, "ada", 1, [RunTag("made", "yes")], "x").info.run_id
    service.heal()
    left(maker, run_id, monkeypatch)
    runner = machine()
    assert runner.get_run(run_id).data.tags["made"] == "yes"
    runner.update_run_info(run_id, RunStatus.FINISHED, 5, None)
    for each in stores:
        each._session.close()
    monkeypatch.delenv(HANDED_OVER)
    found = machine().get_run(run_id)
    assert (found.info.status, found.data.tags["made"]) == ("FINISHED", "yes")
