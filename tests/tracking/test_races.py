"""Threads of one process that read and write the same run at once take nothing from each other."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow.entities import Param, RunTag

from kaggleops.mlruns import run
from kaggleops.tracking.store import BucketTrackingStore
from tests.fakes.gcs_server import GcsServer

Machines = Callable[[], BucketTrackingStore]

TRACKING_URI = "gs://our-bucket/mlruns"


@pytest.fixture
def tracking_uri(gcs_server: GcsServer) -> str:
    """The tracking URI of an empty bucket of Cloud Storage."""
    gcs_server.create_bucket("our-bucket")
    return TRACKING_URI


@pytest.mark.parametrize("sending", ["is on its way", "is done"])
def test_an_answer_that_comes_late_undoes_nothing(
    machines: Machines, gcs_server: GcsServer, sending: str
) -> None:
    here, elsewhere = machines(), machines()
    experiment_id = here.create_experiment("e")
    run_id = here.create_run(experiment_id, "me", 0, [], "r").info.run_id
    key = run(experiment_id, run_id).key
    here.flush()
    elsewhere.set_tag(run_id, RunTag("of", "another"))
    elsewhere.flush()
    with ThreadPoolExecutor() as pool:
        late_read = gcs_server.fail("late", key=key, op="objects.get_media")
        reading = pool.submit(here.get_run, run_id)
        assert late_read.struck.wait(30)
        here.get_run(run_id)
        here.log_param(run_id, Param("p", "1"))
        if sending == "is on its way":
            write = gcs_server.fail("hang", key=key, op="objects.insert")
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
