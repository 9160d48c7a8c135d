"""A run's page and its experiment's run table, as `kaggleops run` leaves them."""

import json
from pathlib import Path

import mlflow
import pytest

from kaggleops.mlruns import ui
from kaggleops.tags import NOTE
from tests.command import kaggleops
from tests.fakes.git_server import Repository


def test_a_run_is_described_by_its_commit_and_what_changed_since_the_run_before(
    toy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.git("remote", "add", "origin", "https://github.com/ada/toy")
    before, sha = toy.git("rev-parse", "HEAD~"), toy.git("rev-parse", "HEAD")
    bucket = tmp_path / "bucket"
    monkeypatch.setenv("KAGGLEOPS_NOTEBOOK_URL", "https://www.kaggle.com/code/ada/toy")
    for version in (before, sha):
        done = kaggleops("run", "--version", version, "--bucket", bucket, "--json", cwd=toy.folder)
        assert done.code == 0, done.errors
    client = mlflow.MlflowClient(f"bucket+file://{bucket}/mlruns")
    run = client.get_run(done.json["run_id"])
    note = run.data.tags[NOTE]
    web = "https://github.com/ada/toy"
    assert f"[Commit `{sha[:10]}`]({web}/commit/{sha})" in note
    assert f"({web}/compare/{before}...{sha})" in note
    assert f"%22{run.info.run_id}%22" in note.partition("#/compare-runs?runs=")[2]
    assert "[notebook](https://www.kaggle.com/code/ada/toy)" in note
    experiment = client.get_experiment(run.info.experiment_id)
    view = json.loads(experiment.tags[ui.TAG])
    assert view["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "git_commit"}]
