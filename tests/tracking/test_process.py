"""What a process logged reaches the bucket however the process ends."""

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.entities import Metric, Run, RunStatus

from kaggleops.bucket import Bucket, open_bucket
from kaggleops.mlruns import EntityStore
from kaggleops.tracking import session as session_module
from kaggleops.tracking.push import push
from kaggleops.tracking.store import BucketTrackingStore
from tests.buckets import ON_EACH_SERVICE, ON_SERVICES
from tests.fakes.object_server import ObjectServer

from .processes import Training, train

Machines = Callable[[], BucketTrackingStore]


def only_run(store: BucketTrackingStore) -> Run:
    """Return the one run that the bucket holds."""
    ids = [each.experiment_id for each in store.search_experiments()]
    (run,) = store.search_runs(ids, "", 1, 10)
    return run


OFTEN = {"KAGGLEOPS_FLUSH_SECONDS": "0.05"}

LOG_100 = """
mlflow.set_experiment("e")
run = mlflow.start_run()
for step in range(100):
    mlflow.log_metric("loss", step, step=step)
mlflow.log_param("lr", 0.1)
"""


@ON_SERVICES
def test_a_normal_end_sends_everything(
    tracking_uri: str, state_folder: Path, machines: Machines
) -> None:
    ended = train(LOG_100, tracking_uri, state_folder)
    assert ended.code == 0, ended.errors
    run = only_run(machines())
    assert (run.info.status, run.data.metrics["loss"], run.data.params["lr"]) == (
        "FINISHED",
        99,
        "0.1",
    )


@ON_SERVICES
def test_nothing_is_left_on_the_machine(tracking_uri: str, state_folder: Path) -> None:
    train(LOG_100, tracking_uri, state_folder)
    assert not list((state_folder / "outbox").iterdir())


@ON_SERVICES
def test_an_exception_sends_everything(
    tracking_uri: str, state_folder: Path, machines: Machines
) -> None:
    script = """
    with mlflow.start_run():
        mlflow.log_metric("loss", 1.5)
        raise ValueError("NaN loss")
    """
    ended = train(script, tracking_uri, state_folder)
    assert "NaN loss" in ended.errors
    run = only_run(machines())
    assert (run.info.status, run.data.metrics["loss"]) == ("FAILED", 1.5)


@ON_SERVICES
@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sends_everything(
    which: signal.Signals, tracking_uri: str, state_folder: Path, machines: Machines
) -> None:
    training = Training(LOG_100 + "wait()", tracking_uri, state_folder)
    training.until("waiting")
    training.signal(which)
    assert training.end().code != 0
    run = only_run(machines())
    assert run.data.metrics["loss"] == 99
    assert run.info.status != "RUNNING"


@ON_SERVICES
def test_after_a_kill_the_bucket_has_the_last_flush_and_push_sends_the_rest(
    tracking_uri: str, state_folder: Path, machines: Machines, bucket: Bucket
) -> None:
    script = """
    mlflow.set_experiment("e")
    run = mlflow.start_run()
    mlflow.log_metric("loss", 1.0, step=1)
    for each in session._sessions.values():
        each.flush()
    mlflow.log_metric("loss", 2.0, step=2)
    mlflow.set_tag("late", "yes")
    wait()
    """
    training = Training(script, tracking_uri, state_folder)
    training.until("waiting")
    training.signal(signal.SIGKILL)
    training.end()
    before = only_run(machines())
    assert before.data.metrics["loss"] == 1.0
    assert before.info.status == "RUNNING"

    sent = push(EntityStore(bucket))
    assert len(sent.entities) == 1
    assert not sent.problems
    after = only_run(machines())
    assert (after.data.metrics["loss"], after.data.tags["late"]) == (2.0, "yes")
    assert not push(EntityStore(bucket)).entities


@ON_SERVICES
def test_push_leaves_a_running_process_alone(
    tracking_uri: str, state_folder: Path, bucket: Bucket
) -> None:
    training = Training(LOG_100 + "wait()", tracking_uri, state_folder)
    training.until("waiting")
    sent = push(EntityStore(bucket))
    assert len(sent.in_use) == 1
    assert not sent.entities
    training.signal(signal.SIGTERM)
    training.end()


@ON_SERVICES
def test_what_is_logged_is_sent_while_the_process_runs(
    tracking_uri: str, state_folder: Path, machines: Machines
) -> None:
    training = Training(LOG_100 + "wait()", tracking_uri, state_folder, **OFTEN)
    training.until("waiting")
    store = machines()
    while "loss" not in (run := only_run(store)).data.metrics:
        time.sleep(0.01)  # the test's own time limit ends this if it never comes
    assert run.info.status == "RUNNING"
    training.signal(signal.SIGKILL)
    training.end()


@ON_SERVICES
@pytest.mark.parametrize("how", ["os.fork", "multiprocessing"])
def test_a_forked_child_logs_to_the_same_run(
    how: str, tracking_uri: str, state_folder: Path, machines: Machines
) -> None:
    fork = """
    mlflow.set_experiment("e")
    run = mlflow.start_run()
    mlflow.log_metric("parent", 1.0)
    child = os.fork()
    if child == 0:
        mlflow.MlflowClient().log_metric(run.info.run_id, "child", 2.0)
        session.close_all()
        os._exit(0)
    os.waitpid(child, 0)
    """
    process = """
    import multiprocessing
    mlflow.set_experiment("e")
    run = mlflow.start_run()
    mlflow.log_metric("parent", 1.0)
    def work():
        mlflow.MlflowClient().log_metric(run.info.run_id, "child", 2.0)
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    """
    ended = train(fork if how == "os.fork" else process, tracking_uri, state_folder)
    assert ended.code == 0, ended.errors
    assert only_run(machines()).data.metrics == {"parent": 1.0, "child": 2.0}


def test_a_run_that_begins_after_the_end_is_sent_whole(
    tracking_uri: str, state_folder: Path, machines: Machines
) -> None:
    # An exit handler of the script's own may run after this package's.
    script = """
    mlflow.MlflowClient().create_experiment("e")
    session.close_all()
    mlflow.MlflowClient().create_run("0")
    """
    ended = train(script, tracking_uri, state_folder)
    assert (ended.code, ended.errors) == (0, "")
    assert not [each for each in (state_folder / "outbox").rglob("*") if each.is_file()]
    assert only_run(machines()).info.experiment_id == "0"


@ON_EACH_SERVICE
def test_a_bucket_that_goes_away_stops_nothing_and_loses_nothing(
    service: ObjectServer, state_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.create_bucket("our-bucket")
    address = service.address("our-bucket")
    script = """
    session.PATIENCE = 0.2
    mlflow.set_experiment("e")
    mlflow.start_run()
    say("started")
    sys.stdin.readline()  # the bucket is away now
    for step in range(50):
        mlflow.log_metric("loss", step, step=step)
    mlflow.log_param("lr", 0.1)
    """
    training = Training(script, f"{address}/mlruns", state_folder, **OFTEN)
    training.until("started")
    service.fail(503, times=None)
    training.tell("go on")
    ended = training.end()
    assert ended.code == 0, ended.errors
    assert ended.errors.count("Nothing is lost") == 1
    (line,) = [line for line in ended.errors.splitlines() if "not sent to" in line]
    assert f"kaggleops push --bucket {address}" in line
    folder = Path(line.split("It lies in ")[1].split(". Send it")[0])
    assert folder.is_dir()

    service.heal()
    sent = push(EntityStore(open_bucket(address)))
    assert sent.entities
    session_module._sessions.clear()
    run = only_run(BucketTrackingStore(f"{address}/mlruns"))
    assert (run.data.metrics["loss"], run.data.params["lr"]) == (49, "0.1")
    assert run.info.status == "FINISHED"


@ON_EACH_SERVICE
def test_a_bucket_that_may_not_be_written_is_an_error_before_anything_runs(
    service: ObjectServer, state_folder: Path
) -> None:
    from mlflow.exceptions import MlflowException

    service.create_bucket("locked")
    service.deny("locked", write=True)
    address = service.address("locked")
    locked = BucketTrackingStore(f"{address}/mlruns")
    with pytest.raises(MlflowException) as caught:
        locked.create_experiment("e")
    assert address in str(caught.value)
    missing = BucketTrackingStore(f"{service.address('no-such-bucket')}/mlruns")
    with pytest.raises(MlflowException, match="no-such-bucket"):
        missing.create_experiment("e")


def test_metrics_survive_being_merged_into_while_their_files_are_open(
    machines: Machines,
) -> None:
    here = machines()
    home = here.create_experiment("e")
    run_id = here.create_run(home, "ada", 1, [], "x").info.run_id
    there = machines()
    for step in range(6):
        here.log_metric(run_id, Metric("loss", step, step, step))
        there.log_metric(run_id, Metric("loss", 100 + step, 100 + step, 100 + step))
        there._session.flush()
        here._session.flush()  # theirs comes in, and the open files are replaced
    here._session.flush()
    history = machines().get_metric_history(run_id, "loss")
    assert sorted(point.value for point in history) == [*range(6), *range(100, 106)]


ENDED_BY_ERROR = """
import os, threading
import mlflow

def train():
    with mlflow.start_run(run_name="of a thread that goes on"):
        began.set()
        threading.main_thread().join()

told = mlflow.MlflowClient().create_run("0", run_name="of another process")
if not os.fork():
    with mlflow.start_run(run_id=told.info.run_id):
        pass
    os._exit(0)
os.wait()
mlflow.start_run(run_name="its own")
began = threading.Event()
threading.Thread(target=train).start()
began.wait()
raise ValueError("NaN loss")
"""


@pytest.mark.usefixtures("cold_python")  # a fork runs a script, and no error of one ends it
@pytest.mark.parametrize("bucket", ["gcs"], indirect=True)
def test_an_error_fails_the_run_of_the_script_that_it_ends_alone(
    tracking_uri: str, machines: Machines
) -> None:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking_uri}
    command = [sys.executable, "-c", ENDED_BY_ERROR]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "NaN loss" in ended.stderr
    runs = machines().search_runs(["0"], "", 1, 10)
    assert {run.info.run_name: run.info.status for run in runs} == {
        "its own": "FAILED",
        "of a thread that goes on": "FINISHED",
        "of another process": "FINISHED",
    }


def test_an_error_that_a_process_outlives_fails_no_later_run(
    tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, done = [], threading.Event()

    def fail() -> None:
        try:
            raise ValueError
        except ValueError as error:
            told.append(error.__traceback__)
        done.set()

    _thread.start_new_thread(fail, ())  # so that nothing has called it, as a script's own code
    assert done.wait(60)
    monkeypatch.setattr(sys, "last_traceback", told[0], raising=False)
    store = BucketTrackingStore(tracking_uri)
    run = store.create_run(store.create_experiment("e"), "ada", 1, [], "a")
    store.update_run_info(run.info.run_id, RunStatus.FINISHED, 2, "a")
    assert only_run(store).info.status == "FINISHED"
