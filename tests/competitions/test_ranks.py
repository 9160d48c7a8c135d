"""Several processes that train one model: as one does, with one run, and one end for all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml
from mlflow.entities import RunStatus

from competitions import runs
from competitions.inference import Predictor
from competitions.train import divide
from kaggleops.session_end import SESSION_ENDS
from tests.competitions.drawing import draw
from tests.competitions.launching import ROOT, artifacts, client, environment, launch, only_run
from tests.warm import forked

FAST = [
    "task=tweet_sentiment",
    "trainer=fast",
    "data.rows=65",
    "model.head_layers=[-1,-2]",
    "trainer.devices=2",
]
KEPT = ["trainer.max_steps=6", "trainer.average_from=0.3", "trainer.checkpoints=epoch"]


def test_two_processes_draw_what_one_does(tmp_path: Path) -> None:
    """An epoch of 45 rows: five steps of two batches of four, and one of the five that are left."""
    started = subprocess.run(
        [sys.executable, "-m", "tests.competitions.drawing", "launch", "45", "4", str(tmp_path)],
        cwd=ROOT,
        env=environment(tmp_path),
        check=False,
    )
    assert started.returncode == 0
    together = zip(*(json.loads((tmp_path / f"{n}.json").read_text()) for n in (0, 1)), strict=True)
    for (first, second), alone in zip(together, draw(45, 8), strict=True):
        steps = [[*one, *other] for one, other in zip(first, second, strict=True)]
        assert len(steps) == 6
        assert steps[:5] == alone[:5]
        # What the last lacks are the rows that the epoch began with.
        assert steps[5] == alone[5] + alone[0][:3]
        assert {row for step in steps for row in step} == set(range(45))


def test_a_training_in_two_processes(tmp_path: Path) -> None:
    """Interrupted and continued, it equals one that was not, and each point is there once."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    whole.mkdir()
    part.mkdir()
    done = launch("train", *FAST, *KEPT, cwd=whole)
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert ", on 2 processes, 1 CPU thread in fp32" in first
    assert last.startswith("done: jaccard")
    assert len(set(done.stdout.splitlines())) == len(done.stdout.splitlines())
    run_id = only_run(whole)
    run = client(whole).get_run(run_id)
    assert (run.info.status, run.data.params["trainer.devices"]) == ("FINISHED", "2")
    for key, steps in (
        ("loss", range(1, 7)),
        ("eval_jaccard", (2, 4, 6)),
        ("averaged_jaccard", (6,)),
    ):
        points = client(whole).get_metric_history(run_id, key)
        assert sorted(point.step for point in points) == list(steps), key  # logged in threads

    # Each validation row once, in its order, with what the model answers.
    table = pd.read_csv(artifacts(whole, run_id) / "oof.csv", keep_default_na=False)
    model = Predictor(artifacts(whole, run_id) / "model")
    answers = model.predict(table[["textID", "text", "sentiment"]])
    assert answers["selected_text"].tolist() == table["prediction"].tolist()
    assert table["textID"].is_unique

    stopped = launch("train", *FAST, *KEPT, cwd=part, **{SESSION_ENDS: "0"})
    assert stopped.returncode == 42, stopped.stderr
    assert stopped.stdout.splitlines()[-1].startswith("the session ends: stopped at step 1 of 6")
    continued = launch("train", *FAST, *KEPT, cwd=part, MLFLOW_RUN_ID=only_run(part))
    assert continued.returncode == 0, continued.stderr
    assert continued.stdout.count("continuing run") == 1
    for name in ("model/model.safetensors", "oof.csv"):
        same = [artifacts(cwd, only_run(cwd)) / name for cwd in (whole, part)]
        assert same[0].read_bytes() == same[1].read_bytes(), name


def test_an_error_in_each_process_is_one_line(tmp_path: Path) -> None:
    more = ["trainer.learning_rate=1e38", "trainer.warmup=0", "trainer.max_grad_norm=1e38"]
    done = launch("train", *FAST, *more, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: training step ")
    assert "the loss is" in line
    assert client(tmp_path).get_run(only_run(tmp_path)).info.status == "FAILED"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_all(rank: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "competitions.train", *FAST, "trainer.max_steps=100000"]
    training = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(tmp_path / "mlruns"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert training.stdout
    assert training.stderr
    assert any("validation jaccard" in line for line in training.stdout)  # reads no further
    processes = psutil.Process(forked(training.pid)).children()
    (killed,) = (each for each in processes if each.environ().get("RANK") == str(rank))
    os.kill(forked(killed.pid), signal.SIGKILL)
    training.stdout.read()
    line = training.stderr.read().rstrip()
    assert "\n" not in line
    assert line.startswith(f"error: training: process {rank} of 2 was killed (SIGKILL). ")
    assert training.wait() == 1
    assert not any(each.is_running() for each in processes)
    # MLflow's file store cannot read a run of which a metric was killed as it was begun.
    (run,) = (tmp_path / "mlruns/0").glob("*/meta.yaml")
    assert RunStatus.to_string(yaml.safe_load(run.read_text())["status"]) == "FAILED"


def test_all_folds_in_two_processes(tracking: Path) -> None:
    small = ["model.build.hidden_size=16", "model.build.layers=1", "trainer.max_steps=2"]
    given = ["task=disaster_tweets", "trainer=fast", "data.rows=40", "folds=2", "fold=all", *small]
    done = launch("train", *given, "trainer.devices=2", cwd=tracking)
    assert done.returncode == 0, done.stderr
    found = {run.data.params["fold"]: run for run in client(tracking).search_runs(["0"])}
    assert sorted(found) == ["0", "1", "all"]
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert sorted(runs.fold_runs(found["all"].info.run_id)) == [0, 1]
    assert len(pd.read_csv(artifacts(tracking, found["all"].info.run_id) / "oof.csv")) == 40


@pytest.mark.parametrize(
    ("wanted", "gpus", "shares", "processes"),
    [
        ("auto", 0, 1, 1),
        ("auto", 2, 2, 2),
        (2, 0, 2, 2),
        (1, 2, 1, 1),
        # A run that was started where there are more GPUs, or fewer.
        (2, 1, 2, 1),
        ("4", 3, 4, 2),
        ("3", 2, 3, 1),
        ("1", 8, 1, 1),
    ],
)
def test_shares_and_processes(wanted: int | str, gpus: int, shares: int, processes: int) -> None:
    assert divide(wanted, gpus) == (shares, processes)
