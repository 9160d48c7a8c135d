"""A training's helpers may begin its run once more, and end however they do: it goes on."""

import fcntl
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

import pytest
from mlflow.entities import RunStatus

from kaggleops.bucket import Bucket
from kaggleops.tracking import ownership
from tests.command import kaggleops_here

from .processes import Training, train
from .test_process import OFTEN, Machines, only_run

ON_GCS_ALONE = pytest.mark.parametrize("bucket", ["gcs"], indirect=True)

# The parent looks at the bucket and goes on, as it would see there that its run was killed.
GOES_ON = """
for each in session._sessions.values():
    each._tick(); each._tick()
mlflow.log_metric("after", 1.0)
assert mlflow.MlflowClient().get_run(run.info.run_id).info.status == "RUNNING"
mlflow.end_run()
"""

# A module, as a process that is started anew has to import it.
WORKER = """
import os, signal, sys, time
import mlflow

def begin(run_id):
    mlflow.start_run(run_id=run_id)

def work(number):
    mlflow.log_metric(f"of worker {number}", 1.0)
    return os.getpid()

def begin_and_wait(run_id, ready):
    mlflow.start_run(run_id=run_id)
    mlflow.log_metric("of the process", 1.0)
    ready.set()
    while True:
        time.sleep(0.1)  # a long one does not end by a SIGINT that comes just before

if __name__ == "__main__":
    with mlflow.start_run(run_id=os.environ.get("HELPS")):
        mlflow.log_metric("of the command", 1.0)
        print("ready", flush=True)
        if sys.argv[1] == "waits":
            signal.pause()
        if sys.argv[1] == "fails":
            raise ValueError("NaN loss")
"""

POOL = """
sys.path.insert(0, os.getcwd())  # as for a script, so that new processes find the module
import multiprocessing, worker
run = mlflow.start_run()
with multiprocessing.get_context("{how}").Pool(2, worker.begin, (run.info.run_id,)) as pool:
    pool.map(worker.work, range(4), chunksize=1)
"""

PROCESS = """
sys.path.insert(0, os.getcwd())  # as for a script, so that new processes find the module
import multiprocessing, worker
run = mlflow.start_run()
context = multiprocessing.get_context("fork")
ready = context.Event()
process = context.Process(target=worker.begin_and_wait, args=(run.info.run_id, ready), daemon=True)
process.start()
ready.wait()
os.kill(process.pid, signal.{how})
process.join()
"""

COMMAND = """
import subprocess
run = mlflow.start_run()
for said in ("works", "fails", "waits"):
    os.environ["{variable}"] = run.info.run_id
    command = subprocess.Popen(
        [sys.executable, "worker.py", said], stdout=subprocess.PIPE, text=True
    )
    assert command.stdout.readline() == "ready\\n"
    if said == "waits":
        command.terminate()
    command.wait()
del os.environ["{variable}"]
"""

FORK = """
run = mlflow.start_run()
child = os.fork()
if not child:
    mlflow.start_run(run_id=run.info.run_id)
    mlflow.log_metric("of the child", 1.0)
    os.kill(os.getpid(), signal.SIGTERM)
os.waitpid(child, 0)
"""

LOKY = """
sys.path.insert(0, os.getcwd())
import joblib, worker
from joblib.externals.loky import get_reusable_executor
run = mlflow.start_run()
def one(number):
    with mlflow.start_run(run_id=run_id):
        return worker.work(number)
run_id = run.info.run_id
joblib.Parallel(2, backend="loky")(joblib.delayed(one)(number) for number in range(4))
get_reusable_executor().shutdown(kill_workers=True)
"""

LOADER = """
import torch, torch.utils.data
class Items(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, index):
        mlflow.MlflowClient().log_metric(run.info.run_id, f"of item {index}", 1.0)
        return index
run = mlflow.start_run()
loader = torch.utils.data.DataLoader(Items(), num_workers=2)
assert len(list(loader)) == 4
"""

HELPERS = {
    "a pool, forked": (POOL.replace("{how}", "fork"), 4),
    "a pool, spawned": (POOL.replace("{how}", "spawn"), 4),
    "a pool of a fork server": (POOL.replace("{how}", "forkserver"), 4),
    "a process, terminated": (PROCESS.replace("{how}", "SIGTERM"), 1),
    "a process, interrupted": (PROCESS.replace("{how}", "SIGINT"), 1),
    "a process, hung up on": (PROCESS.replace("{how}", "SIGHUP"), 1),
    "a process, killed": (PROCESS.replace("{how}", "SIGKILL"), 1),
    "a command by the run's id": (COMMAND.replace("{variable}", "HELPS"), 1),
    "a command by MLFLOW_RUN_ID": (COMMAND.replace("{variable}", "MLFLOW_RUN_ID"), 1),
    "a fork": (FORK, 1),
    "joblib": (LOKY, 4),
    "a data loader": (LOADER, 0),
}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that trainings begin in, with a module of theirs."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work/worker.py").write_text(WORKER)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


# The first four import MLflow anew in several processes, the last says no more than its sibling.
SLOW = (
    *("a pool, spawned", "a pool of a fork server", "joblib", "a data loader"),
    "a process, hung up on",
)


@ON_GCS_ALONE
@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=pytest.mark.slow) if how in SLOW else how for how in HELPERS]
)
def test_a_run_outlives_its_helpers(
    how: str, tracking_uri: str, state_folder: Path, machines: Machines, work: Path
) -> None:
    script, logged = HELPERS[how]
    ended = train(script + GOES_ON, tracking_uri, state_folder)
    assert ended.code == 0, ended.errors
    run = only_run(machines())
    assert (run.info.status, run.data.metrics["after"]) == ("FINISHED", 1.0)
    assert len(run.data.metrics) >= 1 + logged
    assert not list((state_folder / "running").iterdir())


@ON_GCS_ALONE
def test_whoever_began_it_still_ends_it(
    tracking_uri: str, state_folder: Path, machines: Machines, work: Path
) -> None:
    script = PROCESS.replace("os.kill(process.pid, signal.{how})", "wait()")
    training = Training(script, tracking_uri, state_folder)
    training.until("waiting")
    training.signal(signal.SIGTERM)
    assert training.end().code == 128 + signal.SIGTERM
    assert only_run(machines()).info.status == "KILLED"


# One that it may not signal, as what `sudo` starts, in what `kaggleops run` has started.
OF_ANOTHER_USER = """
import subprocess
signal.alarm(60)
helper = subprocess.Popen(["cat"], stdin=subprocess.PIPE)  # until this process has ended
kill = os.kill
def refuse(process, which):
    if process == helper.pid:
        raise PermissionError
    kill(process, which)
os.kill = refuse
os.environ["KAGGLEOPS_LAUNCHER"] = str(os.getpid())
run = mlflow.start_run()
say(run.info.run_id)
wait()
"""


@ON_GCS_ALONE
@pytest.mark.parametrize(
    "script",
    [
        PROCESS.replace("os.kill(process.pid, signal.{how})", "say(run.info.run_id); wait()"),
        OF_ANOTHER_USER,
    ],
    ids=["of its own", "of another user"],
)
def test_a_run_with_helpers_is_cancelled_as_any_other(
    script: str,
    tracking_uri: str,
    state_folder: Path,
    machines: Machines,
    work: Path,
    bucket: Bucket,
) -> None:
    training = Training(script, tracking_uri, state_folder, **OFTEN)
    run_id = training.line()
    assert kaggleops_here("cancel", run_id, "--bucket", bucket.uri, cwd=work).code == 0
    assert training.end().code == 128 + signal.SIGTERM
    assert only_run(machines()).info.status == "KILLED"


# As a pool does to workers that it has told to end: the signal comes before they send.
TERMINATED_AS_IT_ENDS = """
import multiprocessing, multiprocessing.util
def work():
    mlflow.start_run()
    mlflow.log_metric("of the child", 1.0)
    me = os.getpid(), signal.SIGTERM
    multiprocessing.util.Finalize(None, os.kill, me, exitpriority=100)
process = multiprocessing.get_context("fork").Process(target=work)
process.start()
process.join()
"""


@ON_GCS_ALONE
def test_a_process_that_is_terminated_as_it_ends_sends_what_it_logged(
    tracking_uri: str, state_folder: Path, machines: Machines, work: Path
) -> None:
    assert train(TERMINATED_AS_IT_ENDS, tracking_uri, state_folder).code == 0
    assert only_run(machines()).data.metrics == {"of the child": 1.0}


CREATES_FOR_OTHERS = """
import subprocess
client = mlflow.MlflowClient()
run_id = client.create_run("0").info.run_id
os.environ["MLFLOW_RUN_ID"] = run_id
{then}
"""


@ON_GCS_ALONE
@pytest.mark.parametrize(
    ("then", "status"),
    [
        ("subprocess.run([sys.executable, 'worker.py', 'works'])", "FINISHED"),
        ("subprocess.run([sys.executable, 'worker.py', 'fails'])", "FAILED"),
        (
            "subprocess.run([sys.executable, 'worker.py', 'works'])\n"
            "for each in session._sessions.values():\n    each._tick()\n"
            "assert client.get_run(run_id).info.status == 'FINISHED'",
            "FINISHED",
        ),
        # Whoever created it is gone when it ends.
        (
            "child = subprocess.Popen([sys.executable, 'worker.py', 'waits'],"
            " stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)\n"
            "child.stdout.readline()\nsay(child.pid)\nos.kill(os.getpid(), signal.SIGKILL)",
            "KILLED",
        ),
    ],
)
def test_a_run_that_was_created_for_another_process_ends_with_that(
    then: str,
    status: str,
    tracking_uri: str,
    state_folder: Path,
    machines: Machines,
    work: Path,
) -> None:
    ended = train(CREATES_FOR_OTHERS.replace("{then}", then), tracking_uri, state_folder)
    if status == "KILLED":
        process = os.pidfd_open(int(ended.output.split()[-1]))
        signal.pidfd_send_signal(process, signal.SIGTERM)
        ready = select.poll()  # not `select`: its numbers end at 1023
        ready.register(process, select.POLLIN)
        ready.poll()
        os.close(process)
    else:
        assert ended.code == 0, ended.errors
    assert only_run(machines()).info.status == status


OWNER = """
from kaggleops.tracking import ownership
ownership.claim("gs://our-bucket", "a-run")
say("claimed")
sys.stdin.readline()
ownership.release("gs://our-bucket", "a-run")
say("released")
"""


def test_no_word_is_left_to_an_owner_that_ends_meanwhile(state_folder: Path) -> None:
    owner = Training(OWNER, "gs://our-bucket/mlruns", state_folder)
    owner.until("claimed")

    def end(frame: FrameType, event: str, called: object) -> None:
        if event == "c_exception" and called is fcntl.flock:  # the lock is the owner's
            sys.setprofile(None)
            owner.tell("end")
            owner.until("released")

    sys.setprofile(end)
    assert not ownership.leave_word("gs://our-bucket", "a-run", RunStatus.FINISHED, 1)
    assert owner.end().code == 0


# One that comes just as the main thread begins to wait: here another thread takes it meanwhile.
COMES_ONCE = """
import multiprocessing, time
signal.alarm(60)
run = mlflow.start_run()
mlflow.log_metric("loss", 1.0)
lock = multiprocessing.get_context("fork").Lock()
lock.acquire()
def send():
    time.sleep(0.2)  # by then it waits; else it is only heard the easier
    signal.pthread_kill(threading.get_ident(), signal.{how})
threading.Thread(target=send, daemon=True).start()
lock.acquire()
"""


MANY_FILES = """
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
files = [os.dup(1) for _ in range(1100)]
"""


@ON_GCS_ALONE
@pytest.mark.parametrize(
    ("how", "first"), [("SIGTERM", ""), ("SIGHUP", ""), ("SIGTERM", MANY_FILES)]
)
def test_a_signal_that_comes_once_is_heard(
    how: str, first: str, tracking_uri: str, state_folder: Path, machines: Machines
) -> None:
    ended = train(first + COMES_ONCE.replace("{how}", how), tracking_uri, state_folder)
    assert ended.code == 128 + signal.Signals[how], ended.errors
    run = only_run(machines())
    assert (run.info.status, run.data.metrics) == ("KILLED", {"loss": 1.0})


# Between two lines of MLflow, which has forgotten the run by then.
AS_A_RUN_ENDS = """
signal.alarm(60)
def end(frame, event, _):
    if event == "call" and frame.f_code.co_name == "set_terminated":
        sys.setprofile(None)
        os.kill(os.getpid(), signal.SIGTERM)
with mlflow.start_run():
    mlflow.log_metric("loss", 1.0)
    sys.setprofile(end)
wait()
"""


@ON_GCS_ALONE
def test_a_signal_that_comes_as_a_run_ends_ends_the_process_after_it(
    tracking_uri: str, state_folder: Path, machines: Machines
) -> None:
    ended = train(AS_A_RUN_ENDS, tracking_uri, state_folder)
    assert ended.code == 128 + signal.SIGTERM, ended.errors
    run = only_run(machines())
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"loss": 1.0})


AS_A_RUN_BEGINS = """
signal.alarm(60)
def end(frame, event, _):
    if event == "call" and frame.f_code.co_name == "_send_now":
        sys.setprofile(None)
        os.kill(os.getpid(), signal.{how})
sys.setprofile(end)
mlflow.start_run()
wait()
"""


@ON_GCS_ALONE
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
def test_a_run_that_a_signal_ends_as_it_begins_is_killed(
    how: str, tracking_uri: str, state_folder: Path, machines: Machines
) -> None:
    ended = train(AS_A_RUN_BEGINS.replace("{how}", how), tracking_uri, state_folder)
    assert ended.code in (128 + signal.SIGTERM, -signal.SIGINT), ended.errors
    assert only_run(machines()).info.status == "KILLED"


# Where its workers are killed, one of them with a lock that the pool's end needs: how they begin,
# and when they are there.
IN_A_POOL = {
    "as they wait for a task": ("None", "pool.map(abs, range(4))"),
    "as one sends a result": ("send", "sending.wait()"),
}

POOL_TO_END = """
import multiprocessing
from kaggleops.tracking import signals
signals.AGAIN = 0.1
signal.alarm(60)
run = mlflow.start_run()
context = multiprocessing.get_context("fork")
sending = context.Event()
def send():
    with sys._getframe(1).f_locals["outqueue"]._wlock:
        sending.set()
        signal.pause()
with context.Pool(2, {initializer}) as pool:
    {there}
    say(os.getpid())
    wait()
"""


@ON_GCS_ALONE
@pytest.mark.parametrize("where", IN_A_POOL)
def test_a_signal_to_all_ends_a_training_with_a_pool(
    where: str, tracking_uri: str, state_folder: Path, machines: Machines
) -> None:
    initializer, there = IN_A_POOL[where]
    script = POOL_TO_END.replace("{initializer}", initializer).replace("{there}", there)
    training = Training(script, tracking_uri, state_folder)
    group = int(training.line())
    training.until("waiting")
    os.killpg(group, signal.SIGTERM)
    ended = training.end()
    assert ended.code == 128 + signal.SIGTERM, ended.errors
    assert only_run(machines()).info.status == "KILLED"


# Where the end that a signal asks for gets no further.
SWALLOWED = {
    # Importing a module calls such ones.
    "in a callback of a weak reference": """
class Gone:
    pass
gone = Gone()
reference = weakref.ref(gone, lambda _: end())
del gone
""",
    "by who catches everything": """
try:
    end()
except BaseException:
    pass
""",
    # Python 3.11 makes a RuntimeError of what a class raises while it is made.
    "as another error": """
class Named:
    def __set_name__(self, owner, name):
        end()
try:
    class Owner:
        named = Named()
except Exception:
    pass
""",
}


@ON_GCS_ALONE
@pytest.mark.parametrize("how", SWALLOWED)
def test_an_end_that_was_swallowed_is_asked_for_again(
    how: str, tracking_uri: str, state_folder: Path, machines: Machines
) -> None:
    script = f"""
import weakref
from kaggleops.tracking import signals
signal.alarm(60)
signals.AGAIN = 0.1
run = mlflow.start_run()
mlflow.log_metric("loss", 1.0)
def end():
    os.kill(os.getpid(), signal.SIGTERM)
{SWALLOWED[how]}
wait()
"""
    ended = train(script, tracking_uri, state_folder)
    assert ended.code == 128 + signal.SIGTERM, ended.errors
    run = only_run(machines())
    assert (run.info.status, run.data.metrics) == ("KILLED", {"loss": 1.0})


AS_IT_IS_FORKED = """
run = mlflow.start_run()
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
child = os.fork()
if not child:
    signal.alarm(60)
    signal.pause()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
"""


@ON_GCS_ALONE
def test_a_process_can_be_ended_as_it_is_forked(
    tracking_uri: str, state_folder: Path, machines: Machines
) -> None:
    ended = train(AS_IT_IS_FORKED + GOES_ON, tracking_uri, state_folder)
    assert ended.code == 0, ended.errors
    assert only_run(machines()).info.status == "FINISHED"


AS_IT_BEGINS = """
import os, signal
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
from kaggleops.tracking import signals
child = os.fork()
if not child:
    signal.alarm(60)
    signal.pause()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
"""


# No other process has registered what it does in a fork before this package did.
@pytest.mark.usefixtures("cold_python")
def test_a_signal_that_a_process_gets_as_it_is_forked_does_not_end_its_parent() -> None:
    subprocess.run([sys.executable, "-c", AS_IT_BEGINS], check=True)


# As one that becomes a daemon closes all files.
ALL_CLOSED = """
import os, signal
from kaggleops.tracking import signals
os.closerange(3, 100)
child = os.fork()
if not child:
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
"""


def test_a_process_that_is_forked_when_all_files_were_closed_can_be_ended() -> None:
    subprocess.run([sys.executable, "-c", ALL_CLOSED], check=True)
