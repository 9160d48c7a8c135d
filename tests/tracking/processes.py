"""A training process of its own: started, watched, ended in whatever way a test wants."""

import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PREAMBLE = """
import os, sys, signal, threading
import mlflow
from kaggleops.tracking import session

# Tests may run in the background, where shells let Ctrl-C be ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def say(text):
    print(text, flush=True)

def wait():
    say("waiting")
    while True:
        signal.pause()
"""


@dataclass
class Ended:
    """How a process ended and what it wrote."""

    code: int
    output: str
    errors: str


@functools.cache
def _forking() -> socket.socket:
    """The socket of the process that trainings are forked from, one for all of these tests."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        subprocess.Popen(
            [sys.executable, "-m", "tests.tracking.forking", str(theirs.fileno())],
            cwd=Path(__file__).parents[2],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
    return ours


class Training:
    """A Python process that logs to a bucket; what a failed test leaves of it is killed.

    Args:
        script: what it does, after the preamble.
        tracking_uri: where it logs.
        home: where its working copy lies.
    """

    def __init__(self, script: str, tracking_uri: str, home: Path, **environment: str) -> None:
        asked = {
            "script": PREAMBLE + textwrap.dedent(script),
            "folder": str(Path.cwd()),
            "environment": {
                **os.environ,
                "MLFLOW_TRACKING_URI": tracking_uri,
                "KAGGLEOPS_HOME": str(home),
                **environment,
            },
        }
        (stdin, to), (of, stdout), (errors_of, stderr), (told, tells) = (
            os.pipe() for _ in range(4)
        )
        socket.send_fds(_forking(), [json.dumps(asked).encode()], [stdin, stdout, stderr, tells])
        for file in (stdin, stdout, stderr, tells):
            os.close(file)
        self._stdin, self._told = os.fdopen(to, "w"), os.fdopen(told)
        self._stdout, self._stderr = os.fdopen(of), os.fdopen(errors_of)
        self._pid = int(self._told.readline())
        self._said: list[str] = []
        self._left = weakref.finalize(self, _kill, self._pid, self._told)

    def line(self) -> str:
        """Return the next line it writes, waiting for it."""
        line = self._stdout.readline().rstrip("\n")
        self._said.append(line)
        return line

    def until(self, text: str) -> None:
        """Wait until it writes this line."""
        while (line := self.line()) != text:
            assert line or not _has_ended(self._told), self.end().errors

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        self._stdin.write(line + "\n")
        self._stdin.flush()

    def signal(self, which: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self._pid, which)

    def end(self) -> Ended:
        """Wait for its end."""
        self._stdin.close()
        errors: list[str] = []
        reading = threading.Thread(target=lambda: errors.append(self._stderr.read()))
        reading.start()
        output = self._stdout.read()
        reading.join()
        code = int(self._told.readline())
        self._left.detach()  # what it started may live on, in its process group
        return Ended(code, "\n".join([*self._said, output]), *errors)


def _has_ended(told: IO[str]) -> bool:
    # How it ended can be read, or has been, and then there is nothing more to come.
    return bool(select.select([told], [], [], 0)[0])


def _kill(process: int, told: IO[str]) -> None:
    if not _has_ended(told):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)


def train(script: str, tracking_uri: str, home: Path, **environment: str) -> Ended:
    """Run a training process to its end."""
    return Training(script, tracking_uri, home, **environment).end()
