"""`kaggleops sweep`: what it would do, what it begins, and the one line for what it cannot."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest

from kaggleops import tags
from kaggleops.backends.local import Job
from kaggleops.campaign.search import Search
from kaggleops.campaign.sweep import Sweep
from kaggleops.launch.overrides import Overrides
from kaggleops.platforms.folders import state_folder
from tests import secrets_of
from tests.command import Done, kaggleops_here
from tests.fakes.git_server import Repository

MLPROJECT = """
name: theirs
entry_points:
  main:
    parameters:
      net: {type: string, default: small}
      note: {type: string, default: ""}
      overrides: {type: string, default: ""}
    command: "python train.py net={net} --note {note} --overrides {overrides}"
  plain:
    parameters:
      alpha: {type: float, default: 0.1}
      text: {type: string, default: x}
      fold: {type: string, default: none}
    command: "python plain.py {alpha} {text} {fold}"
  gather:
    command: "python gather.py"
"""
CONFIG = "defaults: [_self_, {net: small}, {experiment: null}]\nlr: 0.1\nfold: 0\n"
SEARCH = """# @package _global_
hydra:
  sweeper:
    params:
      lr: tag(log, interval(1e-4, 1e-1))
      net.depth: 2,4
      fold: 1
      +fast: true
"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Somebody's project, with a configuration of Hydra's and an entry point without."""
    repository = Repository(tmp_path_factory.mktemp("sweeps") / "theirs")
    repository.write(
        MLproject=MLPROJECT,
        train_py="print()",
        **{
            "config__config.yaml": CONFIG,
            "config__net__small.yaml": "depth: 2\n",
            "config__net__large.yaml": "depth: 8\n",
            "config__net__wide.yaml": "depth: 2\nwidth: 9\n",
            "config__experiment__search.yaml": SEARCH,
        },
    )
    repository.commit("Train")
    return repository


def sweep(theirs: Repository, *arguments: object, **environment: str) -> Done:
    bucket = Path.cwd() / "bucket"
    given = ("sweep", "--bucket", bucket, *arguments)
    done = kaggleops_here(*given, cwd=theirs.folder, **environment)
    if "--dry-run" in arguments or done.code:
        assert not bucket.exists()
    return done


def points(theirs: Repository, *arguments: object) -> list[dict[str, str]]:
    done = sweep(theirs, "--dry-run", "--json", *arguments)
    assert done.code == 0, done.errors
    found: list[dict[str, str]] = done.json["points"]
    return found


def test_a_dry_run_says_what_would_be_done_and_does_nothing(theirs: Repository) -> None:
    done = sweep(theirs, "--dry-run", "fold=0,1,2", "net=small,large", "lr=0.1,0.2")
    assert done.code == 0, done.errors
    assert "4 trials of 3 folds, 12 jobs, the grid" in done.errors
    table = [line.split() for line in done.output.splitlines() if line]
    assert table[:5] == [
        ["trial", "net", "lr"],
        ["0", "small", "0.1"],
        ["1", "small", "0.2"],
        ["2", "large", "0.1"],
        ["3", "large", "0.2"],
    ]
    assert "Each with fold = 0, 1, 2." in done.output
    assert "Local  1 job now" in done.output
    assert "11 jobs wait" in done.output
    assert done.output.endswith("Nothing was begun.\n")


def test_what_begins_can_be_gone_on_with_from_the_bucket_alone(theirs: Repository) -> None:
    done = sweep(
        theirs,
        *("--detach", "--json", "--sampler", "tpe", "--trials", 7, "--metric", "rmse"),
        *("--gpu", "T4,none", "--memory", 1, "--at-once", 2, "--pruner", "median", "--seed", 3),
        *("fold=0,1", "net=glob(*)", "lr=tag(log,interval(1e-4,1e-1))", "net.depth=3"),
        CUDA_VISIBLE_DEVICES="",
    )
    assert done.code == 0, done.errors
    assert "kaggleops watch --bucket" in done.errors
    told = done.json
    assert (told["trials"], told["jobs"], told["experiment"]) == (7, 14, "theirs")
    client = mlflow.MlflowClient(f"bucket+file://{Path.cwd()}/bucket/mlruns")
    run = client.get_run(told["sweep"])
    assert run.data.tags[tags.RUN_NAME] == told["name"]
    assert run.data.tags[tags.COMMIT] == theirs.git("rev-parse", "HEAD")
    begun = Sweep.from_tag(run.data.tags[tags.SWEEP])
    assert list(begun.axes)[1] == "net=choice(large,small,wide)"
    assert (begun.fold_axis, begun.folds) == ("fold", ["0", "1"])
    assert (begun.overrides, begun.gather) == (["net.depth=3"], True)
    assert (begun.metrics, begun.directions) == (["rmse"], ["minimize"])
    assert begun.needs == {"gpu": "T4,none", "memory_gb": 1}
    assert begun.configs["local"]["repository"] == str(theirs.folder)
    assert len(Search(begun).ask([], 9)) == 7


def test_its_jobs_here_read_the_data_of_the_repository_that_is_named(theirs: Repository) -> None:
    Path("local.yaml").write_text(f"repository: {Path.cwd()}\n")
    done = sweep(
        theirs, "--detach", "--json", "--backend-config", Path.cwd() / "local.yaml", "fold=0,1"
    )
    assert done.code == 0, done.errors
    client = mlflow.MlflowClient(f"bucket+file://{Path.cwd()}/bucket/mlruns")
    begun = Sweep.from_tag(client.get_run(done.json["sweep"]).data.tags[tags.SWEEP])
    assert begun.configs["local"]["repository"] == str(Path.cwd())


def test_a_space_comes_from_an_experiment_and_what_is_typed_wins(theirs: Repository) -> None:
    asked = ("--sampler", "random", "--trials", 3, "experiment=search")
    found = points(theirs, *asked)
    assert [list(each) for each in found] == [["lr", "net.depth"]] * 3
    assert sweep(theirs, "--dry-run", "--json", *asked).json["sweep"]["overrides"][:2] == [
        "fold=1",
        "+fast=true",
    ]
    assert list(points(theirs, *asked, "lr=1,2")[0]) == ["lr", "net.depth"]
    assert points(theirs, *asked, "net.depth=2", "net=small,large")[0].keys() == {"lr", "net"}


def test_quotes_reach_hydra_and_no_other_program(theirs: Repository) -> None:
    plain = points(theirs, "-e", "plain", "text='a,b','3.10'")
    assert [each["text"] for each in plain] == ["a,b", "3.10"]
    # `note` goes to the same command, but not to Hydra; what is below `overrides` does.
    assert points(theirs, "note='a,b',c")[0] == {"note": "a,b"}
    hydras = points(theirs, "+text='a,b','3.10'")
    assert [each["+text"] for each in hydras] == ["'a,b'", "'3.10'"]
    given = Overrides([f"+text={hydras[0]['+text']}"]).as_parameters({"overrides": ""}, "running")
    assert given == {"overrides": """'+text='"'"'a,b'"'"''"""}


def test_folds_are_what_the_person_says(theirs: Repository) -> None:
    assert len(points(theirs, "fold=0,1", "lr=1,2")) == 2
    assert len(points(theirs, "--folds", "", "fold=0,1", "lr=1,2")) == 4
    assert points(theirs, "--folds", "lr", "fold=0,1", "lr=1,2")[0] == {"fold": "0"}
    done = sweep(theirs, "--dry-run", "fold=0,1,2")
    assert "1 trial of 3 folds, 3 jobs" in done.errors
    assert "trial" not in done.output.partition("Each with")[0]


def test_a_search_ranks_by_what_the_experiment_is_ranked_by(theirs: Repository) -> None:
    asked = ("--dry-run", "--sampler", "tpe", "--trials", 3, "lr=interval(0,1)")
    assert sweep(theirs, *asked).error.endswith("Add --metric NAME.")
    uri = f"bucket+file://{Path.cwd()}/bucket/mlruns"
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("theirs")
    with mlflow.start_run():
        mlflow.log_metrics({"train_loss": 1.0, "rmse": 2.0})
    bucket = Path.cwd() / "bucket"
    done = kaggleops_here("sweep", "--bucket", bucket, *asked, cwd=theirs.folder)
    assert "rmse as low as possible" in done.errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["net=small"], "nothing is swept"),
        (["net=choice(small)"], "the space has one point"),
        ([], "nothing is swept"),
        (["net=small,lagre"], "there is no net 'lagre'. Did you mean large?"),
        (["nte=small,large"], "there is no key nte. There are: "),
        (["net=large,small", "net.depht=1,2"], "there is no key net.depht"),
        (["net=glob(z*)"], "matches nothing in the commit's configuration. There are: large"),
        (["lr=interval(0,1)"], "is an interval, and has no grid. Add --sampler tpe --trials N"),
        (["lr=1,2", "lr=3,4"], "lr is swept twice"),
        (["lr=tag(log,interval(0,1))", "--sampler", "random"], "the only tag is log"),
        (["lr=1,2", "--sampler", "tpe", "--metric", "x"], "Add --trials N"),
        (["lr=1,2", "--sampler", "bayes"], "there is no sampler 'bayes'"),
        (["lr=1,2", "--pruner", "medain", "--metric", "x"], "Did you mean median?"),
        (["lr=1,2", "--direction", "maximize"], "1 directions are given for 0 metrics"),
        (["lr=1,2", "--folds", "part"], "part is not swept"),
        (["lr=1,2", "-b", "kagle"], "there is none of that name"),
        (["lr=1,2", "-b", "auto,local"], "auto already means all backends that are set up"),
        (["lr=1,2", "-b", "manual"], "its jobs are started by hand"),
        (["lr=1,2", "-b", "kaggle"], "its machines cannot reach bucket+file"),
        (["lr=1,2", "-b", "local,kaggle", "--backend-config", "x"], "one file for several"),
        (["lr=1,2", "--gpu", "H100"], "local has no accelerator, H100 wanted"),
        (["lr=1,2", "--memory", "100000"], "100000 GB wanted"),
        (["alpha=1,2", "-e", "nonsense"], "nonsense"),
        (["beta=1,2", "-e", "plain"], "it does not take 'beta=1'"),
        (["alpha=1,x", "-e", "plain"], "alpha takes a number, not 'x'"),
        (["lr=1,2", "--version", "nonsense"], "no commit 'nonsense'"),
        (["lr=1,2", f"+a={secrets_of.HUGGING_FACE_TOKEN}"], "holds a secret"),
        (["lr=1,2", f"+a=x,{secrets_of.HUGGING_FACE_TOKEN}"], "holds a secret"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_made(
    theirs: Repository, arguments: list[str], said: str
) -> None:
    done = sweep(theirs, *arguments, CUDA_VISIBLE_DEVICES="")
    assert said in done_error(theirs, done)
    assert done.code == 2


def done_error(theirs: Repository, done: Done) -> str:
    assert "Traceback" not in done.errors
    return done.error.replace(str(theirs.folder), "")


def test_uncommitted_changes_are_refused_unless_a_version_is_named(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "mine")
    repository.write(MLproject=MLPROJECT, plain_py="")
    repository.commit("Train")
    repository.write(plain_py="print()")
    error = sweep(repository, "-e", "plain", "alpha=1,2").error
    assert "not committed" in error
    assert "--uncommitted" not in error
    asked: list[Any] = ["--dry-run", "--version", "HEAD", "-e", "plain", "alpha=1,2"]
    assert sweep(repository, *asked).code == 0


TRAIN = """
import os, sys
import mlflow
with mlflow.start_run():
    mlflow.log_metric("score", float(sys.argv[1]))
    if gate := os.environ.get("GATE"):
        open(f"{gate}.reached", "w").close()
        open(f"{gate}.open").read()
"""


@pytest.fixture
def toy(tmp_path: Path) -> Repository:
    """A project of which two jobs run here at once."""
    repository = Repository(tmp_path / "toy")
    repository.write(
        MLproject=MLPROJECT, plain_py=TRAIN, **{"config__backend__local.yaml": "jobs: 2\n"}
    )
    repository.commit("Train a toy")
    return repository


def test_it_is_watched_until_it_is_over(toy: Repository) -> None:
    done = sweep(toy, "-e", "plain", "alpha=1,2", "--metric", "score", "--name", "two")
    assert done.code == 0, done.errors
    rows = [line.split() for line in done.output.splitlines() if line][-4:]
    assert rows[:2] == [["Sweep", "two,", "finished"], ["best_score", "2.0000"]]
    best = mlflow.MlflowClient(f"bucket+file://{Path.cwd()}/bucket/mlruns").get_run(rows[2][1])
    assert best.data.params["alpha"] == "2"
    assert rows[3][:4] == ["Show", "it", "kaggleops", "ui"]


def test_interrupting_it_leaves_the_jobs_running(toy: Repository, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    for end in ("reached", "open"):
        os.mkfifo(f"{gate}.{end}")
    given = ("--bucket", tmp_path / "bucket", "-e", "plain", "alpha=1,2", "--at-once", 1)
    command = [sys.executable, "-m", "kaggleops", "sweep", *map(str, given)]
    watching = subprocess.Popen(
        command,
        cwd=toy.folder,
        env={**os.environ, "GATE": str(gate)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    Path(f"{gate}.reached").read_text()
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=120)
    assert watching.returncode == 1, errors
    assert "The jobs go on." in errors
    assert f"kaggleops watch --bucket bucket+file://{tmp_path}/bucket" in errors
    assert "Traceback" not in errors
    (job,) = (state_folder() / "local/jobs").iterdir()
    Path(f"{gate}.open").write_text("")
    Job.of(job.name).wait()
    client = mlflow.MlflowClient(f"bucket+file://{tmp_path}/bucket/mlruns")
    assert client.get_run(job.name).info.status == "FINISHED"
