"""The machines that sessions run on: which there are, and how one is shaped like Kaggle's."""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.fakes import platforms
from tests.fakes.kaggle.session import Job

SHAPES = {"": "", "NvidiaTeslaT4": "gpu", "NvidiaL4": "gpu", "TpuV5E8": "tpu"}
"""Machine shapes, and the accelerator whose hours each uses."""

SUBSTITUTED = {
    "Gpu": "NvidiaTeslaT4",
    "NvidiaTeslaP100": "NvidiaTeslaT4",
    "NvidiaTeslaA100": "NvidiaTeslaT4",  # for chosen users only
    "Tpu1VmV38": "TpuV5E8",
}
"""What the service silently gives instead of a shape that is retired or not for everybody.

Read in Kaggle/kaggle-cli, tests/unit/test_kernels_push_retired_accelerator.py.
"""

LONGEST = {"": 12 * 3600.0, "gpu": 12 * 3600.0, "tpu": 9 * 3600.0}
"""Seconds that a session may last, by accelerator."""

_NOWHERE = "http://127.0.0.1:9"  # nothing listens there
_GPUS = {"NvidiaTeslaT4": ["Tesla T4"] * 2, "NvidiaL4": ["NVIDIA L4"] * 4}


def machine(
    root: Path,
    *,
    text: str,
    notebook: bool,
    shape: str,
    internet: bool,
    timeout: float | None,
    mounts: Iterable[tuple[str, Mapping[str, bytes]]],
    outside: Mapping[str, str],
    python: str = sys.executable,
) -> Job:
    """Make a machine, and return what it executes.

    Args:
        root: an empty folder to make it in.
        text: the notebook's JSON, or the script.
        notebook: which of the two.
        shape: one of `SHAPES`.
        internet: whether it may reach anything.
        timeout: seconds that it may run; the longest there is if None.
        mounts: folders below /kaggle/input, and the files in each.
        outside: environment variables that lead to other services.
        python: the interpreter that has Jupyter and what the notebook imports.
    """
    environment = platforms.kaggle(root, **(outside if internet else _without_internet(outside)))
    programs = root / "bin"
    programs.mkdir()
    found = [str(programs), str(Path(python).parent), environment["PATH"]]
    environment["PATH"] = os.pathsep.join(found)
    if shape in _GPUS:
        _add_gpus(programs, _GPUS[shape])
    if shape.startswith("Tpu"):
        environment["TPU_ACCELERATOR_TYPE"] = "v5e-8"
    for folder, files in mounts:
        _mount(root / "kaggle/input" / folder, files)
    longest = LONGEST[SHAPES[shape]]
    return Job(root, _command(root, text, notebook, python), environment, timeout or longest)


def _command(root: Path, text: str, notebook: bool, python: str) -> list[str]:
    source = root / "kaggle/src"
    source.mkdir()
    if not notebook:
        (source / "script.py").write_text(text)
        return [python, "-u", str(source / "script.py")]
    (source / "notebook.ipynb").write_text(text)
    executed = root / "kaggle/working/__notebook__.ipynb"
    streams = ["--stdout-file", "/dev/stdout", "--stderr-file", "/dev/stderr"]
    options = [*streams, "--no-progress-bar"]
    return [python, "-m", "papermill", str(source / "notebook.ipynb"), str(executed), *options]


def _mount(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o444)


def _add_gpus(programs: Path, names: Iterable[str]) -> None:
    lines = "\n".join(names)
    (programs / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
    (programs / "nvidia-smi").chmod(0o755)


def _without_internet(outside: Mapping[str, str]) -> dict[str, str]:
    """Return variables that lead nowhere, to those services nor to any other."""
    proxies = {f"{each}_proxy": _NOWHERE for each in ("http", "https", "all")}
    proxies |= {name.upper(): value for name, value in proxies.items()}
    services = {name: _NOWHERE if "://" in value else value for name, value in outside.items()}
    return {**services, **proxies, "NO_PROXY": "", "no_proxy": "", "GIT_ALLOW_PROTOCOL": "file"}
