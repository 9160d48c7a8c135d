"""Somebody's own training repository becomes a project, and its code stays as it is."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import yaml
from click.testing import CliRunner
from mlflow.projects.utils import load_project

from kaggleops.cli import main
from kaggleops.cli.adopt import adopt, ignore, look, warnings_about
from kaggleops.git.commits import find_commit
from kaggleops.launch.overrides import Overrides
from tests.command import kaggleops, kaggleops_here
from tests.fakes.git_server import Repository

# As people have it: MLflow's own calls, an experiment of its own, data that is not in git.
TRAIN = """
import argparse
import mlflow

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--data", default="data.csv")
parser.add_argument("--debug", action="store_true")
args = parser.parse_args()
mlflow.set_experiment("titanic")
with mlflow.start_run():
    mlflow.log_metric("accuracy", args.lr + len(open(args.data).read()))
"""


@pytest.fixture
def foreign(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "kaggle-titanic")
    repository.write(train_py=TRAIN)
    (repository.folder / "requirements.txt").write_text("pandas\n")
    (repository.folder / ".gitignore").write_text("*.csv")
    repository.commit("What was there before")
    (repository.folder / "data.csv").write_text("1234")
    repository.git("remote", "add", "origin", "git@github.com:ada/titanic.git")
    return repository


def test_from_a_plain_script_to_a_run_of_a_commit(foreign: Repository, tmp_path: Path) -> None:
    folder = str(foreign.folder)
    options = ["--repository", folder, "--bucket", f"{folder}/runs", "--yes", "--json"]
    done = CliRunner().invoke(main, ["init", *options])
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["files"] == ["MLproject", "conda.yaml", "notebooks/run.ipynb", ".gitignore"]
    (warning,) = said["warnings"]
    assert warning.startswith("data.csv is not in git: runs on this machine find it")
    assert said["next"][0].startswith("git add MLproject conda.yaml notebooks/run.ipynb .gitignore")
    assert said["next"][2] == "kaggleops run"
    project = (foreign.folder / "MLproject").read_text()
    assert "or without a default that can be read: --debug\n" in project
    assert foreign.git("diff", "--name-only") == ".gitignore"
    again = CliRunner().invoke(main, ["init", *options])
    assert json.loads(again.stdout)["files"] == []
    assert (foreign.folder / "runs").is_dir()  # for `kaggleops doctor`, before the first run

    sha = foreign.commit("Run with KaggleOps")
    ran = kaggleops("run", "lr=0.5", "--json", cwd=foreign.folder)
    assert ran.code == 0, ran.errors
    assert (ran.json["commit"], ran.json["metrics"]) == (sha, {"accuracy": 4.5})
    client = mlflow.MlflowClient(f"bucket+file://{folder}/runs/mlruns")
    run = client.get_run(ran.json["run_id"])
    assert run.data.params == {"lr": "0.5", "data": "data.csv"}
    assert client.get_experiment(run.info.experiment_id).name == "titanic"
    assert foreign.git("status", "--porcelain") == ""


def test_what_keeps_the_first_run_from_starting_is_said(foreign: Repository) -> None:
    (foreign.folder / "notes.txt").write_text("not in git, nor in .gitignore")
    options = ["--repository", str(foreign.folder), "--bucket", "/dev/null/b", "--yes"]
    done = CliRunner().invoke(main, ["init", *options])
    assert done.exit_code == 2
    assert "error: creating the bucket /dev/null/b: Not a directory" in done.stderr
    assert not (foreign.folder / "config").exists()  # the bucket before, if any, stays
    done = CliRunner().invoke(main, ["init", *options[:2], "--bucket", f"{foreign.folder}/runs"])
    assert "! notes.txt is new or changed, and not committed. Commit it or name it" in done.stderr
    assert "\n  kaggleops run --uncommitted\n" in done.stdout


def adopted(repository: Repository, bucket: str = "gs://our-bucket") -> list[str]:
    commit = find_commit(repository.folder)
    return adopt(repository.folder, look(repository.folder), commit.origin, bucket)[0]


def test_the_notebook_is_that_repositorys_own(foreign: Repository) -> None:
    adopted(foreign)
    text = (foreign.folder / "notebooks/run.ipynb").read_text()
    assert r"repository = \"git@github.com:ada/titanic.git\"" in text
    assert r"bucket = \"gs://our-bucket\"" in text
    assert "colab.research.google.com/github/ada/titanic/blob/main/notebooks/run.ipynb" in text
    assert "kernels/welcome?src=https://github.com/ada/titanic/blob/main" in text


def test_what_is_there_stays_and_is_used(foreign: Repository) -> None:
    environment = foreign.folder / "environment.yml"
    environment.write_text("dependencies: [python]")
    assert adopted(foreign) == ["MLproject", "notebooks/run.ipynb"]
    project = yaml.safe_load((foreign.folder / "MLproject").read_text())
    assert project["conda_env"] == "environment.yml"
    (foreign.folder / "MLproject").write_text("name: mine")
    (foreign.folder / "notebooks/run.ipynb").unlink()
    assert adopted(foreign, "bucket+file:///x") == ["MLproject", "notebooks/run.ipynb"]
    assert (foreign.folder / "MLproject").read_text().startswith("name: mine\n")
    notebook = json.loads((foreign.folder / "notebooks/run.ipynb").read_text())
    assert any('bucket = ""\n' in cell["source"] for cell in notebook["cells"])


def test_the_packages_of_a_script_without_a_list_of_them(foreign: Repository) -> None:
    (foreign.folder / "requirements.txt").unlink()
    foreign.write(train_py="import os, yaml, helper, nobody_has_this", helper_py="")
    adopted(foreign)
    conda = yaml.safe_load((foreign.folder / "conda.yaml").read_text())
    (needed,) = (each["pip"] for each in conda["dependencies"] if isinstance(each, dict))
    assert [each.partition(">")[0].partition(" @")[0] for each in needed] == [
        "PyYAML",
        "kaggleops",
    ]


def test_a_hydra_script_gets_each_override_as_one_word(foreign: Repository) -> None:
    (foreign.folder / "the train.py").write_text(
        "import json, sys\nif 0:\n    @hydra.main()\n    def main(): ...\n"
        "print(json.dumps(sys.argv[1:]))\n"
    )
    adopt(foreign.folder, look(foreign.folder, "the train.py"), "", "gs://our-bucket")
    entry_point = load_project(str(foreign.folder)).get_entry_point("main")
    words = ["lr=0.1", "layers=[1, 2]", "name='it''s'", "+new=$HOME"]
    given = Overrides(words).as_parameters(entry_point.parameters, "testing")
    command = entry_point.compute_command(given, str(foreign.folder))
    shell = ["bash", "-c", command]
    printed = subprocess.run(shell, cwd=foreign.folder, capture_output=True, text=True, check=True)
    assert json.loads(printed.stdout) == words
    # And none at all, as `mlflow run` has it by default.
    command = entry_point.compute_command({}, str(foreign.folder))
    shell = ["bash", "-c", command]
    printed = subprocess.run(shell, cwd=foreign.folder, capture_output=True, text=True, check=True)
    assert json.loads(printed.stdout) == []


def test_a_script_that_logs_elsewhere_is_warned_about(foreign: Repository) -> None:
    foreign.write(train_py="import mlflow\nmlflow.set_tracking_uri('http://old')\n")
    (warning,) = warnings_about(foreign.folder, look(foreign.folder))
    assert warning.startswith("train.py, line 2 sets MLflow's tracking URI")


def test_git_ignores_this_machines_settings_once(foreign: Repository) -> None:
    bucket = foreign.folder / "my bucket"
    assert ignore(foreign.folder, bucket) == ["config/local.yaml", "/my bucket/"]
    assert ignore(foreign.folder, bucket) == []
    assert (foreign.folder / ".gitignore").read_text() == (
        "*.csv\nconfig/local.yaml\n/my bucket/\n"
    )


@pytest.mark.slow
def test_at_a_terminal_it_asks(foreign: Repository) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "kaggleops", "init"]
    process = subprocess.Popen(command, cwd=foreign.folder, stdin=theirs, stderr=subprocess.PIPE)
    os.write(ours, b"\nn\n")  # the folder that it proposes, and no test run
    _, errors = process.communicate(timeout=120)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0
    assert b"Where should runs go" in errors
    assert b"Make a test run now?" in errors
    settings = yaml.safe_load((foreign.folder / "config/local.yaml").read_text())
    assert settings == {"bucket": f"bucket+file://{foreign.folder}/bucket"}


EXPERIMENT = """
import argparse
from pathlib import Path
parser = argparse.ArgumentParser()
parser.add_argument("--fold", required=True)
args = parser.parse_args()
print(Path("../input/train.csv").read_text(), open(f"../input/{args.fold}.csv"))
Path("log.txt").write_text("nothing that is read")
"""


@pytest.fixture
def experiments(tmp_path: Path) -> Repository:
    """A repository of scripts that are each an experiment, started in their own folder."""
    repository = Repository(tmp_path / "kaggle")
    for name, source in (
        ("001.py", "from helper import helped\nprint(helped)"),
        ("helper.py", "helped = 1\n\n\ndef help_more(): ...\n"),
        ("resnet/train.py", EXPERIMENT),
    ):
        file = repository.folder / "experiments" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    repository.commit("Experiments")
    data = repository.folder / "experiments/input"
    data.mkdir()
    (data / "train.csv").write_text("the data")
    (data / "0.csv").write_text("the fold")
    return repository


def test_each_experiment_is_an_entry_point(experiments: Repository) -> None:
    options = ["--repository", str(experiments.folder), "--bucket", f"{experiments.folder}/runs"]
    done = CliRunner().invoke(main, ["init", *options, "--score", "rmse", "--yes", "--json"])
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["left"] == ["no entry point for experiments/helper.py: it only declares things"]
    assert said["next"][2] == "kaggleops run -e resnet fold=VALUE"
    project = yaml.safe_load((experiments.folder / "MLproject").read_text())
    assert (project["score"], project["data"]) == ("rmse", ["experiments/input"])
    assert {name: each["command"] for name, each in project["entry_points"].items()} == {
        "001": "python experiments/001.py",
        "resnet": "cd experiments/resnet && python train.py --fold {fold}",
    }
    experiments.commit("Run with KaggleOps")
    ran = kaggleops_here("run", "-e", "resnet", "fold=0", cwd=experiments.folder)
    assert ran.code == 0, ran.errors
    assert experiments.git("status", "--porcelain") == ""


WRITTEN = """\
# Ours.
name: toy   # as the competition calls it

entry_points:
    # What we train.
    main:
        command: "python experiments/001.py"   # fast

# The end.
conda_env: conda.yaml
"""


def test_an_mlproject_gets_what_it_lacks_and_keeps_its_words(experiments: Repository) -> None:
    file = experiments.folder / "MLproject"
    file.write_text(WRITTEN)
    found = look(experiments.folder, score="rmse")
    written, left = adopt(experiments.folder, found, "", "gs://our-bucket")
    assert (written, left[1:]) == (["MLproject", "conda.yaml", "notebooks/run.ipynb"], [])
    text = file.read_text()
    lines = iter(text.splitlines())
    assert all(line in lines for line in WRITTEN.splitlines())  # in their order
    project = yaml.safe_load(text)
    assert (project["score"], project["data"]) == ("rmse", ["experiments/input"])
    assert list(project["entry_points"]) == ["main", "resnet"]
    assert load_project(str(experiments.folder)).get_entry_point("resnet").parameters["fold"]
    again = adopt(experiments.folder, look(experiments.folder, score="mae"), "", "gs://our-bucket")
    assert again[0] == []
    assert "the score in MLproject stays 'rmse': change it there" in again[1]


@pytest.mark.parametrize("text", ["", "  # Ours.\n", "{} # nothing yet"])
def test_an_mlproject_that_says_nothing_is_written(foreign: Repository, text: str) -> None:
    (foreign.folder / "MLproject").write_text(text)
    (foreign.folder / "config").mkdir()
    (foreign.folder / "config/local.yaml").write_text("bucket: ./runs\n")  # the same
    foreign.commit("An MLproject")
    done = kaggleops_here("init", "--bucket", "runs", "--yes", "--json", cwd=foreign.folder)
    assert (done.code, done.json["left"]) == (0, []), done.errors
    assert "until now" not in done.errors
    written = (foreign.folder / "MLproject").read_text()
    assert written.startswith("  # Ours.\n# What" if "Ours" in text else "# What")
    assert list(yaml.safe_load(written)["entry_points"]) == ["main"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a", "it is no mapping: lines `name: …`"),
        ("null", "it is no mapping"),
        ("entry_points: [a]", "its entry_points are no mapping"),
        ("entry_points: {main: python train.py}", "its entry_points are no mapping"),
    ],
)
def test_an_mlproject_that_is_none_is_one_clear_line_before_anything_is_made(
    foreign: Repository, text: str, problem: str
) -> None:
    (foreign.folder / "MLproject").write_text(text)
    done = kaggleops_here("init", "--bucket", "runs", "--yes", cwd=foreign.folder)
    assert (done.code, problem in done.error) == (2, True), done.error
    assert not (foreign.folder / "config").exists()
    assert not (foreign.folder / "runs").exists()


@pytest.mark.parametrize(
    "text", ["entry_points: {main: {command: a}}\n", "name: x\nentry_points:\n"], ids=str.split
)
def test_what_could_not_be_added_to_an_mlproject_is_said(
    experiments: Repository, text: str
) -> None:
    (experiments.folder / "MLproject").write_text(text)
    _, left = adopt(experiments.folder, look(experiments.folder), "", "gs://our-bucket")
    assert "no entry point for experiments/001.py: add it to MLproject" in left


@pytest.mark.parametrize(
    ("source", "data"),
    [
        ("import pandas as pd\npd.read_csv('in/a.csv')", ("in/a.csv",)),
        ("IN = 'in'\nopen(f'{IN}/a.csv')", ("in",)),
        ("open('in/b.csv', 'w')", ()),
        ("open('results/old.csv'), open('train.py'), open('../outside.csv'), open('gone')", ()),
        ("open(f'in/{1}.csv')", ("in",)),
    ],
)
def test_the_data_that_a_script_names(foreign: Repository, source: str, data: tuple[str]) -> None:
    for name in ("in/a.csv", "in/b.csv", "results/old.csv", "../outside.csv"):
        (foreign.folder / name).parent.mkdir(exist_ok=True)
        (foreign.folder / name).write_text("")
    foreign.write(train_py=source)
    assert look(foreign.folder).data == data
