"""What another machine can fetch, and the notebook that it gets."""

import json

import pytest

from kaggleops.backends.ready_notebook import ready_notebook
from kaggleops.errors import KaggleOpsError
from kaggleops.git.checkouts import can_fetch
from tests.notebooks.execution import NOTEBOOKS

from .world import World


def test_what_anybody_can_fetch(outside: World) -> None:
    address = outside.repository.git("remote", "get-url", "origin")
    assert can_fetch(address, outside.sha)
    assert not can_fetch(address, "0" * 40)
    assert not can_fetch(f"{address}-not", outside.sha)


def test_the_notebook_is_ours_but_for_its_parameters() -> None:
    ready = json.loads(ready_notebook({"run_id": 'a "quoted" one', "version": "b"}))
    ours = json.loads((NOTEBOOKS / "run.ipynb").read_text())
    (cell,) = (each for each in ready["cells"] if each["id"] == "parameters")
    (own,) = (each for each in ours["cells"] if each["id"] == "parameters")
    values: dict[str, str] = {}
    exec("".join(cell["source"]), values)
    assert (values["run_id"], values["version"]) == ('a "quoted" one', "b")
    assert values["experiment"] == ""
    cell["source"] = own["source"]
    assert ready == ours


def test_a_parameter_that_it_lacks() -> None:
    with pytest.raises(KaggleOpsError, match="it has no parameter 'nonsense'"):
        ready_notebook({"nonsense": "1"})
