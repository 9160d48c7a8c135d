"""What is read from a training script, without running it."""

from pathlib import Path

import pytest

from kaggleops.cli.scripts import Parameter, find_script
from kaggleops.errors import UsageError

ARGPARSE = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("-l", "--learning-rate", type=float, default=1e-3, help="of Adam")
parser.add_argument("--epochs", default=3, type=int)
parser.add_argument("--shift", default=-1)
parser.add_argument("--name", default="a 'quoted' one")
parser.add_argument("--fold", required=True)
parser.add_argument("--resume")                                # None: cannot be passed
parser.add_argument("--amp", action="store_true")              # no value
parser.add_argument("--layers", nargs="+", default=[1, 2])     # several
parser.add_argument("--device", default="cuda" if parser else "cpu")
parser.add_argument("--epochs", default=4)
"""

CLICK = """
import click
@click.command()
@click.argument("data")
@click.option("--lr", default=0.1)
@click.option("--amp/--no-amp", default=True)
@click.option("--seed", is_flag=True, default=0)
def main(**_): ...
"""


@pytest.mark.parametrize(
    ("source", "expected", "left_out"),
    [
        (
            ARGPARSE,
            [
                Parameter("data", "", None),
                Parameter("learning_rate", "--learning-rate", 0.001),
                Parameter("epochs", "--epochs", 3),
                Parameter("shift", "--shift", -1),
                Parameter("name", "--name", "a 'quoted' one"),
                Parameter("fold", "--fold", None),
            ],
            ("--resume", "--amp", "--layers", "--device"),
        ),
        (
            CLICK,
            [Parameter("data", "", None), Parameter("lr", "--lr", 0.1)],
            ("--amp/--no-amp", "--seed"),
        ),
        ("print('no options at all')", [], ()),
    ],
    ids=["argparse", "click", "neither"],
)
def test_the_values_that_a_script_takes(
    tmp_path: Path, source: str, expected: list[Parameter], left_out: tuple[str, ...]
) -> None:
    (tmp_path / "train.py").write_text(source)
    script = find_script(tmp_path)
    assert list(script.parameters) == expected
    assert script.left_out == left_out


def test_what_else_matters_of_a_script(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/fit.py").write_text(
        "import os, sklearn.svm\nfrom . import near\nimport hydra, mlflow\n"
        "mlflow.set_experiment('titanic')\n"
        "mlflow.set_tracking_uri('http://somewhere')\n"
        "@hydra.main(config_path='conf')\ndef main(config): ...\n"
    )
    script = find_script(tmp_path, "src/fit.py")
    assert script.is_hydra
    assert script.experiment == "titanic"
    assert script.sets_tracking_uri == 5
    assert script.imports == {"os", "sklearn", "hydra", "mlflow"}


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        (None, "there is no train.py or src/train.py"),
        ("fit.py", "there is no fit.py"),
        ("broken.py", "it is not Python"),
    ],
)
def test_no_script_is_one_clear_line(tmp_path: Path, named: str | None, problem: str) -> None:
    (tmp_path / "broken.py").write_text("def")
    with pytest.raises(UsageError, match=problem):
        find_script(tmp_path, named)
