"""Threads of one process that read and write the same run at once take nothing from each other."""

import errno
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow.entities import Metric, Param, RunTag

from kaggleops.bucket import open_bucket
from kaggleops.mlruns import EntityId, EntityStore, run
from kaggleops.tracking.push import push
from kaggleops.tracking.store import BucketTrackingStore
from tests.buckets import ON_EACH_SERVICE
from tests.fakes.object_server import ObjectServer

Machines = Callable[[], BucketTrackingStore]


@pytest.fixture
def tracking_uri(service: ObjectServer) -> str:
    """The tracking URI of an empty bucket of a service."""
    service.create_bucket("our-bucket")
    return f"{service.address('our-bucket')}/mlruns"


@ON_EACH_SERVICE
@pytest.mark.parametrize("sending", ["is on its way", "is done"])
def test_an_answer_that_comes_late_undoes_nothing(
    machines: Machines, service: ObjectServer, sending: str
) -> None:
    here, elsewhere = machines(), machines()
    experiment_id = here.create_experiment("e")
    run_id = here.create_run(experiment_id, "me", 0, [], "r").info.run_id
    key = run(experiment_id, run_id).key
    here.flush()
    elsewhere.set_tag(run_id, RunTag("of", "another"))
    elsewhere.flush()
    with ThreadPoolExecutor() as pool:
        late_read = service.fail("late", key=key, op="read")
        reading = pool.submit(here.get_run, run_id)
        assert late_read.struck.wait(30)
        here.get_run(run_id)
        here.log_param(run_id, Param("p", "1"))
        if sending == "is on its way":
            write = service.fail("hang", key=key, op="write")
            flushing = pool.submit(here.flush)
            assert write.struck.wait(30)
            late_read.release()
            reading.result(30)
            write.release()
            flushing.result(30)
        else:
            here.flush()
            late_read.release()
            reading.result(30)
    assert here.get_run(run_id).data.params == {"p": "1"}
    here.log_param(run_id, Param("q", "2"))
    here.flush()
    assert elsewhere.get_run(run_id).data.params == {"p": "1", "q": "2"}


@pytest.mark.parametrize("times", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_nobody_takes_a_folder_that_is_just_being_made(
    machines: Machines, tracking_uri: str, times: int
) -> None:
    here = machines()
    run_id = here.create_run(here.create_experiment("e"), "me", 0, [], "r").info.run_id
    enough = threading.Event()

    def send_what_is_left() -> list[EntityId]:
        sent = []
        while not enough.is_set():
            sent += push(EntityStore(open_bucket(tracking_uri.removesuffix("/mlruns")))).entities
        return sent

    with ThreadPoolExecutor() as pool:
        sending = pool.submit(send_what_is_left)
        try:
            for step in range(times):
                here.log_metric(run_id, Metric("loss", step, 0, step))
                here.log_param(run_id, Param(f"p{step}", "1"))
                assert here._session.escape_full_disk(OSError(errno.ENOSPC, "full"))
                machines().get_experiment_by_name("e")
        finally:
            enough.set()
        assert sending.result(30) == []
    here.flush()
    logged = machines().get_run(run_id).data
    assert (logged.metrics, len(logged.params)) == ({"loss": times - 1}, times)
