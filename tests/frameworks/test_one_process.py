"""Several fits or trials in one process are one run of the commit, with the others below it."""

import re
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run

from kaggleops.tags import PARENT
from tests.command import kaggleops_here
from tests.fakes.git_server import Repository
from tests.frameworks.adopting import adopted, client_of, train

DOCS = Path(__file__).parents[2] / "docs"

pytestmark = pytest.mark.usefixtures("quick")


def code(page: str, marker: str) -> str:
    """Return the block of Python of a page that has this in it."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    (found,) = (block for block in blocks if marker in block)
    return str(found)


def read(repository: Repository, run_id: str) -> tuple[Run, list[Run]]:
    """Return the commit's run, and all others of its commit, the first begun first."""
    client = client_of(repository)
    run = client.get_run(run_id)
    found = client.search_runs([run.info.experiment_id], order_by=["attributes.start_time"])
    commit = run.data.tags["git_commit"]
    others = [each for each in found if each.data.tags["git_commit"] == commit]
    return run, [each for each in others if each.info.run_id != run_id]


def asked(repository: Repository, *command: str) -> Any:
    done = kaggleops_here(*command, "--json", cwd=repository.folder)
    assert done.code == 0, done.errors
    return done.json


FITS = """
import mlflow
from sklearn.datasets import load_iris
from sklearn.metrics import root_mean_squared_error as metric
from sklearn.model_selection import KFold
from sklearn.tree import DecisionTreeRegressor

x, y = load_iris(return_X_y=True)
model, scores = DecisionTreeRegressor(max_depth=1, random_state=0), []
mlflow.autolog(log_models=False)
"""

EACH = """
for train, _ in KFold(5).split(x):
    model.fit(x[train], y[train])
"""


def test_autolog_alone_and_then_as_the_page_says(tmp_path: Path) -> None:
    repository = adopted(tmp_path / "iris", ["scikit-learn"], train_py=FITS + EACH)
    run, others = read(repository, train(repository, further=True))
    assert {each.data.tags[PARENT] for each in others} == {run.info.run_id}
    assert len(others) == 4
    # Every command shows the same one of them.
    score = "training_root_mean_squared_error"
    (row,) = asked(repository, "leaderboard", "--metric", score)["commits"]
    assert (row["runs"], row["score"]) == ([run.info.run_id], run.data.metrics[score])

    advice = FITS + code("frameworks.md", "KFold(5)")
    repository.write(train_py=advice)
    repository.commit("One run for all folds")
    run, others = read(repository, train(repository))
    assert others == []
    assert len(client_of(repository).get_metric_history(run.info.run_id, "fold_rmse")) == 5
    repository.write(train_py=advice.replace("max_depth=1", "max_depth=3"))
    repository.commit("Deeper trees")
    train(repository)
    metrics = asked(repository, "compare", "HEAD~1", "HEAD")["metrics"]
    (line,) = (each for each in metrics if each["name"] in ("rmse", "fold_rmse"))
    (found,) = line["differences"]
    assert (found["folds"], found["how"]) == (5, "by fold")
    assert found["low"] < found["mean"] < 0


SEARCH = """
import mlflow
import optuna

optuna.logging.disable_default_handler()
BEST = 0.3


def train(lr):
    return 1 - abs(lr - BEST)


"""

HYDRA = """
import hydra
import mlflow


def train(cfg):
    return 1 - abs(cfg.lr - 0.25)


"""


def test_a_search_of_optunas_and_a_sweep_of_hydras_are_a_parent_with_children(
    tmp_path: Path,
) -> None:
    script = SEARCH + code("frameworks.md", "create_study")
    repository = adopted(tmp_path / "work", ["optuna"], train_py=script)
    search, trials = read(repository, train(repository))
    assert [each.data.tags[PARENT] for each in trials] == [search.info.run_id] * 10
    best = max(each.data.metrics["accuracy"] for each in trials)
    assert search.data.metrics == {"accuracy": best}
    assert all("lr" in each.data.params for each in trials)

    program = HYDRA + code("hydra.md", "nested=True")
    config = "lr: 0.1\n"
    repository.write(train_py=program, **{"conf/config.yaml": config})
    (repository.folder / "MLproject").unlink()
    done = kaggleops_here("init", "--bucket", "./bucket", "--yes", cwd=repository.folder)
    assert done.code == 0, done.errors
    repository.commit("A program of Hydra's")
    overrides = ("hydra.mode=MULTIRUN", "lr=0.1,0.2,0.4")
    sweep, jobs = read(repository, train(repository, *overrides))
    assert [each.data.params["lr"] for each in jobs] == ["0.1", "0.2", "0.4"]
    assert {each.data.tags[PARENT] for each in jobs} == {sweep.info.run_id}
    assert sweep.data.metrics == {"accuracy": 0.95}

    board = asked(repository, "leaderboard", "--metric", "accuracy")["commits"]
    assert {row["runs"][0]: row["score"] for row in board} == {
        search.info.run_id: best,
        sweep.info.run_id: 0.95,
    }
    compared = asked(repository, "compare", "HEAD~1", "HEAD")
    assert [each["runs"] for each in compared["sides"]] == [
        [search.info.run_id],
        [sweep.info.run_id],
    ]
    (line,) = compared["metrics"]
    assert [each["mean"] for each in line["sides"]] == [best, 0.95]
