"""A training process of its own: started, watched, ended in whatever way a test wants."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import weakref
from dataclasses import dataclass
from pathlib import Path

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


class Training:
    """A Python process that logs to a bucket; what a failed test leaves of it is killed.

    Args:
        script: what it does, after the preamble.
        tracking_uri: where it logs.
        home: where its working copy lies.
    """

    def __init__(self, script: str, tracking_uri: str, home: Path, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + textwrap.dedent(script)],
            start_new_session=True,
            env={
                **os.environ,
                "MLFLOW_TRACKING_URI": tracking_uri,
                "KAGGLEOPS_HOME": str(home),
                **environment,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._said: list[str] = []
        weakref.finalize(self, _kill, self._process)

    def line(self) -> str:
        """Return the next line it writes, waiting for it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().rstrip("\n")
        self._said.append(line)
        return line

    def until(self, text: str) -> None:
        """Wait until it writes this line."""
        while (line := self.line()) != text:
            assert line or self._process.poll() is None, self.end().errors

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def signal(self, which: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(which)

    def end(self) -> Ended:
        """Wait for its end."""
        output, errors = self._process.communicate(timeout=120)
        return Ended(self._process.returncode, "\n".join([*self._said, output]), errors)


def _kill(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def train(script: str, tracking_uri: str, home: Path, **environment: str) -> Ended:
    """Run a training process to its end."""
    return Training(script, tracking_uri, home, **environment).end()
