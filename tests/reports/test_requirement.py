"""`kaggleops run --require`: what `git bisect run` is told of each commit."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from kaggleops.bucket.location import bucket_uri
from kaggleops.errors import UsageError
from kaggleops.reports.selection import read_requirement
from kaggleops.server.settings import default_index
from tests.command import Done, kaggleops_here
from tests.fakes.git_server import Repository

MLPROJECT = """
name: toy
entry_points:
  main:
    parameters:
      alpha: {{type: float, default: 0.1}}
      overrides: {{type: string, default: ""}}
    command: "{command}"
"""
TRAIN = "python -c 'import mlflow; mlflow.start_run(); mlflow.log_metric(\\\"f1\\\", {value})'"
# A shell's own sockets: a process that imports MLflow for each commit would cost as many times 4 s.
KAGGLEOPS = """#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/{port}
printf '%s\\0' "$PWD" "$@" >&3
printf '\\n' >&3
read -r code <&3
exit "$code"
"""


class Past:
    """Commits, and a bucket with runs of some of them."""

    def __init__(self, folder: Path) -> None:
        self.repository = Repository(folder / "code")
        self.bucket = self.repository.folder / "bucket"  # where nothing ignores it
        self.client = MlflowClient(f"bucket+file://{self.bucket}/mlruns")
        self.experiment = self.client.create_experiment("toy")
        self._clock = 1_700_000_000_000

    def commit(self, message: str, command: str | None = "exit 3") -> str:
        """Commit a project whose entry point is a shell's command; None: that has none."""
        content = "name: toy" if command is None else MLPROJECT.format(command=command)
        self.repository.write(MLproject=f"# {message}\n{content}")
        self.repository.git("add", "MLproject")
        self.repository.git("commit", "--quiet", "--message", message)
        return self.repository.git("rev-parse", "HEAD")

    def log(self, sha: str, score: float, *, status: str = "FINISHED", **params: str) -> str:
        """Log a run of a commit as `kaggleops run` does, and return its id."""
        self._clock += 1000
        tags = {"mlflow.source.git.commit": sha, "mlflow.project.entryPoint": "main"}
        run = self.client.create_run(self.experiment, self._clock, tags)
        for key, value in {"alpha": "0.1", "overrides": "", "of the code": "x", **params}.items():
            self.client.log_param(run.info.run_id, key, value)
        self.client.log_metric(run.info.run_id, "f1", score)
        self.client.set_terminated(run.info.run_id, status)
        return str(run.info.run_id)

    def runs_of(self, sha: str) -> list[str]:
        """How the runs of a commit ended."""
        found = self.client.search_runs([self.experiment], f"tags.mlflow.source.git.commit='{sha}'")
        return [run.info.status for run in found]

    def judge(self, *arguments: str) -> Done:
        """Judge the commit that is checked out."""
        return kaggleops_here(
            "run", *arguments, "--bucket", self.bucket, cwd=self.repository.folder
        )


@pytest.fixture
def past(tmp_path: Path, empty_index: Path) -> Iterator[Past]:
    made = Past(tmp_path)
    index = Path(default_index(bucket_uri(str(made.bucket))).removeprefix("sqlite:///"))
    index.parent.mkdir(parents=True)
    shutil.copyfile(empty_index, index)
    yield made
    mlflow.set_tracking_uri(None)


def bisect(
    past: Past, folder: Path, good: str, bad: str, *words: str
) -> tuple[str, dict[str, int]]:
    """Run a real `git bisect run kaggleops …`.

    Returns:
        What git said at the end, and the exit code for each commit that it asked about.
    """
    codes: dict[str, int] = {}
    (folder / "bin").mkdir()
    program = folder / "bin/kaggleops"
    repository = past.repository
    repository.git("bisect", "start", bad, good)
    with socket.create_server(("127.0.0.1", 0)) as listening, (folder / "said").open("w+") as said:
        program.write_text(KAGGLEOPS.format(port=listening.getsockname()[1]))
        program.chmod(0o755)
        ended = 'kaggleops end of "$?"'
        script = f'git bisect run kaggleops "$@"; {ended}'
        git = subprocess.Popen(
            ["bash", "-c", f'PATH="{folder}/bin:$PATH"; {script}', "bash", *words],
            cwd=repository.folder,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        while True:
            connection, _ = listening.accept()
            with connection, connection.makefile("rw") as stream:
                cwd, *arguments, _ = stream.readline().split("\0")
                if arguments[0] == "end":
                    stream.write("0\n")
                    break
                sha = repository.git("rev-parse", "HEAD")
                done = kaggleops_here(*arguments, cwd=Path(cwd))
                codes[sha] = done.code
                said.write(done.output + done.errors)
                said.flush()
                stream.write(f"{done.code}\n")
        git.wait()
        said.seek(0)
        return said.read(), codes


def test_git_bisect_finds_the_commit_and_trains_only_what_was_not_run(
    past: Past, tmp_path: Path
) -> None:
    good = past.commit("good")
    past.log(past.commit("as good"), 0.8)
    broken = past.commit("broken", "exit 3")
    known = past.commit("known")
    culprit = past.commit("culprit", TRAIN.format(value=0.5))
    bad = past.commit("bad")
    past.log(known, 0.8)
    past.log(known, 0.1, alpha="0.9")  # set otherwise
    words = ("run", "--require", "f1>=0.71", "--bucket", str(past.bucket))
    said, codes = bisect(past, tmp_path, good, bad, *words)
    assert f"{culprit} is the first bad commit" in said, said
    assert codes[culprit] == 1
    assert codes[broken] == 125
    assert codes[known] == 0
    assert past.runs_of(culprit) == ["FINISHED"]
    assert past.runs_of(broken) == ["FAILED"]
    assert len(past.runs_of(known)) == 2
    assert "finished with the same settings: nothing is trained" in said


def test_what_stops_git_bisect_is_no_answer(past: Past, tmp_path: Path) -> None:
    good, bad = past.commit("good"), past.commit("bad")
    past.commit("worse")
    said, codes = bisect(past, tmp_path, good, "HEAD", "run", "--require", "f1")
    assert codes == {bad: 128}
    assert "not a comparison with a number" in said
    assert "first bad commit" not in said


@pytest.mark.parametrize(
    ("required", "code"),
    [("f1>=0.8", 0), ("f1 > 0.8", 1), ("f1<0.8", 1), ("f1<=0.8", 0), ("f1>-inf", 0), ("f2>0", 125)],
)
def test_a_finished_run_is_judged_without_training(past: Past, required: str, code: int) -> None:
    sha = past.commit("only")
    run_id = past.log(sha, 0.8)
    done = past.judge("--require", required, "--json")
    assert done.code == code, done.errors
    assert (done.json["run_id"], done.json["met"]) == (run_id, {0: True, 1: False}.get(code))
    assert past.runs_of(sha) == ["FINISHED"]
    if code == 125:
        assert f"run {run_id} has no metric 'f2'" in done.error


def test_only_runs_of_the_same_settings_count(past: Past) -> None:
    sha = past.commit("only", "exit 3")
    past.log(sha, 0.8)
    past.log(sha, 0.8, alpha="0.2", status="FAILED")
    past.log(sha, 0.7, overrides="seed=7")
    past.log(sha, float("nan"), alpha="0.3")
    assert past.judge("--require", "f1>0.7", "alpha=0.1").code == 0
    assert past.judge("--require", "f1>0.7", "seed=7").code == 1
    assert past.judge("--require", "f1<9", "alpha=0.3").code == 1  # NaN is nothing
    assert past.runs_of(sha).count("FAILED") == 1
    failed = past.judge("--require", "f1>0.7", "alpha=0.2")
    assert failed.code == 125
    assert "it ended with an error" in failed.error
    assert past.runs_of(sha).count("FAILED") == 2


def test_a_commit_that_cannot_be_run_cannot_be_told(past: Past) -> None:
    past.commit("has no entry point", None)
    done = past.judge("--require", "f1>0.7")
    assert done.code == 125
    assert "main" in done.error


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--require", "f1=>0.7"), "not a comparison"),
        (("--require", "f1"), "in quotes"),
        (("--require", "f1>=high"), "not a comparison"),
        (("--require", "f1>=nan"), "not a comparison"),
        (("--require", ">=0.7"), "not a comparison"),
        (("--require", "f1>0.7", "-b", "manual"), "has no metrics yet"),
        (("--require", "f1>0.7", "--version", "nonsense"), "no commit 'nonsense'"),
    ],
)
def test_a_mistake_is_one_line_and_no_answer(
    past: Past, arguments: tuple[str, ...], problem: str
) -> None:
    sha = past.commit("only")
    done = past.judge(*arguments)
    assert problem in done.error
    assert done.code == 128
    assert past.runs_of(sha) == []
    assert past.judge("--require", "f1>0.7", "--nonsense").code == 128


def test_names_of_metrics_have_spaces_and_slashes() -> None:
    found = read_requirement(" val/f1 macro >= 7e-1 ")
    assert (found.metric, found.comparison, found.bound) == ("val/f1 macro", ">=", 0.7)
    with pytest.raises(UsageError, match="not a comparison"):
        read_requirement("1 < f1 < 2")
