"""Folds as a sweep, from a commit to one training: of any project, and of this one's sample."""

import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from kaggleops.tags import BEST, LEGS, NOTE, PARENT
from tests.command import Done, kaggleops_here
from tests.fakes.git_server import Repository
from tests.warm import stand_in

ROOT = Path(__file__).resolve().parents[2]
FAST = ["task=disaster_tweets", "trainer=fast", "data.rows=40", "folds=3"]
FAST += ["model.build.hidden_size=16", "model.build.layers=1"]


MLPROJECT = """
name: toy
entry_points:
  main:
    parameters:
      alpha: {type: float, default: 0.5}
      fold: {type: string, default: none}
    command: "python train.py {alpha} {fold}"
"""
TRAIN = """
import sys
import mlflow

alpha, fold = float(sys.argv[1]), int(sys.argv[2])
rows = {f"{fold}-{row}": alpha * row / 4 for row in range(1 + fold)}
with mlflow.start_run():
    mlflow.log_metric("acc", sum(rows.values()) / len(rows))
    mlflow.log_param("machine", f"machine {fold}")
    lines = "".join(f"{row},{score}\\n" for row, score in rows.items())
    mlflow.log_text(f"id,acc\\n{lines}", "oof.csv")
"""


def test_trials_of_folds_from_the_command_to_the_leaderboard(tmp_path: Path) -> None:
    toy = Repository(tmp_path / "toy")
    toy.write(MLproject=MLPROJECT, train_py=TRAIN, **{"config__backend__local.yaml": "jobs: 4\n"})
    toy.commit("Train a toy")
    bucket = tmp_path / "bucket"

    def say(command: str, *words: object) -> Done:
        done = kaggleops_here(command, "--bucket", bucket, *words, cwd=toy.folder)
        assert done.code == 0, done.errors
        return done

    say("sweep", "fold=0,1", "alpha=1,2", "--metric", "acc", "--name", "both")
    client = mlflow.MlflowClient(f"bucket+file://{bucket}/mlruns")
    runs = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    parent, *trials = (by_name[f"both{end}"] for end in ("", "-0", "-1"))
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert parent.data.metrics == {"best_acc": 0.125}
    assert parent.data.tags[BEST] == trials[1].info.run_id
    assert "2 of 2 trials." in parent.data.tags[NOTE]
    for alpha, trial in enumerate(trials, 1):
        assert trial.data.tags[PARENT] == parent.info.run_id
        folds = [run for run in runs if run.data.tags.get(PARENT) == trial.info.run_id]
        assert len(folds) == 2
        assert trial.data.metrics["acc_mean"] == alpha / 16
        assert trial.data.metrics["oof_acc"] == pytest.approx(alpha / 12)
        table = Path(client.download_artifacts(trial.info.run_id, "oof.csv")).read_text()
        assert table == f"id,acc\n0-0,0.0\n1-0,0.0\n1-1,{alpha / 4}\n"
    (line,) = say("leaderboard", "--metric", "acc", "--json").json["commits"]
    assert (len(line["runs"]), line["score"]) == (2, 0.125)
    best, _ = say("leaderboard", "--sweep", "both", "--json").json["trials"]
    assert (best["run_id"], best["settings"]) == (trials[1].info.run_id, {"alpha": "2"})
    shown = {row["name"]: row["sweep"] for row in say("status", "--json").json["runs"]}
    assert shown["both"] == "sweep, 2 of 2 trials"


PREDICT = """
import os, signal, sys
import mlflow

shard, shards = map(int, sys.argv[1:])
rows = [f'"{row}","of {row}, and so on"\\n' for row in range(10)]
mine = rows[10 * shard // shards:10 * (shard + 1) // shards]
with mlflow.start_run() as run:
    kept = mlflow.MlflowClient().list_artifacts(run.info.run_id, "parts")
    print("kept", len(kept), flush=True)
    mlflow.log_text(mine[0], "parts/0.csv")
    if shard and not kept:
        os.kill(os.getpid(), signal.SIGKILL)
    mlflow.log_text('"id","text"\\n' + "".join(mine), "submission.csv")
"""


@pytest.mark.slow
def test_shards_of_a_prediction_one_of_which_was_killed(tmp_path: Path) -> None:
    toy = Repository(tmp_path / "toy")
    toy.write(
        MLproject=MLPROJECT.replace("main:", "predict:")
        .replace("alpha: {type: float, default: 0.5}", "shards: {type: string}")
        .replace("fold: {type: string, default: none}", "shard: {type: string}")
        .replace("train.py {alpha} {fold}", "predict.py {shard} {shards}"),
        predict_py=PREDICT,
        **{"config__backend__local.yaml": "jobs: 2\n"},
    )
    toy.commit("Predict")
    asked = ("-e", "predict", "shards=2", "shard=0,1", "--folds", "shard", "--json")
    done = kaggleops_here("sweep", "--bucket", tmp_path / "bucket", *asked, cwd=toy.folder)
    assert done.code == 0, done.errors
    client = mlflow.MlflowClient(f"bucket+file://{tmp_path}/bucket/mlruns")
    runs = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    (parent,) = [run for run in runs if PARENT not in run.data.tags]
    table = pd.read_csv(client.download_artifacts(parent.info.run_id, "submission.csv"))
    assert table["id"].tolist() == [*range(10)]
    assert set(table["text"]) == {f"of {row}, and so on" for row in range(10)}
    (killed,) = [run for run in runs if LEGS in run.data.tags]
    printed = Path(client.download_artifacts(killed.info.run_id, "output.txt")).read_text()
    assert printed == "kept 0\n\n[leg 2]\n\nkept 1\n"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """This project as it stands, committed."""
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others"]
    listed += ["--exclude-standard", "MLproject", "conda.yaml", "config", "src"]
    names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0")
    repository = Repository(tmp_path / "kaggleops")
    for name in filter(None, names):
        copy = repository.folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy)
    repository.commit("As it stands")
    return repository.folder


@pytest.mark.slow
def test_folds_of_the_sample_that_ran_in_processes_of_their_own_are_one_training(
    clone: Path, tmp_path: Path
) -> None:
    bucket = tmp_path / "bucket"
    environment = {**stand_in("training"), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    asked = ("--bucket", bucket, "-b", "local", "--json", "fold=0,1,2", *FAST)
    done = kaggleops_here("sweep", *asked, cwd=clone, **environment)
    assert done.code == 0, done.errors
    client = mlflow.MlflowClient(f"bucket+file://{bucket}/mlruns")
    experiment = client.get_experiment_by_name("disaster_tweets")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if PARENT not in run.data.tags]
    folds = [run for run in runs if run is not parent]
    assert {run.data.tags[PARENT] for run in folds} == {parent.info.run_id}
    assert parent.info.status == "FINISHED"
    of_folds = [run.data.metrics["f1"] for run in folds]
    assert parent.data.metrics["f1_mean"] == pytest.approx(sum(of_folds) / 3)
    assert "3 of 3 folds." in parent.data.tags[NOTE]
    # F1 is no mean over rows: the project's own entry point computes it.
    assert "`kaggleops run -e gather runs=" in parent.data.tags[NOTE]
    table = pd.read_csv(client.download_artifacts(parent.info.run_id, "oof.csv"), dtype=str)
    assert len(table) == table["id"].nunique() == 40
    done = kaggleops_here("leaderboard", "--bucket", bucket, "--metric", "f1", "--json", cwd=clone)
    (line,) = done.json["commits"]
    assert len(line["runs"]) == 3
    assert line["score"] == pytest.approx(sum(of_folds) / 3)
    shown = kaggleops_here("status", "--bucket", bucket, "--json", cwd=clone).json["runs"]
    (said,) = [row["sweep"] for row in shown if row["run_id"] == parent.info.run_id]
    assert said == "sweep, 3 of 3 folds"
