"""Runs carry what the UI can group them by, and what people write about them stays."""

import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from kaggleops.mlruns.ui import described
from kaggleops.tags import COMMIT, NOTE

SCRIPT = """
import subprocess
import sys
import mlflow
with mlflow.start_run():
    pass
who = ("-c", "user.name=Ada", "-c", "user.email=a@b.c")
commit = ("commit", "--quiet", "--allow-empty", "--message=meanwhile")
subprocess.run(["git", "-C", sys.path[0], *who, *commit], check=True)
with mlflow.start_run() as run:
    print(run.info.run_id)
"""


@pytest.mark.parametrize("bucket", ["directory"], indirect=True)
def test_a_scripts_own_run_carries_its_commit_and_its_machine(fluent: str, tmp_path: Path) -> None:
    repository = tmp_path / "mine"
    repository.mkdir()
    (repository / "train.py").write_text(SCRIPT)
    (repository / "MLproject").write_text("score: {metric: gap, better: lower}")

    def git(*words: str) -> str:
        config = ["-c", "user.name=Ada", "-c", "user.email=a@b.c"]
        done = ["git", *config, *words]
        return subprocess.run(
            done, cwd=repository, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "--initial-branch=work")
    git("add", ".")
    git("commit", "--message=first")
    first = git("rev-parse", "HEAD")
    run_id = subprocess.run(
        [sys.executable, repository / "train.py"], check=True, capture_output=True, text=True
    ).stdout.strip()
    tags = MlflowClient().get_run(run_id).data.tags
    assert tags["git_commit"] == first[:10] != git("rev-parse", "HEAD")[:10]
    assert (tags["git_branch"], tags["git_subject"]) == ("work", "first")
    assert tags["commit"] == f"{tags['git_commit']} first"
    assert tags["kaggleops.score"] == "gap lower"
    assert tags["backend"] == "local"
    assert tags["accelerator"]


def test_runs_elsewhere_get_no_tags_of_ours(tmp_path: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/x.db")
    with mlflow.start_run() as run:
        pass
    assert not {"backend", "accelerator"} & mlflow.get_run(run.info.run_id).data.tags.keys()
    mlflow.set_tracking_uri(None)


@pytest.mark.parametrize("bucket", ["directory"], indirect=True)
def test_a_note_set_by_the_training_stands_below_the_description(fluent: str) -> None:
    ours = described({COMMIT: "a" * 40})
    with mlflow.start_run() as run:
        mlflow.set_tag(NOTE, ours)
        mlflow.set_tag(NOTE, "learning rate too high")
    found = mlflow.get_run(run.info.run_id).data.tags[NOTE]
    assert found == f"{ours}\n\nlearning rate too high"
