"""`kaggleops watch`, and the commands that take a sweep as they take a run."""

import json
import os
import pty
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import mlflow
import pytest

from kaggleops.campaign import children
from kaggleops.campaign.sweep import fold_id, trial_id
from kaggleops.cli.indexed import history_of
from kaggleops.cli.watch import _interruptible
from kaggleops.tags import CANCELLED, PAUSED
from tests.campaign.world import World, world
from tests.command import kaggleops_here


@pytest.fixture
def toys(tmp_path: Path) -> World:
    """A repository, and a bucket in a folder."""
    return world(tmp_path)


def test_a_bucket_without_sweeps_has_nothing_to_do(toys: World) -> None:
    toys.begin("alpha=1,2")
    sweep_id = toys.begin("alpha=1,2")
    kaggleops_here("cancel", sweep_id, "--bucket", toys.place)
    with history_of(toys.place, None, fresh_for=0) as history:
        kaggleops_here("cancel", *history.ids_by_tag("sweep").popitem()[1], "--bucket", toys.place)
    done = kaggleops_here("watch", "--once", "--bucket", toys.place)
    assert (done.code, done.output) == (0, "no sweep is open\n")


def test_a_bucket_that_is_not_there_is_one_line(toys: World) -> None:
    done = kaggleops_here("watch", "--once", "--bucket", toys.folder / "nothing")
    assert done.code == 1
    assert "does not exist" in done.error


def test_a_problem_is_told_once(toys: World) -> None:
    sweep_id = toys.begin("alpha=1,2")
    children.set_tags(toys.uri, sweep_id, {"sweep": "[]"})
    done = kaggleops_here("watch", "--once", "--bucket", toys.place)
    assert done.code == 1
    assert done.errors.count(f"sweep {sweep_id}: ") == 1


def test_at_a_terminal_it_is_one_table_that_is_redrawn(toys: World, cold_python: None) -> None:
    """Whether it can be redrawn a process sees when it begins: here, cold."""
    toys.begin("alpha=1,2", backends=["nowhere"], configs={"nowhere": {}})
    reading, terminal = pty.openpty()
    command = [sys.executable, "-m", "kaggleops", "watch", "--bucket", toys.place]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200"}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal, env=environment
    ) as watching:
        os.close(terminal)
        written = b""
        while b"there is none of that name" not in written:
            written += os.read(reading, 1 << 16)
        watching.send_signal(signal.SIGINT)  # it is shown once more, and stays
        while b"The jobs go on." not in written:
            written += os.read(reading, 1 << 16)
    os.close(reading)
    assert watching.returncode == 0
    shown = written.decode()  # only now: what is read may end in the midst of a letter
    _, *between, after = shown.split("Waits for")
    assert between
    up = "\x1b[1A\x1b[2K"  # over the table before
    assert all(up in each for each in between)
    assert up not in after
    assert "waits: 1 job" not in shown  # not as a line, too


def test_it_is_interrupted_however_it_waits_just_then() -> None:
    with _interruptible() as stop:
        with stop._cond:  # as `wait` and `set` have it for a moment
            # Not SIGTERM: a process that logs, as that of the tests, may send itself one again.
            signal.raise_signal(signal.SIGINT)
        assert stop.wait(60)


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1", "TERM": "dumb"}])
def test_elsewhere_it_is_lines(toys: World, environment: dict[str, str]) -> None:
    toys.begin("alpha=1,2", backends=["nowhere"], configs={"nowhere": {}})
    done = kaggleops_here("watch", "--once", "--bucket", toys.place, **environment)
    assert "Waits for" not in done.output
    assert "\x1b[2K" not in done.output
    assert any(line.startswith("waits: ") for line in done.output.splitlines())


def test_a_platform_that_is_not_set_up_is_named_and_the_sweep_waits(toys: World) -> None:
    sweep_id = toys.begin("alpha=1,2", backends=["nowhere"], configs={"nowhere": {}})
    done = kaggleops_here("watch", "--once", "--json", "--bucket", toys.place)
    (told,) = json.loads(done.output)["sweeps"]
    assert (told["sweep"], told["running"]) == (sweep_id, {})
    assert "there is none of that name" in told["waits_for"]


def test_a_sweep_over_folds_alone_counts_its_folds(toys: World) -> None:
    folds = {"fold_axis": "fold", "folds": ["0", "1"]}
    toys.begin("fold=0,1", trials=1, backends=["nowhere"], configs={"nowhere": {}}, **folds)
    done = kaggleops_here("watch", "--once", "--bucket", toys.place)
    assert ": 0 of 2 folds" in done.output


def test_a_sweep_is_cancelled_and_resumed_whole(toys: World) -> None:
    sweep_id = toys.begin("alpha=1,2", backends=["nowhere"], configs={"nowhere": {}})
    assert kaggleops_here("watch", "--once", "--bucket", toys.place).code == 0
    job = trial_id(sweep_id, 0)
    client = mlflow.MlflowClient(toys.uri)
    assert client.get_run(job).info.status == "SCHEDULED"
    done = kaggleops_here("cancel", sweep_id, "--json", "--bucket", toys.place)
    assert done.json["cancelled"] == [sweep_id, job]
    assert client.get_run(job).info.status == "KILLED"

    children.set_tags(toys.uri, sweep_id, {PAUSED: "it fails"})
    done = kaggleops_here("resume", sweep_id, "--bucket", toys.place)
    assert (done.code, done.output) == (0, f"sweep {sweep_id} goes on: kaggleops watch\n")
    run = client.get_run(sweep_id)
    assert (run.info.status, run.data.tags[PAUSED]) == ("SCHEDULED", "")
    assert CANCELLED not in run.data.tags
    done = kaggleops_here("watch", "--once", "--json", "--bucket", toys.place)
    assert json.loads(done.output)["sweeps"][0]["trials"] == {"SCHEDULED": 1}
    assert CANCELLED not in client.get_run(job).data.tags


def test_folds_go_on_with_their_sweep_but_what_was_cancelled_alone(toys: World) -> None:
    more = {"backends": ["nowhere"], "configs": {"nowhere": {}}}
    sweep_id = toys.begin("alpha=1,2", "fold=0,1", fold_axis="fold", folds=["0", "1"], **more)
    place = ("--bucket", toys.place)
    assert kaggleops_here("watch", "--once", *place).code == 0
    trial = trial_id(sweep_id, 0)
    client = mlflow.MlflowClient(toys.uri)
    kaggleops_here("cancel", fold_id(trial, "0"), *place)
    client.set_tag(fold_id(trial, "0"), CANCELLED, "2026-11-01 12:00 UTC")  # long ago
    done = kaggleops_here("cancel", sweep_id, "--json", *place)
    assert done.json["cancelled"] == [sweep_id, trial, fold_id(trial, "1")]
    assert kaggleops_here("resume", sweep_id, *place).code == 0
    tags = [client.get_run(each).data.tags for each in (trial, *map(partial(fold_id, trial), "01"))]
    assert [CANCELLED in each for each in tags] == [False, True, False]
    assert client.get_run(trial).info.status == "RUNNING"
