"""Every private name of Optuna's that this project uses, as `test_mlflow_private` has MLflow's.

Optuna may change these in any release without a word. Two samplers go by generations, which they
note on trials while they ask for them; a study that is made anew has to note them itself.
"""

import ast
import inspect
from pathlib import Path

import optuna
import pytest

import kaggleops

USED = {"_get_generation_key"}  # of NSGAIISampler
KEYS = {"nsga2": ["NSGAIISampler:generation"], "cmaes": ["cma:generation", "cma:optimizer"]}
"""What a sampler notes on its trials: what the keys begin with."""


def test_they_are_there_as_they_were() -> None:
    function = optuna.samplers.NSGAIISampler._get_generation_key
    assert str(inspect.signature(function)).partition(" ->")[0] == "()"
    assert function() == KEYS["nsga2"][0]


def test_no_other_is_used() -> None:
    root = Path(kaggleops.__file__).parent.parent
    used = set()
    for file in [*root.glob("kaggleops/**/*.py"), *root.glob("hydra_plugins/**/*.py")]:
        tree = ast.parse(text) if "optuna" in (text := file.read_text()) else ast.Module([], [])
        nodes = list(ast.walk(tree))
        imports = [
            (node.module, alias.name)
            for node in nodes
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("optuna")
            for alias in node.names
        ]
        assert not [each for each in imports if "._" in f"{each[0]}.{each[1]}"], file
        names = {"optuna", "samplers", "pruners", *(name for _, name in imports)}
        used |= {
            node.attr
            for node in nodes
            if isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and ast.unparse(node.value).partition(".")[0] in names
        }
    assert used == USED


@pytest.mark.parametrize("name", KEYS)
def test_the_samplers_note_what_this_project_notes_for_them(name: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = {
        "nsga2": lambda: optuna.samplers.NSGAIISampler(population_size=4, seed=0),
        "cmaes": lambda: optuna.samplers.CmaEsSampler(popsize=4, seed=0),
    }[name]()
    study = optuna.create_study(sampler=sampler)
    study.optimize(
        lambda trial: trial.suggest_float("x", 0, 1) + trial.suggest_float("y", 0, 1), n_trials=12
    )
    noted = [key for trial in study.trials for key in trial.system_attrs]
    for wanted in KEYS[name]:
        assert [key for key in noted if key.startswith(wanted)], noted
