"""A notebook executed for real: by Jupyter's client, or by papermill as Kaggle executes it."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
import psutil
from nbclient import NotebookClient

from tests.warm import forked

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


def joined(*notebooks: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return one notebook that runs all these from top to bottom in one kernel."""
    whole = deepcopy(notebooks[0])
    whole.cells = [deepcopy(cell) for notebook in notebooks for cell in notebook.cells]
    for number, cell in enumerate(whole.cells):
        cell["id"] = f"cell-{number}"
    return whole


def until(cell_id: str, notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a notebook that ends with the cell of that id."""
    last = next(number for number, cell in enumerate(notebook.cells) if cell.id == cell_id)
    notebook.cells = notebook.cells[: last + 1]
    return notebook


def execute(
    notebook: nbformat.NotebookNode,
    folder: Path,
    environment: Mapping[str, str],
    *,
    go_on: bool = False,
) -> list[str]:
    """Run all cells in a folder and return what each printed or raised, Markdown left out.

    Args:
        notebook: what to run; its outputs are in it afterwards.
        folder: the working directory.
        environment: the kernel's whole environment.
        go_on: whether to run the cells behind one that failed.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    client = NotebookClient(
        notebook,
        resources={"metadata": {"path": str(folder)}},
        timeout=280,
        allow_errors=go_on,
    )
    client.execute(env=dict(environment))
    return [printed(cell) for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: nbformat.NotebookNode) -> str:
    """Return what an executed cell shows."""
    outputs = cell.get("outputs", [])
    return "".join(output.get("text", "") or output.get("evalue", "") for output in outputs)


def pictures(notebook: nbformat.NotebookNode) -> int:
    """Return how many pictures an executed notebook shows."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


class Papermill:
    """papermill, running a notebook in a process of its own as Kaggle runs it.

    Args:
        name: the notebook.
        folder: the working directory, where the executed notebook appears.
        environment: the process's whole environment.
        parameters: filled into the notebook.
    """

    def __init__(
        self, name: str, folder: Path, environment: Mapping[str, str], **parameters: Any
    ) -> None:
        self.output = folder / "__notebook__.ipynb"
        self._log = folder.parent / "log.txt"
        arguments = [str(NOTEBOOKS / name), str(self.output), "--log-output", "--no-progress-bar"]
        for key, value in parameters.items():
            arguments += ["-r", key, value]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "papermill", *arguments],
                cwd=folder,
                env=dict(environment),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait(self) -> int:
        """Return its exit code."""
        return self._process.wait(timeout=280)

    @property
    def log(self) -> str:
        """Everything it printed: what Kaggle shows as the log."""
        return self._log.read_text()

    @property
    def command_lines(self) -> list[str]:
        """Those of its processes that are alive, as anybody on the machine may read them."""
        lines = []
        for each in self._processes():
            with suppress(psutil.Error):
                lines.append(json.dumps(each.cmdline()))
        return lines

    def kill(self) -> None:
        """End the session as a platform does: every process of it at once, without a word."""
        for each in self._processes():
            with suppress(psutil.Error):
                each.send_signal(signal.SIGKILL)
        self._process.wait()

    def _processes(self) -> list[psutil.Process]:
        # What stands for a fork, too: it has the command line.
        found = [psutil.Process(self._process.pid)]
        for each in found:
            with suppress(psutil.Error):
                if (fork := forked(each.pid)) != each.pid:
                    found.append(psutil.Process(fork))
                found += each.children()
        return found
