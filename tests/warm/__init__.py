"""A Python process that has imported MLflow already, and is forked where a test starts one.

Importing MLflow takes a process four seconds of processor time, its server ten. What `stand_in`
adds to an environment makes each `python` that is started there such a fork: the interpreter finds
`python/sitecustomize.py`, hands its command line, folder, environment, umask and files over, and
then stands for the fork: it passes signals on and ends as that does. All tests begin so, the
processes that run them and the machines of the platforms' fakes too; one of how a process itself
begins has the fixture `cold_python`. A fork and all that it starts are in one process group.
"""

import atexit
import functools
import marshal
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from sysconfig import get_path
from typing import Any

import psutil

CHECKOUT = Path(__file__).parents[2]
VARIABLE = "KAGGLEOPS_TESTS_WARM"
KINDS = ("mlflow", "training")
PYTHON = str(Path(__file__).parent / "python")
"""What an environment's PYTHONPATH has to begin with."""


@functools.cache
def _place() -> str:
    """Return the folder of the sockets: one for all tests that run beside each other."""
    if given := os.environ.get(VARIABLE):  # this is a worker of those
        return given.split(os.pathsep)[0].rpartition("/")[0]
    place = tempfile.TemporaryDirectory(prefix="warm-")
    atexit.register(place.cleanup)
    for kind in KINDS:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listening.bind(f"{place.name}/{kind}")
        listening.listen(64)
        threading.Thread(target=_start, args=(kind, listening), daemon=True).start()
    return place.name


def _start(kind: str, listening: socket.socket) -> None:
    ours, theirs = os.pipe()  # it ends when this process has
    atexit.register(os.close, theirs)
    select.select([listening], [], [])  # most files' tests, run alone, need none
    subprocess.Popen(
        [sys.executable, "-m", "tests.warm.process", kind, f"{listening.fileno()}", f"{ours}"],
        cwd=CHECKOUT,
        env={
            **{
                name: os.environ[name]
                for name in os.environ.keys() - {VARIABLE, "PYTHONUNBUFFERED"}
            },
            # PyTorch reads them as it is imported, and not in a fork.
            "OMP_NUM_THREADS": "1",
            "TORCH_CPP_LOG_LEVEL": "FATAL",
        },
        pass_fds=[listening.fileno(), ours],
        stdin=subprocess.DEVNULL,
    )
    os.close(ours)
    listening.close()


def stand_in(kind: str = "mlflow") -> dict[str, str]:
    """Return what an environment has to hold for its Python processes to be forks.

    Args:
        kind: what they have imported: "mlflow", or "training", which is PyTorch and more, too.
    """
    seen = (get_path("purelib"), str(Path("/proc/self/ns/mnt").stat().st_ino), str(os.geteuid()))
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return {
        VARIABLE: os.pathsep.join((f"{_place()}/{kind}", *seen)),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([PYTHON, *filter(None, given)])),
    }


def begin() -> None:
    """Let all that the kinds import be imported now, beside each other: they will be asked."""
    for kind in KINDS:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(f"{_place()}/{kind}")


def passed_on(*paths: str) -> dict[str, str]:
    """Return the same for an environment that a test makes anew, if its own has it.

    Args:
        paths: the environment's PYTHONPATH.
    """
    if VARIABLE not in os.environ:
        return {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}
    return {VARIABLE: os.environ[VARIABLE], "PYTHONPATH": os.pathsep.join([PYTHON, *paths])}


def ask(asked: dict[str, Any], files: list[int]) -> socket.socket:
    """Fork the warm process; what can be read is the fork's id and, after its end, its exit code.

    Args:
        asked: its command line and environment.
        files: its standard input, output and errors.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(f"{_place()}/mlflow")
    umask = os.umask(0)
    os.umask(umask)
    asked = {
        "folder": str(Path.cwd()),
        "paths": [str(CHECKOUT), *sys.path],
        "files": [0, 1, 2],
        "umask": umask,
        "ignores": [],
        **asked,
    }
    socket.send_fds(connection, [marshal.dumps(asked)], files)
    return connection


def forked(process: int) -> int:
    """Return the id of the process that one with this id stands for: its own if it does not.

    It must not have been waited for: another may have its id by then.
    """
    with suppress(FileNotFoundError, ProcessLookupError):
        began = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
        for kind in KINDS:
            with suppress(FileNotFoundError, ValueError):  # or it is being written
                return int(Path(f"{_place()}/{kind}.{process}.{began}").read_text())
    return process


def children(process: int) -> list[psutil.Process]:
    """Return all that a process has started, the forks in place of what stands for them."""
    found = []
    for each in psutil.Process(forked(process)).children():
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            found += [psutil.Process(forked(each.pid)), *children(each.pid)]
    return found
