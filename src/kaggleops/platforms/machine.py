"""What this machine has: GPUs, memory, a network, and a user."""

import getpass
import os
import resource
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit


def user_name() -> str:
    """Return whose this process is; the user's number where the system has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return str(os.getuid())


def accelerator(environ: Mapping[str, str]) -> str:
    """Return the GPUs or TPU as their makers name them, "" for none."""
    if gpus := _gpus(environ.get("PATH", "")):
        counted = Counter(gpus)
        return ", ".join(name if n == 1 else f"{n}x {name}" for name, n in counted.items())
    tpu = environ.get("TPU_ACCELERATOR_TYPE")
    return f"TPU {tpu}" if tpu else ""


@cache
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
