"""What another machine can fetch, and the notebook that it gets."""

import json
import sys
from pathlib import Path

import pytest

from kaggleops.backends.manual import ManualBackend
from kaggleops.backends.ready_notebook import ready_notebook
from kaggleops.errors import KaggleOpsError
from kaggleops.git.checkouts import can_fetch
from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import Launch
from kaggleops.launch.overrides import Overrides
from tests.fakes.git_server import Repository
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


_asked_of_git: list[list[str]] = []


def _watch(event: str, args: tuple[object, ...]) -> None:
    if event == "subprocess.Popen" and isinstance(args[1], list) and args[1][0] == "git":
        _asked_of_git.append(args[1])


def test_a_submit_reads_its_commit_and_clones_nothing(tmp_path: Path) -> None:
    code = Repository(tmp_path / "code")
    modules = '[submodule "lib"]\n path = lib\n url = http://127.0.0.1:9/out-of-reach\n'
    run = "name: toy\nentry_points:\n  main:\n    command: python train.py\n"
    code.write(**{".gitmodules": modules, "MLproject": run, "train.py": "", "data.csv": "x"})
    (code.folder / "lib").mkdir()
    code.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},lib")
    commit = find_commit(code.folder, code.commit("With a library that is out of reach"))
    what = Launch(f"bucket+file://{tmp_path}/bucket/mlruns", Overrides([], None))
    backend = ManualBackend()
    sys.addaudithook(_watch)  # which stays as long as the process
    _asked_of_git.clear()
    submitted = backend.submit(commit, what, backend.read_config({"folder": str(tmp_path)}, "here"))
    asked = [word for line in _asked_of_git for word in line]
    assert "clone" not in asked
    assert asked.count("checkout") == 1
    assert submitted.get_status() == "SCHEDULED"
    assert Path(submitted.tags["notebook_file"]).is_file()
