"""A run that is stopped from outside: never FINISHED, and nothing else is stopped with it."""

import os
import signal
import time
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from kaggleops.bucket import Bucket
from tests.command import kaggleops_here
from tests.fakes.git_server import Repository
from tests.server.serving import eventually
from tests.tracking.processes import Training

# A fork's parent and its environment are not those of a process that anybody starts.
pytestmark = [
    pytest.mark.usefixtures("cold_python"),
    pytest.mark.parametrize("bucket", ["gcs"], indirect=True),
]

MLPROJECT = """
name: toy
entry_points:
  main:
    command: "python train.py"
"""

# Signals who runs it, and goes on; MLflow's handler at its exit ends the run. Who holds the other
# end of `held` sees when it has ended, whoever its parent is by then.
TRAIN = """
import code, os, signal, time
import mlflow
code.InteractiveInterpreter().runsource("1 / 0")  # an error, which does not end it
held = open(os.environ["HELD"], "w")
mlflow.log_metric("loss", 0.5)
print("begun", flush=True)
os.kill(os.getppid(), int(os.environ["WHICH"]))
for _ in range(1000 if os.environ["WHICH_ENDS"] else 1):
    time.sleep(0.1)
    print("going on", flush=True)
"""

COMMAND = """
for each in signal.SIGHUP, signal.SIGQUIT:
    if signal.getsignal(each) is signal.SIG_IGN:  # as a shell leaves it in the background
        signal.signal(each, signal.SIG_DFL)
if not os.environ["WHICH_ENDS"]:
    signal.signal(int(os.environ["WHICH"]), signal.SIG_IGN)  # as below nohup
from kaggleops.cli import main
main(["run", "--bucket", {bucket!r}, "--repository", {repository!r}])
"""


def only_run(bucket: Bucket) -> Run:
    client = mlflow.MlflowClient(f"{bucket.uri}/mlruns")
    homes = [each.experiment_id for each in client.search_experiments()]
    (run,) = client.search_runs(homes)
    return run


def repository(tmp_path: Path, train: str) -> str:
    made = Repository(tmp_path / "toy")
    made.write(MLproject=MLPROJECT, train_py=train)
    made.commit("Train")
    os.mkfifo(tmp_path / "held")
    return str(made.folder)


@pytest.mark.parametrize(
    ("which", "ends", "status"),
    [
        ("SIGKILL", "yes", "FAILED"),
        ("SIGHUP", "yes", "KILLED"),
        ("SIGQUIT", "yes", "KILLED"),
        ("SIGHUP", "", "FINISHED"),
    ],
)
def test_a_half_training_is_never_finished(
    which: str, ends: str, status: str, bucket: Bucket, tmp_path: Path, state_folder: Path
) -> None:
    script = COMMAND.format(bucket=bucket.uri, repository=repository(tmp_path, TRAIN))
    environment = {
        "HELD": str(tmp_path / "held"),
        "WHICH": str(int(signal.Signals[which])),
        "WHICH_ENDS": ends,
    }
    training = Training(script, f"{bucket.uri}/mlruns", state_folder, **environment)
    (tmp_path / "held").read_text()  # until it has ended
    ended = training.end()
    assert (ended.code == 0) == (status == "FINISHED"), ended.errors
    run = only_run(bucket)
    assert (run.info.status, run.data.metrics) == (status, {"loss": 0.5}), ended.errors


JOB = """
import os, signal, time
import mlflow
with mlflow.start_run():
    mlflow.set_tag("submitted_to", "runpod")
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("left", "said"), [(-1, "its time was up"), (3600, "its machine was stopped")]
)
def test_a_job_that_is_told_to_end_says_why(
    left: int, said: str, bucket: Bucket, tmp_path: Path, state_folder: Path
) -> None:
    script = COMMAND.format(bucket=bucket.uri, repository=repository(tmp_path, JOB))
    environment = {"WHICH_ENDS": "yes", "KAGGLEOPS_SESSION_ENDS": str(time.time() + left)}
    ended = Training(script, f"{bucket.uri}/mlruns", state_folder, **environment).end()
    assert said in ended.errors
    run = only_run(bucket)
    assert (run.info.status, run.data.tags["job_ended"]) == ("KILLED", said)


# Its helper has lost the shell that started it.
WAITS = """
import os, subprocess, time
import mlflow
with mlflow.start_run() as run:
    helper = subprocess.check_output(["bash", "-c", "sleep 1000 >/dev/null & echo $!"], text=True)
    with open(os.environ["HELD"], "w") as held:
        held.write(f"{run.info.run_id} {helper}")
    while True:
        mlflow.log_metric("loss", 0.5)
        time.sleep(0.01)
"""

CALLER = """
import subprocess
other = subprocess.Popen(["sleep", "1000"])
command = [sys.executable, "-m", "kaggleops", "run", "--bucket", {bucket!r}]
say(subprocess.run([*command, "--repository", {repository!r}]).returncode)
say(other.poll())
other.kill()
"""


def test_cancelling_a_run_ends_its_processes_and_not_the_script_that_called_it(
    bucket: Bucket, tmp_path: Path, state_folder: Path
) -> None:
    script = CALLER.format(bucket=bucket.uri, repository=repository(tmp_path, WAITS))
    environment = {"HELD": str(tmp_path / "held"), "KAGGLEOPS_FLUSH_SECONDS": "0.1"}
    caller = Training(script, f"{bucket.uri}/mlruns", state_folder, **environment)
    run_id, helper = (tmp_path / "held").read_text().split()
    done = kaggleops_here("cancel", run_id, "--bucket", bucket.uri, cwd=tmp_path)
    assert done.code == 0, done.errors
    ended = caller.end()
    assert ended.code == 0, ended.errors
    assert ended.output.split()[-2:] == ["1", "None"], ended.output
    eventually(lambda: not Path(f"/proc/{helper}/exe").exists())
    assert only_run(bucket).info.status == "KILLED"
