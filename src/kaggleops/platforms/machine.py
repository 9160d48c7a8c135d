"""What this machine has: GPUs, memory, a network, and a user."""

import getpass
import os
import resource
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit


def user_name() -> str:
    """Return whose this process is; the user's number where the system has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return str(os.getuid())


def process_began() -> float:
    """Return when this process began, in seconds since the epoch; now, where nobody tells."""
    try:
        # The name before may hold anything: its last bracket ends it (man 5 proc).
        ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        up = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - (up - int(ticks) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return time.time()


def accelerator(environ: Mapping[str, str]) -> str:
    """Return the GPUs or TPU as their makers name them, "" for none."""
    if gpus := _shown("name", environ.get("PATH", "")):
        counted = Counter(gpus)
        return ", ".join(name if n == 1 else f"{n}x {name}" for name, n in counted.items())
    tpu = environ.get("TPU_ACCELERATOR_TYPE")
    return f"TPU {tpu}" if tpu else ""


@cache
def _shown(columns: str, path: str) -> tuple[str, ...]:
    """Return a line for each GPU that the driver shows, asked once in a process."""
    program = shutil.which("nvidia-smi", path=path)
    if program is None:
        return ()
    query = [program, f"--query-gpu={columns}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()  # the program is there and the GPU is not, as in some CPU images
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


@dataclass(frozen=True)
class Gpu:
    """One GPU that processes of this machine may use."""

    id: str  # what CUDA_VISIBLE_DEVICES calls it
    name: str
    memory_gb: float | None = None


def visible_gpus(environ: Mapping[str, str]) -> list[Gpu]:
    """Return the GPUs that a process with this environment sees, in its own order."""
    known = []
    for line in _shown("index,name,memory.total", environ.get("PATH", "")):
        number, name, size = (*map(str.strip, line.split(",")), "", "")[:3]
        known.append(Gpu(number, name, int(size) / 1024 if size.isdecimal() else None))
    if (named := environ.get("CUDA_VISIBLE_DEVICES")) is None:
        return known
    names = {each.id: each for each in known}
    ids = [each.strip() for each in named.split(",") if each.strip() not in ("", "-1")]
    # One may be called by its UUID.
    return [replace(names.get(each, known[0]), id=each) for each in ids] if known else []


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


def reaches(url: str) -> bool:
    """Tell whether this machine reaches a service."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname, port), timeout=_TIMEOUT):
            return True
    except OSError:
        return False
