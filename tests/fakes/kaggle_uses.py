"""What a user of Kaggle has on disk: folders to push and to upload."""

import json
from pathlib import Path
from typing import Any

import nbformat


def kernel_folder(folder: Path, ref: str, source: str, **metadata: Any) -> str:
    """Write a folder for `kaggle kernels push`; a script, unless its kernel_type says otherwise."""
    notebook = metadata.get("kernel_type") == "notebook"
    code = "notebook.ipynb" if notebook else "script.py"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / code).write_text(source)
    described = {
        "id": ref,
        "title": ref.split("/")[1].replace("-", " ").capitalize(),
        "code_file": code,
        "language": "python",
        "kernel_type": "script",
        "enable_internet": False,
        **metadata,
    }
    (folder / "kernel-metadata.json").write_text(json.dumps(described))
    return str(folder)


def notebook_of(*cells: str, kernelspec: bool = True) -> str:
    """Return a notebook's text."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in cells])
    if kernelspec:
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    return str(nbformat.writes(notebook))


def dataset_folder(folder: Path, ref: str, **files: str) -> str:
    """Write a folder for `kaggle datasets create`; `_json` in a file's name stands for ".json"."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_json", ".json")).write_text(content)
    title = ref.split("/")[1].replace("-", " ").capitalize()
    described = {"id": ref, "title": title, "licenses": [{"name": "CC0-1.0"}]}
    (folder / "dataset-metadata.json").write_text(json.dumps(described))
    return str(folder)
