"""A notebook, executed as Jupyter executes it: in a kernel of its own."""

import os
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def parametrised(name: str, **parameters: Any) -> nbformat.NotebookNode:
    """Return a notebook with its parameters filled in, in a cell behind theirs (as papermill)."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    (index,) = (
        number
        for number, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", [])
    )
    source = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    notebook.cells.insert(index + 1, nbformat.v4.new_code_cell(source))
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: Path) -> str:
    """Run all cells in a folder and return everything they printed.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the notebook holds what came before.
    """
    client = NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}, timeout=280)
    # Under pytest, and only there, ipykernel does not show what child processes print.
    kept = os.environ.pop("PYTEST_CURRENT_TEST", None)
    try:
        client.execute()
    finally:
        if kept is not None:
            os.environ["PYTEST_CURRENT_TEST"] = kept
    return printed(notebook)


def printed(notebook: nbformat.NotebookNode) -> str:
    """Return what an executed notebook shows."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") or output.get("evalue", "") for output in outputs)
