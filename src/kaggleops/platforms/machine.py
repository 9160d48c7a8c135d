"""Which platform this process runs on, and what the machine has.

A platform is told by what it sets in every process it starts, never by what could be reached over
the network. Kaggle's image is built on Colab's, so Kaggle's signs count before Colab's.

How much memory this process may take.

Whether this machine has a network: Kaggle's notebooks can be without one.
"""

import functools
import getpass
import os
import platform
import resource
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

Name = Literal["kaggle", "colab", "runpod", "kaggle-image", "local"]

ROOT = "KAGGLEOPS_ROOT"
"""The environment variable for the folder under which `/kaggle`, `/content` and `/workspace` lie:
`/` unless a platform is simulated."""


def user_name() -> str:
    """Return whose this process is; the user's number where the system has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return str(os.getuid())


@dataclass(frozen=True)
class Platform:
    """Where a process runs.

    Args:
        name: the platform; `kaggle-image` is Kaggle's container on somebody's own machine, `local`
            whatever else.
        accelerator: its GPUs or TPU as their makers name them (`2x Tesla T4`, `TPU v5e-8`),
            "" for none.
        python: the interpreter's version, `3.12.11`.
        folder: where what is written is kept longest: the platform's output folder, or the working
            directory.
        inputs: where the platform mounts datasets, if it does.
        session_hours: how long a session may last, None where nothing is known to end it.
    """

    name: Name
    accelerator: str
    python: str
    folder: Path
    inputs: Path | None
    session_hours: float | None

    @property
    def title(self) -> str:
        """Its name for people."""
        return _TITLES[self.name]

    @property
    def free_disk(self) -> float:
        """What can still be written to `folder`, in GB."""
        there = next(each for each in (self.folder, *self.folder.parents) if each.exists())
        return shutil.disk_usage(there).free / 1e9

    def describe(self) -> str:
        """Return one line of what the machine is."""
        limit = f"{self.session_hours:g} h" if self.session_hours else "no limit known"
        return (
            f"{self.title} · {self.accelerator or f'no GPU, {os.cpu_count()} CPU cores'} · "
            f"Python {self.python} · {self.free_disk:.0f} GB free · session {limit}"
        )


_TITLES: dict[Name, str] = {
    "kaggle": "Kaggle",
    "colab": "Colab",
    "runpod": "RunPod",
    "kaggle-image": "Kaggle's image",
    "local": "this machine",
}


def detect(environ: Mapping[str, str] | None = None) -> Platform:
    """Return the platform that this process runs on.

    Args:
        environ: the environment to tell it by; this process's own by default.
    """
    environ = os.environ if environ is None else environ
    root = Path(environ.get(ROOT, "/"))
    name = _name(environ, root)
    accelerator = _accelerator(environ)
    kaggle = name in ("kaggle", "kaggle-image")
    folders = {"colab": root / "content", "runpod": root / "workspace"}
    return Platform(
        name=name,
        accelerator=accelerator,
        python=platform.python_version(),
        folder=root / "kaggle/working" if kaggle else folders.get(name) or _here(),
        inputs=root / "kaggle/input" if kaggle else None,
        session_hours=_session_hours(name, accelerator),
    )


def _name(environ: Mapping[str, str], root: Path) -> Name:
    if environ.get("KAGGLE_KERNEL_RUN_TYPE"):
        return "kaggle"
    if environ.get("RUNPOD_POD_ID"):
        return "runpod"
    if (root / "kaggle/working").is_dir():
        return "kaggle-image"
    if environ.get("COLAB_RELEASE_TAG") or environ.get("COLAB_JUPYTER_IP"):
        return "colab"
    return "local"


def _here() -> Path:
    try:
        return Path.cwd()
    except OSError:  # somebody deleted it; a training goes on without
        return Path.home()


def _session_hours(name: Name, accelerator: str) -> float | None:
    # What users report of 2026: Kaggle 12 h, 9 h with a TPU; Colab's free tier up to 12 h.
    if name == "kaggle":
        return 9 if accelerator.startswith("TPU") else 12
    return 12 if name == "colab" else None


def _accelerator(environ: Mapping[str, str]) -> str:
    if gpus := _gpus(environ.get("PATH", "")):
        counted = Counter(gpus)
        return ", ".join(name if n == 1 else f"{n}x {name}" for name, n in counted.items())
    tpu = environ.get("TPU_ACCELERATOR_TYPE")
    return f"TPU {tpu}" if tpu else ""


@functools.cache
def _gpus(path: str) -> tuple[str, ...]:
    """Return the names of the GPUs that the driver shows, asked once in a process."""
    program = shutil.which("nvidia-smi", path=path)
    if program is None:
        return ()
    query = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()  # the program is there and the GPU is not, as in some CPU images
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


_OF_CONTAINER = Path("/sys/fs/cgroup/memory.max")


@cache
def memory() -> int:
    """Return the bytes of memory that this machine, its container and its limits leave a process.

    What others take of them is not counted.
    """
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        sizes.append(limit)
    with suppress(OSError, ValueError):  # none, or "max"
        sizes.append(int(_OF_CONTAINER.read_text()))
    return min(sizes)


_TIMEOUT = 5.0  # seconds: a network that is switched off answers at once or never

_SWITCH = "Switch it on in the editor: Session options > Internet (pushed: enable_internet: true)."


def has_internet() -> bool:
    """Tell whether Cloud Storage answers, or the server that stands for it in a test."""
    address = os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com"
    parts = urlsplit(address if "://" in address else f"http://{address}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname, port), timeout=_TIMEOUT):
            return True
    except OSError:
        return False


def how_to_switch_on(platform: Platform) -> str:
    """Return what to do about a network that is not there."""
    return _SWITCH if platform.name == "kaggle" else "Check this machine's network, and try again."
