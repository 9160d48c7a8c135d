"""Whatever the bucket, the disk or the clock does: training goes on, and everything arrives."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.entities import Metric, RunStatus, RunTag

from kaggleops.bucket import Bucket, open_bucket
from kaggleops.mlruns import EntityStore
from kaggleops.tracking.outbox import new_folder, outboxes
from kaggleops.tracking.push import push
from kaggleops.tracking.store import BucketTrackingStore
from tests.buckets import ON_EACH_SERVICE, ON_SERVICES
from tests.command import kaggleops_here
from tests.conftest import unavailable
from tests.fakes.object_server import ObjectServer

from .processes import PREAMBLE, Training, train
from .test_process import OFTEN, only_run

Machines = Callable[[], BucketTrackingStore]
# Logs while the bucket is as the test made it, and goes on until it was all sent.
THROUGH_TROUBLE = """
import time
from kaggleops.tracking import session
session.PATIENCE = 0.2
mlflow.set_experiment("e")
run = mlflow.start_run()
(live,) = session._sessions.values()
mlflow.log_metric("loss", -1, step=0)
live.flush()
say("started")
sys.stdin.readline()
for step in range(50):
    mlflow.log_metric("loss", step, step=step)
mlflow.log_param("lr", 0.1)
while not live._failed:
    time.sleep(0.01)
say("warned")
sys.stdin.readline()
while live.working.unsent:
    time.sleep(0.01)
say("sent")
"""


def delete(server: ObjectServer) -> None:
    server.delete_bucket("our-bucket")


def make_anew(server: ObjectServer) -> None:
    server.create_bucket("our-bucket")


slow = pytest.mark.slow  # each of them is a variant of one that stays


def heal(server: ObjectServer) -> None:
    server.heal()


@ON_EACH_SERVICE
@pytest.mark.parametrize(
    ("trouble", "mend"),
    [
        (lambda server: server.fail(503, times=None), heal),
        pytest.param(
            lambda server: server.fail(429, times=None, retry_after=0.1), heal, marks=slow
        ),
        (lambda server: server.fail("reset", times=None), heal),
        pytest.param(lambda server: server.fail("truncate", times=None), heal, marks=slow),
        (lambda server: server.fail("lost-response", times=None), heal),
        pytest.param(lambda server: server.fail("corrupt", times=None), heal, marks=slow),
        (lambda server: server.fail(401, times=None, message="Invalid Credentials"), heal),
        pytest.param(
            lambda server: server.fail(403, times=None, message="it expired"), heal, marks=slow
        ),
        (delete, make_anew),
    ],
    ids=["503", "429", "reset", "truncated", "lost", "corrupt", "expired", "denied", "deleted"],
)
def test_a_training_outlives_trouble_and_everything_arrives_by_itself(
    trouble: Callable[[ObjectServer], object],
    mend: Callable[[ObjectServer], object],
    service: ObjectServer,
    state_folder: Path,
) -> None:
    service.create_bucket("our-bucket")
    uri = f"{service.address('our-bucket')}/mlruns"
    training = Training(THROUGH_TROUBLE, uri, state_folder, **OFTEN)
    training.until("started")
    trouble(service)
    training.tell("go on")
    training.until("warned")
    mend(service)
    training.tell("go on")
    training.until("sent")
    ended = training.end()
    assert ended.code == 0, ended.errors
    assert ended.errors.count("Nothing is lost") == 1
    assert ended.errors.count("can be reached again") == 1
    assert "Traceback" not in ended.errors
    assert "not sent to" not in ended.errors

    store = BucketTrackingStore(uri)
    run = only_run(store)
    assert (run.info.status, run.data.params) == ("FINISHED", {"lr": "0.1"})
    history = [point.value for point in store.get_metric_history(run.info.run_id, "loss")]
    assert sorted(history) == [-1, *range(50)]


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_is_wrong_by_a_day(
    days: int, machines: Machines, state_folder: Path, bucket: Bucket
) -> None:
    wrong, right = machines(), machines()
    home = wrong.create_experiment("e")
    run_id = wrong.create_run(home, "ada", 1, [], "x").info.run_id
    entity_id = wrong._run(run_id)

    def on_the_wrong_clock() -> None:
        # What that machine writes has the times of its clock.
        then = time.time() + days * 86_400
        for file in wrong._working.path(entity_id).rglob("*"):
            if file.is_file() and abs(file.stat().st_mtime - time.time()) < 3600:
                os.utime(file, (then, then))

    def tag() -> str:
        return str(machines().get_run(run_id).data.tags["tag"])

    wrong.set_tag(run_id, RunTag("tag", "first"))
    wrong.log_metric(run_id, Metric("loss", 1.0, (100 + days) * 86_400_000, 1))
    on_the_wrong_clock()
    wrong.flush()
    right.get_run(run_id)
    right.set_tag(run_id, RunTag("tag", "second"))
    right.log_metric(run_id, Metric("loss", 2.0, 100 * 86_400_000, 2))
    right.flush()
    assert tag() == "second"
    wrong.get_run(run_id)
    wrong.set_tag(run_id, RunTag("tag", "third"))
    wrong.update_run_info(run_id, RunStatus.FINISHED, 5, None)
    on_the_wrong_clock()
    wrong.flush()
    assert tag() == "third"
    right.get_run(run_id)
    right.update_run_info(run_id, RunStatus.RUNNING, None, None)  # a resume
    right.flush()
    after = machines().get_run(run_id)
    assert after.info.status == "RUNNING"
    assert len(machines().get_metric_history(run_id, "loss")) == 2


FULL_DISK = """
from pathlib import Path
mlflow.set_experiment("e")
client = mlflow.MlflowClient()
with mlflow.start_run():
    mlflow.log_param("before", 1)
    room = os.statvfs(os.environ["KAGGLEOPS_HOME"])
    filler = open(os.environ["KAGGLEOPS_HOME"] + "/checkpoint", "wb", buffering=0)
    try:
        while True:
            filler.write(bytes(4096))
    except OSError:
        say("full")
    for step in range(3000):
        mlflow.log_metric("loss", step, step=step)
        if step % 500 == 0:
            mlflow.log_param(f"p{step}", "x" * 5000)
            mlflow.set_tag("step", step)
    if "-die" in sys.argv:
        wait()
"""


def tmpfs(script: str, folder: Path, home: Path, tracking_uri: str) -> "subprocess.Popen[str]":
    """Start a process whose KAGGLEOPS_HOME is a disk of 256 kB, seen by nobody else."""
    if shutil.which("unshare") is None or not Path("/dev/shm").is_dir():
        unavailable("a small disk of its own needs Linux")
    mount = f"mount -t tmpfs -o size=256k tmpfs '{home}'"
    who = [] if os.getuid() == 0 else ["--map-root-user", "--user"]
    can = ["unshare", *who, "--mount", "sh", "-c", mount]
    home.mkdir(parents=True)
    if subprocess.run(can, check=False, capture_output=True).returncode:
        unavailable("this machine lets nobody mount a disk")
    program = folder / "train.py"
    program.write_text(PREAMBLE + script)
    command = f"{mount} && exec '{sys.executable}' '{program}' \"$@\""
    return subprocess.Popen(
        ["unshare", *who, "--mount", "sh", "-c", command, "sh"],
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": tracking_uri,
            "KAGGLEOPS_HOME": str(home),
            "KAGGLEOPS_FLUSH_SECONDS": "0.2",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@ON_SERVICES
def test_a_full_disk_stops_nothing_and_loses_nothing(
    tracking_uri: str, tmp_path: Path, state_folder: Path, machines: Machines
) -> None:
    process = tmpfs(FULL_DISK, tmp_path, state_folder, tracking_uri)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "full" in output
    assert errors.count("going on in") == 1
    store = machines()
    run = only_run(store)
    assert run.info.status == "FINISHED"
    assert run.data.tags["step"] == "2500"
    assert {name: len(value) for name, value in run.data.params.items()} == {
        "before": 1,
        **{f"p{step}": 5000 for step in range(0, 3000, 500)},
    }
    history = [point.value for point in store.get_metric_history(run.info.run_id, "loss")]
    assert sorted(history) == list(range(3000))


@ON_SERVICES
def test_what_a_killed_process_left_is_sent_by_the_next_one(
    tracking_uri: str, state_folder: Path, machines: Machines
) -> None:
    first = """
    mlflow.set_experiment("e")
    run = mlflow.start_run()
    mlflow.log_metric("loss", 1.0)
    say(run.info.run_id)
    wait()
    """
    training = Training(first, tracking_uri, state_folder)
    run_id = training.line()
    training.until("waiting")
    training.signal(signal.SIGKILL)
    training.end()
    second = """
    mlflow.set_experiment("e")
    mlflow.start_run()
    mlflow.log_metric("loss", 2.0)
    for line in sys.stdin:
        break
    """
    training = Training(second, tracking_uri, state_folder, **OFTEN)
    store = machines()
    while "loss" not in store.get_run(run_id).data.metrics:
        time.sleep(0.01)  # the test's own time limit ends this if it never comes
    training.tell("enough")
    ended = training.end()
    assert "a process that ended had left behind" in ended.errors
    store._session.close()
    assert not list((state_folder / "outbox").iterdir())


@pytest.mark.parametrize("bucket", ["gcs"], indirect=True)
@pytest.mark.parametrize(
    ("left", "said"), [(f"mlruns/0/{'0' * 32}/meta.yaml", 1), ("an-artifact/manifest.json", 0)]
)
def test_what_nobody_can_send_of_a_helper_is_said_once_at_most(
    left: str,
    said: int,
    store: BucketTrackingStore,
    bucket: Bucket,
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs = [store.create_run("0", "ada", 1, [], name).info for name in ("a", "b")]
    with new_folder(outboxes(bucket.uri)[0]) as (folder, owner):
        (folder / left).parent.mkdir(parents=True)
        (folder / left).write_text("half of it: [")
    owner.close()
    for run in runs:
        store.update_run_info(run.run_id, RunStatus.FINISHED, 2, run.run_name)
    assert len([line for line in caplog.messages if "0" * 32 in line]) == said
    assert (folder / left).is_file()


@ON_SERVICES
@pytest.mark.parametrize(
    "torn",
    [lambda lines: "", lambda lines: "".join(lines[:3]), lambda lines: "".join(lines)[:-2]],
    ids=["empty", "cut between lines", "cut in a line"],
)
def test_half_a_file_on_this_machine_is_not_what_is_sent(
    torn: Callable[[list[str]], str], tracking_uri: str, state_folder: Path, machines: Machines
) -> None:
    script = """
    mlflow.set_experiment("e")
    run = mlflow.start_run()
    mlflow.log_metric("loss", 1.0)
    for each in session._sessions.values():
        each.flush()
    mlflow.log_metric("loss", 2.0)
    say(run.info.run_id)
    wait()
    """
    training = Training(script, tracking_uri, state_folder)
    run_id = training.line()
    training.signal(signal.SIGKILL)
    training.end()
    # MLflow was about to write it anew.
    (meta,) = (state_folder / "outbox").glob(f"*/*/mlruns/*/{run_id}/meta.yaml")
    lines = meta.read_text().splitlines(keepends=True)
    meta.write_text(torn(lines))
    sent = push(EntityStore(open_bucket(tracking_uri.removesuffix("/mlruns"))))
    assert not sent.problems
    run = machines().get_run(run_id)
    assert (run.info.status, run.data.metrics) == ("RUNNING", {"loss": 2.0})
    assert run.info.user_id


@ON_SERVICES
@pytest.mark.parametrize("call", ["mlflow.log_param('lr', 0.1)", "mlflow.set_tag('tag', 'new')"])
def test_a_kill_in_the_middle_of_a_write_leaves_no_empty_value(
    call: str, tracking_uri: str, state_folder: Path, machines: Machines, bucket: Bucket
) -> None:
    script = f"""
    import resource
    mlflow.set_experiment("e")
    run = mlflow.start_run(tags={{"tag": "old"}})
    say(run.info.run_id)
    # The kernel kills it as soon as it writes the first byte.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    {call}
    """
    training = Training(script, tracking_uri, state_folder)
    run_id = training.line()
    assert training.end().code == -signal.SIGXFSZ
    assert not push(EntityStore(bucket)).problems
    run = machines().get_run(run_id)
    assert run.data.params == {}
    assert run.data.tags["tag"] == "old"


ON_A_DISK = """
import time
from pathlib import Path
from kaggleops.tracking import artifact_uploads as uploads
uploads.FIRST_PAUSE = 0.05
run = mlflow.start_run()
(live,) = session._sessions.values()
live.flush()
say("started")
sys.stdin.readline()
mlflow.log_metric("loss", 1.0)
mlflow.log_text("weights", "model.txt")
while live.working.unsent and not live._failed:
    time.sleep(0.01)
say("tried")
sys.stdin.readline()
while live.working.unsent or uploads.uploads(live.bucket_uri)._waiting:
    time.sleep(0.01)
say("sent")
"""

BEGUN_WITHOUT_IT = """
run = mlflow.start_run()
mlflow.log_metric("loss", 2.0)
mlflow.end_run()
"""


@pytest.mark.parametrize("mounted", ["bucket", "disk"])
def test_what_is_logged_while_a_disk_is_not_mounted_goes_to_no_other(
    mounted: str, tmp_path: Path, state_folder: Path
) -> None:
    (tmp_path / "disk").mkdir()
    root = tmp_path / "disk/bucket"
    mount = {"bucket": root, "disk": root.parent}[mounted]
    uri = f"bucket+{root.as_uri()}"
    training = Training(ON_A_DISK, f"{uri}/mlruns", state_folder, **OFTEN)
    training.until("started")
    mount.rename(tmp_path / "elsewhere")
    mount.mkdir()  # an empty folder, which a disk is mounted at
    training.tell("go on")
    training.until("tried")
    other = train(BEGUN_WITHOUT_IT, f"{uri}/mlruns", state_folder)
    assert other.code == 1  # as where any bucket is away from the start
    assert other.errors.splitlines()[-1].count("is not there any more") == 1
    if mounted == "disk":
        training.signal(signal.SIGKILL)
        training.end()
        refused = kaggleops_here("push", "--bucket", uri, cwd=tmp_path)
        assert refused.code == 1
        assert refused.errors.count("is not there any more") == 1
    assert list(mount.iterdir()) == []
    mount.rmdir()
    (tmp_path / "elsewhere").rename(mount)
    if mounted == "disk":
        assert kaggleops_here("push", "--bucket", uri, cwd=tmp_path).code == 0
    else:
        training.tell("go on")
        training.until("sent")
        ended = training.end()
        assert ended.code == 0, ended.errors
        assert ended.errors.count("Nothing is lost") == 2, ended.errors  # likewise
        assert ended.errors.count("can be reached again") == 1
    run = only_run(BucketTrackingStore(f"{uri}/mlruns"))
    assert run.data.metrics == {"loss": 1.0}
    assert [file.read_text() for file in root.glob("artifacts/*/*/artifacts/*")] == ["weights"]


@pytest.mark.parametrize("mark", [None, ".kaggleops"], ids=["no bucket yet", "a bucket"])
def test_a_folder_that_cannot_be_written_is_refused_at_once(
    mark: str | None, tmp_path: Path, state_folder: Path
) -> None:
    root, program = tmp_path / "bucket", tmp_path / "train.py"
    root.mkdir()
    program.write_text(PREAMBLE + BEGUN_WITHOUT_IT)
    mount = f"mount -t tmpfs none '{root}'"
    if mark:
        mount += f" && mkdir '{root}/{mark}'"
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*alone, mount], check=False).returncode:
        unavailable("this machine lets nobody mount a disk")
    uri = f"bucket+{root.as_uri()}"
    train_there = f"{mount} && mount -o remount,ro '{root}' && '{sys.executable}' '{program}'"
    refused = subprocess.run(
        [*alone, train_there],
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": f"{uri}/mlruns",
            "KAGGLEOPS_HOME": str(state_folder),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "Read-only file system" in refused.stderr
    assert "going on in" not in refused.stderr  # the outbox is on another disk
    if mark is None:
        assert "not sent to" not in refused.stderr
        later = train(BEGUN_WITHOUT_IT, f"{uri}/mlruns", state_folder)  # it can be written now
        assert later.code == 0, later.errors
