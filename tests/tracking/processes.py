"""A training process of its own: started, watched, ended in whatever way a test wants."""

import contextlib
import os
import select
import signal
import socket
import textwrap
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path

from tests.warm import ask

PREAMBLE = """
import os, select, sys, signal, threading
import mlflow
from kaggleops.tracking import session

# Tests may run in the background, where shells let Ctrl-C be ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def say(text):
    print(text, flush=True)

def wait():
    say("waiting")
    while True:
        select.select([], [], [], 1)  # `pause` does not end by a signal that comes just before
"""


@dataclass
class Ended:
    """How a process ended and what it wrote."""

    code: int
    output: str
    errors: str


class Training:
    """A Python process that logs to a bucket; what a failed test leaves of it is killed.

    Args:
        script: what it does, after the preamble.
        tracking_uri: where it logs.
        home: where its working copy lies.
    """

    def __init__(self, script: str, tracking_uri: str, home: Path, **environment: str) -> None:
        (stdin, to), (of, stdout), (errors_of, stderr) = (os.pipe() for _ in range(3))
        asked = {
            "arguments": ["-c", PREAMBLE + textwrap.dedent(script)],
            "environment": {
                **os.environ,
                "MLFLOW_TRACKING_URI": tracking_uri,
                "KAGGLEOPS_HOME": str(home),
                **environment,
            },
        }
        self._fork = ask(asked, [stdin, stdout, stderr])
        for file in (stdin, stdout, stderr):
            os.close(file)
        self._stdin = os.fdopen(to, "w")
        self._stdout, self._stderr = os.fdopen(of), os.fdopen(errors_of)
        self._pid = int(self._fork.recv(100))
        self._said: list[str] = []
        self._left = weakref.finalize(self, _kill, self._pid, self._fork)

    def line(self) -> str:
        """Return the next line it writes, waiting for it."""
        line = self._stdout.readline().rstrip("\n")
        self._said.append(line)
        return line

    def until(self, text: str) -> None:
        """Wait until it writes this line."""
        while (line := self.line()) != text:
            assert line or not _has_ended(self._fork), self.end().errors

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
        code = int(self._fork.recv(100))
        self._fork.close()
        self._left.detach()  # what it started may live on, in its process group
        return Ended(code, "\n".join([*self._said, output]), *errors)


def _has_ended(told: socket.socket) -> bool:
    # How it ended can be read, or has been, and then there is nothing more to come.
    ready = select.poll()  # not `select`: its numbers end at 1023
    ready.register(told, select.POLLIN)
    return bool(ready.poll(0))


def _kill(process: int, told: socket.socket) -> None:
    if not _has_ended(told):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)


def train(script: str, tracking_uri: str, home: Path, **environment: str) -> Ended:
    """Run a training process to its end."""
    return Training(script, tracking_uri, home, **environment).end()
