"""SIGKILL at any moment: the bucket always reads back, nothing logged is lost, the run goes on."""

import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kaggleops.bucket import Bucket
from kaggleops.mlruns import EntityStore
from kaggleops.tracking.push import push
from kaggleops.tracking.store import BucketTrackingStore
from tests.buckets import ON_SERVICES

Machines = Callable[[], BucketTrackingStore]

# Imports once and forks for each training: a kill then costs a fraction of a second.
SPAWNER = """
import os, random, sys
import mlflow
from kaggleops.tracking import session, store

def train(run_id, first, seed):
    noise = random.Random(seed)
    if run_id != "-":
        os.environ["MLFLOW_RUN_ID"] = run_id
    mlflow.set_experiment("e")
    with mlflow.start_run() as run:
        say(f"run {run.info.run_id}")
        for step in range(first, first + 100_000):
            mlflow.log_metric("loss", step, step=step)
            say(f"logged {step}")
            if noise.random() < 0.2:
                mlflow.log_param(f"p{step}", step)
                mlflow.set_tag("last", step)
            if noise.random() < 0.1:
                for each in session._sessions.values():
                    each.flush()
                say(f"flushed {step}")

def say(text):
    os.write(1, (text + "\\n").encode())

for line in sys.stdin:
    run_id, first, seed = line.split()
    child = os.fork()
    if child == 0:
        train(run_id, int(first), int(seed))
    say(f"pid {child}")
    os.waitpid(child, 0)
    say("ended")
"""


class Trainings:
    """Starts trainings, one after the other, and kills them."""

    def __init__(self, tracking_uri: str, home: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SPAWNER)],
            env={
                **os.environ,
                "MLFLOW_TRACKING_URI": tracking_uri,
                "KAGGLEOPS_HOME": str(home),
                "KAGGLEOPS_FLUSH_SECONDS": "0.02",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )

    def killed_after(self, lines: int, run_id: str, first: int, seed: int) -> dict[str, list[str]]:
        """Train, kill the process once it has said so much, and return what it said, by word."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{run_id} {first} {seed}\n")
        said: dict[str, list[str]] = {"run": [], "logged": [], "flushed": []}
        pid, count = 0, 0
        for line in self._process.stdout:
            word, _, rest = line.strip().partition(" ")
            if word == "pid":
                pid = int(rest)
            elif word == "ended":
                break
            else:
                said[word].append(rest)
                count += 1
            if pid and count >= lines:
                os.kill(pid, signal.SIGKILL)
                lines = sys.maxsize
        return said

    def close(self) -> None:
        """End the spawner, and what a failed test has left of its trainings."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@pytest.fixture
def trainings(tracking_uri: str, state_folder: Path) -> Iterator[Trainings]:
    started = Trainings(tracking_uri, state_folder / "there")
    yield started
    started.close()


@ON_SERVICES
@pytest.mark.parametrize("kills", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_a_training_that_is_killed_again_and_again(
    kills: int,
    trainings: Trainings,
    bucket: Bucket,
    machines: Machines,
    state_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seed = int(os.environ.get("KAGGLEOPS_TEST_SEED", random.randrange(10**6)))
    print(f"KAGGLEOPS_TEST_SEED={seed}")  # noqa: T201 - shown where the test fails
    noise = random.Random(seed)
    run_id, first, logged = "-", 0, set[int]()
    for kill in range(kills):
        if kill % 4 == 0:  # of few kills, too, some come early and some late
            turns = noise.sample([0, 1, 2, noise.randrange(20, 80)], 4)
        lines = turns[kill % 4]
        said = trainings.killed_after(lines, run_id, first, noise.randrange(10**6))
        if said["run"]:
            (run_id,) = said["run"]
        if run_id == "-":
            continue  # killed before it had begun
        logged.update(map(int, said["logged"]))

        store = machines()
        run = store.get_run(run_id)
        assert run.info.status == "RUNNING"
        ids = [each.experiment_id for each in store.search_experiments()]
        assert run_id in {found.info.run_id for found in store.search_runs(ids, "", 1, 1000)}
        points = {int(each.value) for each in store.get_metric_history(run_id, "loss")}
        if said["flushed"]:
            assert points >= set(range(first, int(said["flushed"][-1]) + 1))
        assert all(run.data.params[name] == name[1:] for name in run.data.params)
        store._session.close()
        first = max(logged, default=-1) + 1

    monkeypatch.setenv("KAGGLEOPS_HOME", str(state_folder / "there"))
    sent = push(EntityStore(bucket))
    assert not sent.problems
    assert not sent.in_use
    history = machines().get_metric_history(run_id, "loss")
    assert {int(each.value) for each in history} >= logged
    assert len(history) == len({(each.value, each.timestamp) for each in history})
    assert len(logged) > kills
