"""SKILL.md, as a coding agent follows it: the exit codes, and the field that it is to believe."""

import re
from pathlib import Path

from kaggleops.backends.local import Job
from tests.command import kaggleops_here
from tests.fakes.git_server import Repository

SKILL = (Path(__file__).parents[2] / "SKILL.md").read_text()

TRAIN = """
import argparse
import sys

import kaggleops
import mlflow

FOLDS = [0.70, 0.74, 0.69, 0.73, 0.71]
GAINS = [0, 0, 0, 0, 0]
parser = argparse.ArgumentParser()
parser.add_argument("--folds", type=int, default=5)
args = parser.parse_args()
scores = [sum(each) for each in zip(FOLDS, GAINS)][: args.folds]
with mlflow.start_run():
    for fold, score in enumerate(scores):
        mlflow.log_metric("fold_accuracy", score, step=fold)
    if kaggleops.time_left() is not None:
        sys.exit(kaggleops.TO_BE_CONTINUED)
    mlflow.log_metric("accuracy", sum(scores) / len(scores))
"""


def test_exit_codes_and_verdicts_are_as_an_agent_is_told(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "work")
    repository.write(train_py=TRAIN)
    repository.commit("Before")
    codes = {}

    def say(*words: str) -> dict[str, object]:
        done = kaggleops_here(*words, cwd=repository.folder)
        codes[done.code] = done
        return done.json if done.code in (0, 42) and done.output.startswith("{") else {}

    init = ("init", "--bucket", "./bucket", "--score", "accuracy", "--yes")
    assert kaggleops_here(*init, cwd=repository.folder).code == 0
    repository.commit("Idea")

    say("run", "--json", "folds=5")
    say("run", "--json", "folds=none")
    say("run", "--json", "folds=0")
    run = str(say("run", "--json", "folds=1", "--hours", "1")["run_id"])
    (told,) = re.findall(r"Exit codes: (.*)", SKILL)
    assert sorted(codes) == sorted(map(int, re.findall(r"(?<![\w.])\d+(?= )", told)))
    assert "ZeroDivisionError: division by zero" in codes[1].error
    assert "Traceback" not in codes[2].errors
    (resume,) = re.findall(r"`kaggleops (resume .*?)`", told)
    assert kaggleops_here(*resume.replace("RUN", run).split(), cwd=repository.folder).code == 0
    Job.of(run).wait()
    (row,) = kaggleops_here("status", run, "--json", cwd=repository.folder).json["runs"]
    assert row["status"] == "FINISHED"

    verdicts = []
    for gains in ("0.03, 0.031, 0.029, 0.03, 0.032", "0.02, 0.04, 0.035, 0.025, 0.031"):
        repository.write(train_py=TRAIN.replace("0, 0, 0, 0, 0", gains))
        repository.commit("Another idea")
        say("run", "--json", "folds=5")
        compared = kaggleops_here("compare", "HEAD~1", "HEAD", "--json", cwd=repository.folder)
        score, *_ = compared.json["metrics"]
        verdicts.append(score["differences"][0]["verdict"])
    assert verdicts == ["better", "no difference"]
    assert all(f'"{each}"' in SKILL for each in verdicts)
