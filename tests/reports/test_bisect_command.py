"""`kaggleops bisect`: the command, over commits that train, that fail and that log nothing."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from kaggleops.bucket.location import bucket_uri
from kaggleops.cli import main
from kaggleops.server.settings import default_index
from tests.command import Done
from tests.fakes.git_server import Repository

MLPROJECT = """
name: toy
entry_points:
  main:
    parameters:
      alpha: {{type: float, default: 0.1}}
      fold: {{type: string, default: "0"}}
    command: "{command}"
"""
TRAIN = 'python -c \\"import mlflow; mlflow.start_run(); mlflow.log_metric({}, 0.79)\\"'


class Past:
    """Commits, and a bucket with runs of some of them."""

    def __init__(self, folder: Path) -> None:
        self.repository = Repository(folder / "code")
        self.bucket = folder / "bucket"
        self.client = MlflowClient(f"bucket+file://{self.bucket}/mlruns")
        self.experiment = self.client.create_experiment("toy")
        self._clock = 1_700_000_000_000

    def commit(self, message: str, command: str | None = "true") -> str:
        """Commit a project whose entry point is a shell's command; None: that has none."""
        content = "name: toy" if command is None else MLPROJECT.format(command=command)
        self.repository.write(MLproject=f"# {message}\n{content}")
        return self.repository.commit(message)

    def log(self, sha: str, score: float, *, name: str = "", **params: str) -> str:
        """Log a run of a commit as `kaggleops run` does, and return its id."""
        self._clock += 1000
        tags = {"mlflow.source.git.commit": sha, "mlflow.project.entryPoint": "main"}
        run = self.client.create_run(self.experiment, self._clock, tags, name or None)
        for key, value in {"alpha": "0.1", "fold": "0", **params}.items():
            self.client.log_param(run.info.run_id, key, value)
        self.client.log_metric(run.info.run_id, "f1", score)
        self.client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    def runs_of(self, sha: str) -> list[dict[str, Any]]:
        """The status and the params of a commit's runs."""
        found = self.client.search_runs([self.experiment], f"tags.mlflow.source.git.commit='{sha}'")
        return [{"status": run.info.status, **run.data.params} for run in found]

    def bisect(self, *arguments: str, metric: str = "f1") -> Done:
        command = ("bisect", *arguments, "--metric", metric, "--bucket", str(self.bucket))
        done = CliRunner().invoke(main, command, catch_exceptions=False)
        return Done(done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def past(tmp_path: Path, empty_index: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Past]:
    made = Past(tmp_path)
    index = Path(default_index(bucket_uri(str(made.bucket))).removeprefix("sqlite:///"))
    index.parent.mkdir(parents=True)
    shutil.copyfile(empty_index, index)
    monkeypatch.chdir(made.repository.folder)
    yield made
    mlflow.set_tracking_uri(None)


def test_it_runs_what_is_missing_and_passes_over_what_comes_to_nothing(
    past: Past, capfd: pytest.CaptureFixture[str]
) -> None:
    good = past.commit("good")
    trains = past.commit("trains", f"echo training; {TRAIN.format(chr(39) + 'f1' + chr(39))}")
    silent = past.commit("logs nothing", "true")
    fails = past.commit("fails", "exit 3")
    other = past.commit("has no entry point", None)
    bad = past.commit("bad")
    past.log(good, 0.8)
    like = past.log(bad, 0.5)
    done = past.bisect(good, bad, "--run", "--json")
    assert done.code == 0, done.errors
    found = done.json
    assert (found["found"], found["next"], found["bad"]) == (False, "", bad)
    assert set(found["left"]) == {silent, fails, other, bad}
    assert trains in found["good"]
    assert found["like"] == [like]
    assert found["skipped"][other] == "it has no entry point main"
    assert found["skipped"][silent].endswith("has no f1")
    assert found["skipped"][fails].endswith("failed")
    captured = capfd.readouterr()
    assert "training" not in captured.out
    assert "training" in captured.err
    assert [run["status"] for run in past.runs_of(silent)] == ["FINISHED"]
    assert [run["status"] for run in past.runs_of(fails)] == ["FAILED"]
    shown = past.bisect(good, bad)
    assert "any of them, as no other can be run" in shown.output
    assert "fails: its run" in shown.output
    past.log(silent, 0.49)
    assert f"{silent}  logs nothing\ndid it." in past.bisect(good, bad, "--run").output


def test_it_submits_what_the_ends_consist_of_and_nothing_twice(past: Past) -> None:
    good, middle, bad = past.commit("good"), past.commit("middle"), past.commit("bad")
    for fold in ("0", "1"):
        past.log(good, 0.8, fold=fold)
        past.log(good, 0.1, fold=fold, alpha="0.9")
        past.log(bad, 0.5, fold=fold)
    past.log(middle, 0.5, alpha="0.7")  # set otherwise
    shown = past.bisect(good, bad)
    assert f"Next     {middle}  middle" in shown.output
    assert "2 folds or seeds" in shown.output
    sent = past.bisect(good, bad, "-b", "manual", "--json")
    assert sent.code == 0, sent.errors
    assert len(sent.json["submitted"]) == 2
    waiting = [run for run in past.runs_of(middle) if run["status"] == "SCHEDULED"]
    assert sorted((run["fold"], run["alpha"]) for run in waiting) == [("0", "0.1"), ("1", "0.1")]
    again = past.bisect(good, bad, "-b", "manual", "--json")
    assert set(again.json["pending"]) == {each["run_id"] for each in sent.json["submitted"]}
    assert "submitted" not in again.json
    assert "call this again when it has finished" in past.bisect(good, bad, "--run").output
    assert len(past.runs_of(middle)) == 3


def test_a_run_that_is_named_counts_alone(past: Past) -> None:
    good, middle, bad = past.commit("good"), past.commit("middle"), past.commit("bad")
    past.log(good, 0.8)
    past.log(good, 0.2, alpha="0.9", name="slow")
    past.log(middle, 0.8)
    past.log(middle, 0.4, alpha="0.9")
    past.log(bad, 0.5)
    worse = past.log(bad, 0.4, alpha="0.9")
    assert past.bisect(good, past.log(bad, 0.5), "--json").json["bad"] == bad
    assert past.bisect("slow", worse, "--json").json["bad"] == middle
    apart = past.bisect("slow", past.log(bad, 0.5))
    assert apart.code == 2
    assert "the ends were not run alike: alpha is 0.9 and 0.1" in apart.error
    assert "has the metric 'auc'" in past.bisect(good, bad, metric="auc").error
