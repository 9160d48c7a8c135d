"""What the user typed arrives, whatever stands between."""

import shlex
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from kaggleops.errors import UsageError
from kaggleops.launch.overrides import Overrides

DECLARED = {"task": "x", "fold": "0", "overrides": ""}


def test_declared_keys_are_parameters_and_the_rest_travels_together() -> None:
    overrides = Overrides(["task=tweets", "trainer.lr=1e-4", "fold=2", "+a='b c'"])
    parameters = overrides.as_parameters(DECLARED, "running")
    assert parameters["task"] == "tweets"
    assert parameters["fold"] == "2"
    assert shlex.split(parameters["overrides"]) == ["trainer.lr=1e-4", "+a='b c'"]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)))
def test_any_overrides_arrive_through_mlflows_and_the_shells_quoting(items: list[str]) -> None:
    items = [f"key={item}" for item in items if not item.startswith((".", "~"))]
    parameters = Overrides(items).as_parameters(DECLARED, "running")
    # What MLflow does with a parameter (mlflow.projects._project_spec) and what bash then does.
    words = shlex.split(f"--overrides {shlex.quote(parameters.get('overrides', ''))}")
    assert shlex.split(words[1]) == items


def test_bash_agrees() -> None:
    items = ["a='x y'", 'b="$HOME"', "c=[1, 2]", "d=é\t!", "e=`id`"]
    quoted = shlex.quote(Overrides(items).as_parameters(DECLARED, "running")["overrides"])
    seen = subprocess.check_output(["bash", "-c", f"printf %s {quoted}"], text=True)
    assert shlex.split(seen) == items


@pytest.mark.parametrize(
    ("typed", "arrives"),
    [
        ("data.dir=../data", "/home/ada/data"),
        ("data.dir=./it's (mine), yes", "/home/ada/code/it's (mine), yes"),
        ("data.dir=..", "/home/ada"),
        ("data.dir='../with space'", "/home/ada/with space"),
        ("data.dir=/absolute/path", "/absolute/path"),
        ("data.dir=gs://bucket/../x", "gs://bucket/../x"),
    ],
)
def test_relative_paths_become_absolute_in_hydras_own_syntax(typed: str, arrives: str) -> None:
    overrides = Overrides([typed], Path("/home/ada/code"))
    (item,) = shlex.split(overrides.as_parameters(DECLARED, "running")["overrides"])
    (parsed,) = OverridesParser.create().parse_overrides([item])
    assert str(parsed.value()) == arrives


def test_a_parameter_that_nobody_declared_is_an_error_that_lists_the_others() -> None:
    with pytest.raises(UsageError, match=r"'gamma=1'.*It takes: alpha, beta"):
        Overrides(["gamma=1"]).as_parameters({"alpha": None, "beta": None}, "running")
