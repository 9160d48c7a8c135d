"""The notebook that a platform runs: notebooks/run.ipynb, with its parameter cell filled in."""

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kaggleops.errors import KaggleOpsError

_HERE = Path(__file__).parent
_PACKED = _HERE / "run.ipynb"  # where a wheel has it
_IN_REPOSITORY = _HERE.parents[2] / "notebooks/run.ipynb"
_EXIT = """# Whoever started this program starts it again, where the run is to be continued.
from kaggleops.notebook import exit_code

raise SystemExit(exit_code(run))"""
_ASSIGNMENT = re.compile(r"(\w+) = ")


def ready_notebook(parameters: Mapping[str, str]) -> str:
    """Return the notebook's JSON with values for some of its parameters, by name.

    Raises KaggleOpsError if it has no parameter of such a name.
    """
    source = _PACKED if _PACKED.is_file() else _IN_REPOSITORY
    notebook = json.loads(source.read_text())
    cell = _parameter_cell(notebook)
    left = dict(parameters)
    lines = "".join(cell["source"]).splitlines()
    for number, line in enumerate(lines):
        found = _ASSIGNMENT.match(line)
        if found and found[1] in left:
            # A string in JSON is the same string in Python.
            lines[number] = f"{found[1]} = {json.dumps(left.pop(found[1]))}"
    if left:
        raise KaggleOpsError(f"filling in {source.name}", f"it has no parameter {min(left)!r}")
    cell["source"] = "\n".join(lines).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def parameters_of(notebook: str) -> dict[str, str]:
    """Return the parameters of a ready notebook (its JSON) by name."""
    found = {}
    for line in "".join(_parameter_cell(json.loads(notebook))["source"]).splitlines():
        name, assigned, value = line.partition(" = ")
        if assigned and name.isidentifier():
            found[name] = str(ast.literal_eval(value))
    return found


def as_script(notebook: str) -> str:
    """Return what the cells of a ready notebook (its JSON) do, as a program in Python.

    Its exit code says whether the run is to be continued.
    """
    return "\n\n".join([*code_cells(notebook), _EXIT])


def code_cells(notebook: str) -> list[str]:
    """Return the code of a notebook's cells (its JSON)."""
    cells = json.loads(notebook)["cells"]
    return ["".join(each["source"]) for each in cells if each["cell_type"] == "code"]


def _parameter_cell(notebook: dict[str, Any]) -> dict[str, Any]:
    (cell,) = (
        each for each in notebook["cells"] if "parameters" in each["metadata"].get("tags", [])
    )
    return cell
