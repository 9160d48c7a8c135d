"""Every command in docs/training.md is one: its entry point, its options, its keys."""

import importlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from mlflow.projects.utils import load_project

from competitions.config import compose
from competitions.console import split_overrides
from kaggleops.cli import main as kaggleops
from kaggleops.launch.overrides import Overrides
from tests.competitions.launching import ROOT

PAGE = (ROOT / "docs" / "training.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]


def check_python(words: Sequence[str]) -> None:
    """Read `python -m competitions.ENTRY_POINT …` as that entry point does, and stop there."""
    python, flag, module, *arguments = words
    assert (python, flag) == ("python", "-m")
    entry_point: click.Command = importlib.import_module(module).main
    given = entry_point.make_context(module, arguments).params
    overrides = [*given.get("parameters", ()), *split_overrides(given.get("overrides", ""))]
    compose(overrides)


def check_run(given: dict[str, object]) -> None:
    """Read what `kaggleops run` was given as the entry point that it starts does."""
    words = given["overrides"]
    assert isinstance(words, tuple)
    entry_point = load_project(str(ROOT)).get_entry_point(given["entry_point"])
    parameters = Overrides(words, None).as_parameters(entry_point.parameters, "testing")
    path, *command = shlex.split(entry_point.compute_command(parameters, None))
    assert path == "PYTHONPATH=src"
    check_python(command)


def check(line: str) -> None:
    words = shlex.split(re.sub("<[a-z]+>", "x", line))
    while re.match("[A-Z_]+=", words[0]):
        words = words[1:]
    if words[0] == "python":
        check_python(words)
        return
    program, name, *arguments = words
    assert program == "kaggleops"
    command = kaggleops.get_command(click.Context(kaggleops), name)
    assert command is not None
    given = command.make_context(name, arguments).params
    if name == "run":
        check_run(given)


@pytest.fixture(autouse=True)
def _a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "gs://our-bucket/mlruns")


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page(line: str) -> None:
    check(line)


@pytest.mark.parametrize(
    "line",
    [
        "kaggleops run -e gathr runs=<run>",
        "kaggleops run -e gather run=<run>",
        "kaggleops run fold=all trainer.stop_at=11h",
        "kaggleops resume <run> --backed kaggle",
        "python -m competitions.offline --runs <run>",
    ],
)
def test_a_wrong_command_would_be_seen(line: str) -> None:
    with pytest.raises(Exception):  # noqa: B017 - of click, of MLflow, of ours
        check(line)


def test_the_page_is_on_the_readmes_list() -> None:
    assert "(docs/training.md)" in (ROOT / "README.md").read_text()
    assert Path(ROOT / "docs" / "training.md").is_file()
