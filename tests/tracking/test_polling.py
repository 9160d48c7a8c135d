"""Who polls the bucket sees what the tracking store does, and does not list for it."""

from collections.abc import Callable

from mlflow.entities import Metric, RunStatus, RunTag

from kaggleops.bucket import ABSENT, Bucket
from kaggleops.mlruns import EntityStore, Poll, experiment, run
from kaggleops.tracking.store import BucketTrackingStore


def test_a_poll_sees_what_a_run_logs(
    machines: Callable[[], BucketTrackingStore], bucket: Bucket
) -> None:
    store = machines()
    home = store.create_experiment("seen")
    poll = Poll(EntityStore(bucket))
    assert {change.id for change in poll.changed()} == {experiment(home)}

    run_id = store.create_run(home, "ada", 0, [], "a run").info.run_id
    assert [change.id for change in poll.changed()] == [run(home, run_id)]

    store.log_metric(run_id, Metric("loss", 0.5, 1, 1))
    store._session.flush()
    looked = poll.changed()
    (change,) = looked
    assert not looked.listed
    assert change.entity is not None
    assert change.entity.files["metrics/loss"] == b"1 0.5 1\n"
    assert list(poll.changed()) == []

    other = machines()
    other.set_tag(run_id, RunTag("reviewed", "yes"))
    other._session.flush()
    (change,) = poll.changed()
    assert change.entity is not None
    assert change.entity.files["tags/reviewed"] == b"yes"

    store.update_run_info(run_id, RunStatus.FINISHED, 2, None)
    (change,) = poll.changed()
    assert change.entity is not None
    assert change.entity.meta["status"] == RunStatus.FINISHED


def test_a_poll_sees_a_run_that_is_deleted_for_good(
    store: BucketTrackingStore, bucket: Bucket
) -> None:
    run_id = store.create_run("0", "ada", 0, [], None).info.run_id
    poll = Poll(EntityStore(bucket))
    list(poll.changed())

    store._hard_delete_run(run_id)

    changes = poll.changed()
    assert not changes.listed
    assert [(change.id, change.version) for change in changes] == [(run("0", run_id), ABSENT)]


def test_a_run_that_ended_is_looked_at_no_more(store: BucketTrackingStore, bucket: Bucket) -> None:
    run_id = store.create_run("0", "ada", 0, [], None).info.run_id
    poll = Poll(EntityStore(bucket))
    list(poll.changed())
    live = poll.changed().due
    store.update_run_info(run_id, RunStatus.FINISHED, 2, None)
    assert {change.id for change in poll.changed()} == {run("0", run_id)}
    assert poll.changed().due == live - 1
