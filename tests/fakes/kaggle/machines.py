"""The machines that sessions run on: which there are, and how one is shaped like Kaggle's."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import mkdtemp

from tests.fakes import platforms
from tests.fakes.kaggle.behaviour import Behaviour
from tests.fakes.kaggle.session import Job
from tests.fakes.kaggle.sources import Sources
from tests.fakes.kaggle.store import Kernel, User, Version

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


class Machines:
    """Makes the machines of sessions.

    Args:
        scratch: the folder to make them in.
        python: the interpreter that has Jupyter and what notebooks import.
        outside: environment variables that lead to other services, for sessions with internet.
        sources: what can be attached.
        behaviour: how it is to be attached.
    """

    def __init__(
        self,
        scratch: Path,
        python: str,
        outside: Mapping[str, str],
        sources: Sources,
        behaviour: Behaviour,
    ) -> None:
        self._scratch = scratch
        self._python = python
        self._outside = dict(outside)
        self._sources = sources
        self._behaviour = behaviour

    def make(
        self,
        user: User,
        kernel: Kernel,
        version: Version,
        timeout: float | None,
        *,
        hidden: bool = False,
    ) -> Job:
        """Make one, and return what it executes, for `timeout` seconds or as long as it may.

        `hidden`: with the files of competitions that only their own runs see.
        """
        self._scratch.mkdir(parents=True, exist_ok=True)
        # Not by the notebook's name alone: it may be deleted and pushed again.
        root = Path(mkdtemp(prefix=f"{kernel.slug}-{version.number}-", dir=self._scratch))
        outside = self._outside if version.internet else _without_internet(self._outside)
        environment = platforms.kaggle(root, **outside)
        programs = root / "bin"
        programs.mkdir()
        found = [str(programs), str(Path(self._python).parent), environment["PATH"]]
        environment["PATH"] = os.pathsep.join(found)
        if version.shape in _GPUS:
            add_gpus(programs, _GPUS[version.shape])
        if SHAPES[version.shape] == "tpu":
            environment["TPU_ACCELERATOR_TYPE"] = "v5e-8"
        old = self._behaviour.old_mounts
        mounts = self._sources.mounts(user, version.sources, old=old, hidden=hidden)
        for folder, files in mounts:
            _mount(root / "kaggle/input" / folder, files)
        command = [self._python, *_arguments(root, version)]
        return Job(root, command, environment, timeout or LONGEST[SHAPES[version.shape]])


def _arguments(root: Path, version: Version) -> list[str]:
    source = root / "kaggle/src"
    source.mkdir()
    if version.kernel_type == "script":
        script = source / "script.py"
        script.write_text(version.text)
        return ["-u", str(script)]
    notebook = source / "notebook.ipynb"
    notebook.write_text(version.text)
    executed = root / "kaggle/working/__notebook__.ipynb"
    streams = ["--stdout-file", "/dev/stdout", "--stderr-file", "/dev/stderr"]
    return ["-m", "papermill", str(notebook), str(executed), *streams, "--no-progress-bar"]


def _mount(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o444)


def add_gpus(programs: Path, names: Iterable[str]) -> None:
    """Put the driver's program, which shows them, among a machine's programs."""
    lines = "\n".join(names)
    (programs / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
    (programs / "nvidia-smi").chmod(0o755)


def _without_internet(outside: Mapping[str, str]) -> dict[str, str]:
    """Return variables that lead nowhere, to those services nor to any other."""
    proxies = {f"{each}_proxy": _NOWHERE for each in ("http", "https", "all")}
    proxies |= {name.upper(): value for name, value in proxies.items()}
    services = {name: _NOWHERE if "://" in value else value for name, value in outside.items()}
    return {**services, **proxies, "NO_PROXY": "", "no_proxy": "", "GIT_ALLOW_PROTOCOL": "file"}
