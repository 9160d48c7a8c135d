"""A live run beats, a run killed in the bucket stops, a dead one shows as lost."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.entities import RunStatus

from kaggleops.bucket import Bucket
from kaggleops.mlruns import Entity, EntityId, EntityStore, Kind, run
from kaggleops.mlruns.entity import META, Notes, dump_yaml
from kaggleops.mlruns.liveness import LOST, state_of
from kaggleops.tracking.live import LiveRuns, beat_interval, flush_interval, watch_interval
from kaggleops.tracking.store import BucketTrackingStore
from tests.buckets import ON_EACH_SERVICE, ON_SERVICES, server_of
from tests.command import kaggleops, kaggleops_here
from tests.fakes.object_server import ObjectServer
from tests.server.serving import eventually

from .processes import Training, train
from .test_process import OFTEN, only_run

Machines = Callable[[], BucketTrackingStore]
RUN = run("1", "a" * 32)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_live_run_is_due_for_a_beat_only_when_it_was_not_written_for_so_long() -> None:
    clock = Clock()
    live = LiveRuns(clock)
    live.begin(RUN)
    promised = live.promise(RUN)
    clock.now += promised - 1
    assert live.to_beat() == []
    clock.now += 1
    assert live.to_beat() == [RUN]
    live.written(RUN)
    assert live.to_beat() == []
    live.end(RUN)
    clock.now += 10 * promised
    assert live.to_beat() == []
    assert live.promise(RUN) == 0


def test_looking_is_no_beat_and_a_write_is_a_look() -> None:
    clock = Clock()
    live = LiveRuns(clock)
    live.begin(RUN)
    clock.now += watch_interval(0)
    assert live.to_look_at() == [RUN]
    live.looked_at(RUN)
    assert live.to_look_at() == []
    clock.now += beat_interval(0)
    assert live.to_beat() == [RUN]
    live.written(RUN)
    assert live.to_look_at() == []


def test_every_interval_grows_with_the_run_and_stays_within_what_is_promised() -> None:
    for interval in (flush_interval, watch_interval, beat_interval):
        values = [interval(age) for age in range(0, 36_000, 60)]
        assert values == sorted(values)
    assert (flush_interval(0), flush_interval(9 * 3600)) == (10, 60)


def test_nothing_is_promised_that_a_rare_flush_cannot_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLEOPS_FLUSH_SECONDS", "7200")
    assert beat_interval(0) == 7200


@pytest.mark.parametrize("given", ["often", "0", "-1", "inf"])
def test_a_mistaken_interval_is_one_clear_line(given: str, machines: Machines) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAGGLEOPS_FLUSH_SECONDS", given)
        with pytest.raises(Exception, match=r"KAGGLEOPS_FLUSH_SECONDS.*not a number of seconds"):
            machines().create_experiment("e")


def pack(status: int, promise: int = 0) -> Entity:
    meta = dump_yaml({"run_id": RUN.name, "status": status})
    return Entity(RUN, {META: meta}, notes=Notes(promise=promise))


@pytest.mark.parametrize(
    ("status", "promise", "silent", "expected"),
    [
        (RunStatus.RUNNING, 300, 599, "RUNNING"),
        (RunStatus.RUNNING, 300, 601, LOST),
        (RunStatus.RUNNING, 0, 23 * 3600, "RUNNING"),  # by a tool that promises nothing
        (RunStatus.RUNNING, 0, 25 * 3600, LOST),
        (RunStatus.SCHEDULED, 0, 10**6, "SCHEDULED"),
        (RunStatus.FINISHED, 300, 10**6, "FINISHED"),
        (17, 300, 0, "UNKNOWN"),
    ],
)
def test_a_run_is_lost_when_it_was_silent_for_twice_what_it_promised(
    status: int, promise: int, silent: int, expected: str
) -> None:
    state = state_of(pack(status, promise), "7", 10**12, 10**12 + silent * 1000)
    assert (state.status, state.promise) == (
        expected,
        promise if status == RunStatus.RUNNING else 0,
    )


def test_what_a_live_run_sends_says_when_it_will_be_heard_again(
    machines: Machines, bucket: Bucket
) -> None:
    store = machines()
    home = store.create_experiment("e")
    run_id = store.create_run(home, "ada", 1, [], "x").info.run_id
    stored = EntityStore(bucket).read(run(home, run_id))
    assert stored is not None
    assert stored.entity.notes.promise == beat_interval(0)
    first = stored.entity.notes.heartbeat
    assert first > 0

    # Nothing is logged, and it beats all the same.
    live = store._working.live
    live._clock = lambda: 10**9
    store._session._tick()
    stored = EntityStore(bucket).read(run(home, run_id))
    assert stored is not None
    assert stored.entity.notes.heartbeat > first


@ON_SERVICES
def test_status_tells_a_running_run_from_one_whose_machine_is_gone(
    tracking_uri: str,
    state_folder: Path,
    bucket: Bucket,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    script = """
    mlflow.set_experiment("e")
    mlflow.start_run(run_name="a run", tags={"git_commit": "3f2a91c0"})
    wait()
    """
    training = Training(script, tracking_uri, state_folder)
    training.until("waiting")
    (row,) = kaggleops_here("status", "--bucket", bucket.uri, "--json", cwd=tmp_path).json["runs"]
    assert (row["status"], row["name"], row["commit"]) == ("RUNNING", "a run", "3f2a91c0")
    assert row["promised_seconds"] == beat_interval(0)
    training.signal(signal.SIGKILL)
    training.end()

    key = run(row["experiment_id"], row["run_id"]).key
    if server := server_of(bucket, request):
        server.age("our-bucket", f"some/prefix/{key}", hours=1)
    else:
        file = tmp_path / "a bucket" / key
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 3600))
    done = kaggleops_here("status", row["run_id"], "--bucket", bucket.uri, cwd=tmp_path)
    assert done.code == 0, done.errors
    assert "LOST" in done.output
    assert "3f2a91c0" in done.output


def test_status_of_what_is_not_there_and_of_what_is_broken(bucket: Bucket, tmp_path: Path) -> None:
    bucket.prepare()
    nothing = kaggleops_here("status", "f" * 32, "--bucket", bucket.uri, cwd=tmp_path)
    assert nothing.code == 2
    assert "no run" in nothing.error
    empty = kaggleops_here("status", "--bucket", bucket.uri, cwd=tmp_path)
    assert (empty.code, "No run in" in empty.output) == (0, True)
    empty = kaggleops_here("status", "--failed", "--bucket", bucket.uri, cwd=tmp_path)
    assert (empty.code, "No such run in" in empty.output) == (0, True)

    bucket.write(EntityId(Kind.EXPERIMENT, "1").key, b"", expected="0")
    bucket.write(RUN.key, b"no archive", expected="0")
    broken = kaggleops_here("status", "--bucket", bucket.uri, "--json", cwd=tmp_path)
    assert broken.code == 1
    assert json.loads(broken.output)["runs"][0]["status"] == "UNREADABLE"
    assert RUN.name in broken.error


RUNS_FOR_EVER = """
import subprocess, time
helper = subprocess.Popen(["sleep", "1000"])  # a data loader, another rank …
mlflow.set_experiment("e")
with mlflow.start_run() as run:
    say(f"{run.info.run_id} {helper.pid}")
    for step in range(10**9):
        mlflow.log_metric("loss", step, step=step)
        time.sleep(0.01)
"""


@ON_SERVICES
def test_a_run_that_is_cancelled_from_elsewhere_ends_with_all_it_logged(
    tracking_uri: str, state_folder: Path, bucket: Bucket, tmp_path: Path, machines: Machines
) -> None:
    training = Training(RUNS_FOR_EVER, tracking_uri, state_folder, **OFTEN)
    run_id, helper = training.line().split()
    done = kaggleops("cancel", run_id, "--bucket", bucket.uri, cwd=tmp_path)
    assert done.code == 0, done.errors
    assert run_id in done.output

    ended = training.end()
    assert ended.code == 128 + signal.SIGTERM, ended.errors
    assert ended.errors.count("was set to KILLED") == 1
    # Its process group goes with it.
    eventually(lambda: not Path(f"/proc/{helper}/exe").exists())
    assert not list((state_folder / "outbox").iterdir())
    store = machines()
    run = only_run(store)
    assert run.info.status == "KILLED"
    history = [point.value for point in store.get_metric_history(run_id, "loss")]
    assert history == list(range(len(history)))
    assert history

    again = kaggleops_here("cancel", run_id, "--bucket", bucket.uri, cwd=tmp_path)
    assert again.code == 1
    assert "it has ended already, as KILLED" in again.error
    unknown = kaggleops_here("cancel", "f" * 32, "--bucket", bucket.uri, cwd=tmp_path)
    assert "kaggleops status" in unknown.error


@ON_SERVICES
def test_a_run_that_logs_nothing_sees_it_too(
    tracking_uri: str, state_folder: Path, bucket: Bucket, tmp_path: Path, machines: Machines
) -> None:
    script = """
    with mlflow.start_run() as run:
        say(run.info.run_id)
        wait()
    """
    training = Training(script, tracking_uri, state_folder, **OFTEN)
    run_id = training.line()
    assert kaggleops_here("cancel", run_id, "--bucket", bucket.uri, cwd=tmp_path).code == 0
    assert training.end().code == 128 + signal.SIGTERM
    assert only_run(machines()).info.status == "KILLED"


@ON_SERVICES
def test_what_does_not_heed_it_is_killed_after_a_last_flush(
    tracking_uri: str, state_folder: Path, bucket: Bucket, tmp_path: Path, machines: Machines
) -> None:
    script = """
    from kaggleops.tracking import signals
    signals.GRACE = 3
    signal.signal(signal.SIGTERM, lambda *_: mlflow.log_metric("late", 1.0))
    with mlflow.start_run() as run:
        say(run.info.run_id)
        while True:
            wait()
    """
    training = Training(script, tracking_uri, state_folder, **OFTEN)
    run_id = training.line()
    assert kaggleops_here("cancel", run_id, "--bucket", bucket.uri, cwd=tmp_path).code == 0
    assert training.end().code == -signal.SIGKILL
    run = only_run(machines())
    assert (run.info.status, run.data.metrics) == ("KILLED", {"late": 1.0})


@ON_SERVICES
def test_a_kernel_whose_cell_ended_the_run_lives_on(
    tracking_uri: str, state_folder: Path, bucket: Bucket, tmp_path: Path
) -> None:
    script = """
    from kaggleops.tracking import signals
    signals.GRACE = 20
    signals.AGAIN = 0.1  # so soon is a signal sent again that was swallowed; this one was not
    try:
        with mlflow.start_run() as run:
            say(run.info.run_id)
            wait()
    except SystemExit:
        say("the cell ended")
    for thread in threading.enumerate():
        if thread.name == "kaggleops-end":
            thread.join()
    say("the kernel lives")
    """
    training = Training(script, tracking_uri, state_folder, **OFTEN)
    run_id = training.line()
    assert kaggleops_here("cancel", run_id, "--bucket", bucket.uri, cwd=tmp_path).code == 0
    training.until("the cell ended")
    training.until("the kernel lives")
    assert training.end().code == 0


@ON_SERVICES
def test_a_killed_run_that_is_resumed_runs(
    tracking_uri: str, state_folder: Path, machines: Machines
) -> None:
    store = machines()
    home = store.create_experiment("e")
    run_id = store.create_run(home, "ada", 1, [], "x").info.run_id
    store.update_run_info(run_id, RunStatus.KILLED, 2, None)
    script = """
    with mlflow.start_run() as run:
        for each in session._sessions.values():
            each._tick(); each._tick()
        mlflow.log_metric("after", 1.0)
    """
    ended = train(script, tracking_uri, state_folder / "there", MLFLOW_RUN_ID=run_id, **OFTEN)
    assert ended.code == 0, ended.errors
    run = only_run(machines())
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"after": 1.0})


@ON_SERVICES
def test_sigterm_leaves_a_run_killed_however_it_was_started(
    tracking_uri: str, state_folder: Path, machines: Machines
) -> None:
    script = """
    mlflow.set_experiment("e")
    run = mlflow.start_run()  # nobody but MLflow's own exit handler ends it
    wait()
    """
    training = Training(script, tracking_uri, state_folder)
    training.until("waiting")
    training.signal(signal.SIGTERM)
    training.end()
    assert only_run(machines()).info.status == "KILLED"


@ON_EACH_SERVICE
def test_a_live_run_whose_bucket_was_emptied_goes_there_again(
    service: ObjectServer, state_folder: Path
) -> None:
    service.create_bucket("our-bucket")
    store = BucketTrackingStore(f"{service.address('our-bucket')}/mlruns")
    home = store.create_experiment("e")
    run_id = store.create_run(home, "ada", 1, [], "x").info.run_id
    key = run(home, run_id).key
    service.remove("our-bucket", key)
    assert store.get_run(run_id).info.status == "RUNNING"
    store.flush()
    assert key in service.objects("our-bucket")
