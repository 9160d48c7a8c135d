"""`kaggleops reproduce`: what made a run, made again, and whether the two agree."""

from pathlib import Path

from mlflow import MlflowClient

from kaggleops.tags import NOTE
from tests.command import kaggleops
from tests.fakes.git_server import Repository
from tests.launch.conftest import toy

__all__ = ["toy"]


def test_a_run_is_made_again_from_its_commit_and_parameters(
    toy: Repository, tmp_path: Path
) -> None:
    bucket = ("--bucket", tmp_path / "bucket")
    made = kaggleops("run", *bucket, "alpha=0.5", "x=1", "--json", cwd=toy.folder)
    assert made.code == 0, made.errors
    sha, run_id = toy.git("rev-parse", "HEAD"), made.json["run_id"]
    toy.write(train_py="raise SystemExit('not this one')")
    toy.commit("Break it")
    shown = kaggleops("reproduce", run_id, *bucket, "--json", cwd=toy.folder)
    assert shown.json["commit"] == sha
    assert shown.json["params"] == {"alpha": "0.5", "overrides": "x=1"}
    again = kaggleops("reproduce", run_id, *bucket, "--run", "--json", cwd=toy.folder)
    assert again.code == 0, again.errors
    assert again.json["agree"]
    assert again.json["equal"] == 1
    other = again.json["runs"][1]
    assert other != run_id
    client = MlflowClient(f"bucket+file://{tmp_path}/bucket/mlruns")
    assert "**alpha 0.5" in client.get_run(other).data.tags[NOTE]  # what it came to
    worse = kaggleops("run", *bucket, "--version", sha, "alpha=0.6", "--json", cwd=toy.folder)
    done = kaggleops(
        "reproduce", run_id, *bucket, "--against", worse.json["run_id"], cwd=toy.folder
    )
    assert done.code == 1
    assert "metrics: alpha is 0.5 and 0.6" in done.output
    assert "params: alpha is 0.5 and 0.6" in done.output
    assert "differ in 1 of 1 metrics" in done.errors
