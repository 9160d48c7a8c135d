"""`kaggleops submit --code`: a dataset, a notebook without internet, its version, a score; once."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from kaggleops.backends.kaggle import blend_program, submissions
from tests.command import Done, kaggleops_here
from tests.fakes.git_server import Repository
from tests.fakes.kaggle_server import KaggleServer
from tests.fakes.wire import Request, Response

PROJECT = """
name: toy
entry_points:
  main: {command: "true"}
  predict:
    parameters:
      models: {type: string}
      data: {type: string}
      output: {type: string, default: submission.csv}
    command: "python predict.py {models} {data} {output}"
"""
PREDICT = """
import sys
from pathlib import Path
models, data, output = map(Path, sys.argv[1:])
answer = (models / "deep/answer.txt").read_text()
Path("scratch").write_text("the code's folder can be written")
ids = (data / "test.csv").read_text().split()[1:]
output.write_text("id,target\\n" + "".join(f"{each},{answer}\\n" for each in ids))
"""
HIDDEN = "UVWXYZ"
# In place of papermill and a kernel, which take seconds of processor time.
LIGHT = """
import json, subprocess, sys
cell = json.load(open(sys.argv[1]))["cells"][0]["source"]
assert cell.startswith("%%bash\\n")
raise SystemExit(subprocess.run(["bash", "-c", cell.partition("\\n")[2]]).returncode)
"""


class Lab:
    """Ada's repository and bucket, with a run that has a model; and a code competition."""

    def __init__(self, folder: Path, kaggle: KaggleServer) -> None:
        self.kaggle = kaggle
        self.repository = Repository(folder / "toy")
        # A folder of the competition's name, which is not its data.
        self.commit(MLproject=PROJECT, predict_py=PREDICT, toys__notes="")
        self.uri = f"bucket+file://{folder}/bucket/mlruns"
        self.client = mlflow.MlflowClient(self.uri)
        self.experiment = self.client.create_experiment("toy")
        self.run = self.trained()
        files = {
            "test.csv": _table("id", "ABC"),
            "sample_submission.csv": _table("id,target", "ABC"),
        }
        self.competition = kaggle.add_competition("toys", "Toys", files, self.score, 5)
        self.competition.hidden = {"test.csv": _table("id", HIDDEN)}

    def commit(self, **files: str) -> None:
        self.repository.write(**files)
        self.repository.commit("Change it")

    def trained(self, **params: str) -> str:
        run = self.client.create_run(self.experiment, run_name="trained-fox")
        run_id = str(run.info.run_id)
        sha = self.repository.git("rev-parse", "HEAD")
        self.client.set_tag(run_id, "mlflow.source.git.commit", sha)
        self.client.log_text(run_id, "1", "deep/answer.txt")
        for name, value in params.items():
            self.client.log_param(run_id, name, value)
        self.client.set_terminated(run_id)
        return run_id

    def score(self, content: bytes) -> float:
        lines = content.decode().split()[1:]
        if [line[:1] for line in lines] != list(
            "ABC" if self.competition.hidden is None else HIDDEN
        ):
            raise ValueError("Submission must have other rows")
        return sum(line.endswith(",1") for line in lines) / len(lines)

    def submit(self, *arguments: str, run: str = "") -> Done:
        options = ("--code", "--competition", "toys", "--bucket", self.uri)
        folder = self.repository.folder
        return kaggleops_here("submit", run or self.run, *options, *arguments, cwd=folder)

    def name(self, run: str = "") -> str:
        return f"ada/kaggleops-code-{run or self.run}"


def _table(head: str, ids: str) -> bytes:
    empty = "," * head.count(",")
    return "\n".join([head, *(f"{each}{empty}" for each in ids), ""]).encode()


@pytest.fixture
def kaggle(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KaggleServer]:
    python = sys.executable
    if getattr(request, "param", "light") == "light":
        (tmp_path / "bin").mkdir()
        (tmp_path / "light.py").write_text(LIGHT)
        light = tmp_path / "bin/python"
        there = f'[ "$2" = papermill ] && exec {python} {tmp_path}/light.py "$3"'
        light.write_text(f'#!/bin/sh\n{there}\nexec {python} "$@"\n')
        light.chmod(0o755)
        python = str(light)
    with KaggleServer(tmp_path / "kaggle", python) as server:
        monkeypatch.setattr(submissions, "_SHORTEST_PAUSE", 0.05)  # it needs no minutes
        server.add_user("ada")
        server.api("ada")
        for name in ("HOME", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_ENVIRONMENT"):
            monkeypatch.setenv(name, server.environment("ada")[name])
        yield server


@pytest.fixture
def lab(tmp_path: Path, kaggle: KaggleServer) -> Lab:
    return Lab(tmp_path, kaggle)


@pytest.mark.parametrize("kaggle", ["whole"], indirect=True)
def test_broken_off_at_each_step_it_goes_on_and_does_nothing_twice(lab: Lab) -> None:
    kaggle, breaks = lab.kaggle, ("CreateDataset", "SaveKernel", "CreateCodeSubmission")
    http = kaggle._http
    assert http
    kaggle.behaviour.slow_datasets = 1
    lab.competition.hidden = None  # a notebook that is truly executed takes seconds, once is enough

    def breaking(request: Request, good: Response) -> Response:
        """Let what was done be done, and whoever asked for it end."""
        if request.op in left:
            left.remove(request.op)
            return Response(400, [("Content-Type", "application/json")], b'{"message": "cut"}')
        return good

    left = list(breaks)
    http.change = breaking
    for op in ("StartBlobUpload", "GetKernelSessionStatus", "output file", "CreateCodeSubmission"):
        kaggle.fail(400, op=op, message="broken off")
    ends = []
    while (done := lab.submit("--json")).code:
        ends.append(done.error)
        assert len(ends) < 9, ends
    assert left == []
    # The answer to CreateDataset and to CreateCodeSubmission is looked for at once.
    assert len(ends) in (5, 6), ends
    assert done.json["public_score"] == 1.0
    assert done.json["status"] == "COMPLETE"
    (submission,) = lab.competition.submissions
    assert lab.run in submission.description
    assert len(kaggle.dataset(lab.name()).versions) == 1
    (version,) = kaggle.kernel(lab.name()).versions
    assert (version.internet, version.private, version.shape) == (False, True, "")
    run = lab.client.get_run(lab.run)
    assert run.data.metrics["public_score"] == 1.0
    assert run.data.tags["submission_ref"] == str(submission.ref)

    again = lab.submit()
    assert (again.code, f"{submission.ref} was made already" in again.errors) == (0, True)
    plan = lab.submit("--dry-run", "--json").json["steps"]
    assert plan["today"] == "4 of 5 submissions are left"
    assert plan["folder"].endswith(f"dataset {lab.name()} is there")
    assert plan["notebook"] == "version 1 is COMPLETE"
    assert plan["submission"] == f"{submission.ref} is COMPLETE"
    assert len(lab.competition.submissions) == 1


def test_a_dry_run_shows_all_and_does_nothing(lab: Lab) -> None:
    plan = lab.submit("--dry-run", "--json")
    assert plan.code == 0
    sha = lab.repository.git("rev-parse", "HEAD")[:10]
    assert plan.json["steps"] == {
        "today": "5 of 5 submissions are left",
        "folder": f"{lab.run[:8]}'s models, code of {sha} (entry point predict); "
        f"dataset {lab.name()} would be made",
        "notebook": "would be pushed (no accelerator, internet off)",
        "output": "submission.csv would be compared with the sample",
        "submission": "would be made",
    }
    shown = lab.submit("--dry-run").output
    assert "Notebook    would be pushed (no accelerator, internet off)\n" in shown
    changing = ("CreateDataset", "StartBlobUpload", "SaveKernel", "CreateCodeSubmission")
    assert [op for op in changing if lab.kaggle.count(op)] == []


@pytest.mark.parametrize(
    ("source", "settings", "said"),
    [
        ("print('nothing')", {}, "it left no submission.csv"),
        (
            "open('submission.csv', 'w').write('id,target\\nA,1\\n')",
            {},
            "checking submission.csv against sample_submission.csv: 2 of 3 rows are missing",
        ),
        ("raise ValueError('no GPU')", {}, "ValueError: no GPU"),
        (
            "open('submission.csv', 'w').write('id,target\\nA,1\\nB,1\\nC,1\\n')",
            {},
            "with the hidden test set: Submission Scoring Error",
        ),
        (
            "import os; lines = open(os.environ['DATA'] + '/test.csv').read().split()[1:]\n"
            "assert len(lines) == 3, 'too many rows for me'\n"
            "open('submission.csv', 'w').write('id,target\\n' + ',1\\n'.join([*lines, '']))",
            {},
            "with the hidden test set: Notebook Threw Exception",
        ),
        (
            "open('submission.csv', 'w').write('id,target\\nA,1\\nB,1\\nC,1\\n')",
            {"rerun_seconds": 0.001},
            "with the hidden test set: Notebook Timeout",
        ),
    ],
    ids=["no file", "wrong rows", "exception", "another size", "hidden exception", "time-out"],
)
def test_how_it_can_fail(lab: Lab, source: str, settings: dict[str, Any], said: str) -> None:
    lab.commit(tool_py=source)
    for name, value in settings.items():
        setattr(lab.competition, name, value)
    options = ("--script", "tool.py", "--version", "HEAD")
    done = lab.submit(*options)
    assert (done.code > 0, said in done.error) == (True, True), done.errors
    if "hidden" in said:  # it is not sent again, which would fail again
        assert said in lab.submit(*options).error
        assert len(lab.competition.submissions) == 1
    else:
        assert lab.competition.submissions == []


def test_a_project_makes_its_folder_itself_and_its_change_is_a_new_version(lab: Lab) -> None:
    offline = "mkdir -p $2/code; echo \"sed 's/$/,1/; 1s/.*/id,target/' \\$1/test.csv"
    program = f'{offline} > submission.csv; echo of $1" > $2/predict.sh\n'
    point = "  offline:\n    parameters: {runs: {type: string}, output: {type: string}}\n"
    point += '    command: "sh offline.sh {runs} {output}"\n'
    lab.commit(MLproject=PROJECT + point)
    others = [lab.trained(), lab.trained()]
    run = lab.trained(runs=",".join(others))
    lab.client.set_tag(others[0], "accelerator", "2x Tesla T4")
    (lab.repository.folder / "offline.sh").write_text("echo no such model; exit 3\n")
    lab.repository.commit("Fail")
    failed = lab.submit("--version", "HEAD", run=run)
    assert "running the entry point offline of" in failed.error
    assert "no such model (exit code 3)" in failed.error
    (lab.repository.folder / "offline.sh").write_text(program)
    lab.repository.commit("Predict")
    for number in (1, 2):
        done = lab.submit("--version", "HEAD", "--json", run=run)
        assert (done.code, done.errors and done.json["public_score"]) == (0, 1.0), done.errors
        session = lab.kaggle.session(lab.name(run))
        assert f"of {others[0]},{others[1]}" in session.text
        assert len(lab.kaggle.dataset(lab.name(run)).versions) == number
        assert lab.kaggle.kernel(lab.name(run)).latest.shape == "NvidiaTeslaT4"
        lab.commit(**{f"other_{number}": ""})
    assert len(lab.competition.submissions) == 2
    assert lab.client.get_run(others[0]).data.metrics["public_score"] == 1.0


def test_a_blend_predicts_with_each_member_and_takes_their_weighted_mean(lab: Lab) -> None:
    def member(answer: str, **files: str) -> str:
        if files:
            lab.commit(**files)
        run = lab.trained()
        lab.client.log_text(run, answer, "deep/answer.txt")
        return run

    # Of two commits: each predicts with its own code.
    first, second = member("0.25"), member("0.75", predict_py=PREDICT + "print('newer')")
    blend = lab.client.create_run(lab.experiment).info.run_id
    weights = json.dumps({first: 0.9, second: 0.1})
    lab.client.set_tag(blend, "kaggleops.blend", weights)
    done = lab.submit("--json", run=blend)
    assert done.code == 0, done.errors
    session = lab.kaggle.session(lab.name(blend))
    lines = (session.working / "submission.csv").read_text().split()
    assert lines[0] == "id,target"
    assert [
        float(line.removeprefix(f"{at},")) for line, at in zip(lines[1:], "ABC", strict=True)
    ] == [pytest.approx(0.3)] * 3
    assert session.text.count("newer") == 1
    assert f"0.90 of {first[:8]}'s models" in done.errors
    # The score is the blend's, not its members'.
    assert "public_score" in lab.client.get_run(blend).data.metrics
    assert "public_score" not in lab.client.get_run(first).data.metrics
    lab.client.set_tag(blend, "kaggleops.blend", "[1]")
    assert "its tag kaggleops.blend holds no weights" in lab.submit(run=blend).error


def test_answers_are_blended_by_votes(tmp_path: Path) -> None:
    tables = ("id,label,text\na,1,x y\nb,0,z\n", "id,label,text\nb,1,z\na,0,y\n")
    for name, table in zip("12", tables, strict=True):
        (tmp_path / name).write_text(table)
    blend_program.main(str(tmp_path / "s"), [f"{tmp_path}/1=0.6", f"{tmp_path}/2=0.4"])
    assert (tmp_path / "s").read_text().split("\n") == ["id,label,text", "a,1,x y", "b,0,z", ""]
    (tmp_path / "2").write_text("id,label,text\na,0,y\n")
    with pytest.raises(SystemExit, match="other columns or rows"):
        blend_program.main(str(tmp_path / "s"), [f"{tmp_path}/1=0.6", f"{tmp_path}/2=0.4"])


def test_what_is_refused_before_anything_is_made(lab: Lab) -> None:
    lab.commit(MLproject="name: toy\n")
    short = lab.repository.git("rev-parse", "HEAD")[:10]
    for options, said in (
        (("--version", "HEAD"), f"predict in {short}: its MLproject has no entry point predict"),
        (("--script", "no.py"), "it has no no.py"),
        (("--file", "x.csv"), "--code and --file exclude each other"),
        (("--version", "nonsense"), "it has no commit 'nonsense'"),
    ):
        assert said in lab.submit(*options).error
    lab.commit(MLproject=PROJECT.replace("{output}", "{nothing}"))
    said = "its command has a {…} that is no parameter ('nothing')"
    assert said in lab.submit("--version", "HEAD").error
    lab.client.set_tag(lab.run, "submission_competition", "toys$(id)")
    hostile = kaggleops_here("submit", lab.run, "--code", "--bucket", lab.uri)
    assert "'toys$(id)' is no name of one. It is like titanic." in hostile.error
    needs = kaggleops_here("submit", lab.run, "--dry-run", "--bucket", lab.uri)
    assert "--dry-run needs --code" in needs.error
    lab.client.set_tag(lab.run, "uncommitted", "uncommitted.patch")
    assert "it ran uncommitted changes" in lab.submit().error
    assert lab.kaggle.count("CreateDataset") + lab.kaggle.count("StartBlobUpload") == 0


def test_what_kaggle_refuses(lab: Lab) -> None:
    lab.competition.daily_limit = 1
    lab.kaggle.behaviour.dataset_statuses.append("FAILED")
    assert f"making the dataset {lab.name()}: Kaggle says that it failed" in lab.submit().error
    lab.kaggle.refuse_push()
    assert "Maximum batch GPU session count of 2 reached" in lab.submit().error
    assert lab.submit().code == 0
    lab.commit(other_py="")
    said = lab.submit("--version", "HEAD").error
    assert "today's limit of 1 is reached. The next is free at 00:00 UTC" in said
    assert len(lab.competition.submissions) == 1
