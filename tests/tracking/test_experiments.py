"""Whoever creates an experiment at the same moment, on one machine or on many, makes the same."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from kaggleops.bucket import Bucket
from kaggleops.tracking.store import BucketTrackingStore
from tests.buckets import server_of

from .processes import train

Machines = Callable[[], BucketTrackingStore]

# Each child has a session of its own; all wait for the same word.
AT_ONCE = """
ready, go = os.pipe()
children = []
for number in range(6):
    child = os.fork()
    if not child:
        break
    children.append(child)
else:
    os.close(go)
    sys.exit(any(os.waitpid(child, 0)[1] for child in children))
os.close(go)
os.read(ready, 1)
mlflow.set_experiment("new")
with mlflow.start_run():
    mlflow.log_metric("loss", number)
"""


def test_six_processes_begin_a_run_in_one_new_experiment(
    tmp_path: Path, state_folder: Path
) -> None:
    # A folder: one object of Cloud Storage takes a write a second, and all share the change log.
    tracking_uri = f"bucket+file://{tmp_path}/a bucket/mlruns"
    ended = train(AT_ONCE, tracking_uri, state_folder)
    assert ended.code == 0, ended.errors
    store = BucketTrackingStore(tracking_uri)
    (home,) = [each.experiment_id for each in store.search_experiments() if each.name == "new"]
    assert len(store.search_runs([home], "", 1, 100)) == 6
    assert not store.search_runs(["0"], "", 1, 100)


@pytest.mark.parametrize("bucket", ["gcs", "s3"], indirect=True)
def test_set_experiment_while_somebody_else_creates_it(
    fluent: str, bucket: Bucket, machines: Machines, request: pytest.FixtureRequest
) -> None:
    server = server_of(bucket, request)
    assert server
    answer = server.fail("late", op="list")
    with ThreadPoolExecutor() as pool:
        setting = pool.submit(mlflow.set_experiment, "tweets")
        assert answer.struck.wait(30)
        home = machines().create_experiment("tweets")
        answer.release()
        assert setting.result(30).experiment_id == home
    with mlflow.start_run() as run:
        assert run.info.experiment_id == home


def test_who_was_told_that_a_name_is_free_gets_it_whoever_is_faster(machines: Machines) -> None:
    here, there = machines(), machines()
    assert here.get_experiment_by_name("tweets") is None
    home = there.create_experiment("tweets")
    assert here.create_experiment("tweets") == home
    with pytest.raises(MlflowException, match="already exists") as caught:
        here.create_experiment("tweets")
    assert caught.value.error_code == "RESOURCE_ALREADY_EXISTS"


def test_who_did_not_ask_is_told_that_it_exists(machines: Machines) -> None:
    here, there = machines(), machines()
    there.create_experiment("tweets")
    with pytest.raises(MlflowException, match="already exists"):
        here.create_experiment("tweets")


def test_one_that_was_deleted_meanwhile_is_answered_as_such(machines: Machines) -> None:
    here, there = machines(), machines()
    assert here.get_experiment_by_name("tweets") is None
    there.delete_experiment(there.create_experiment("tweets"))
    with pytest.raises(MlflowException, match="already exists in deleted state"):
        here.create_experiment("tweets")
