"""A program that answers HTTP on a port of this machine for as long as a block lasts."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from kaggleops.errors import KaggleOpsError, UsageError

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 5000
_SECONDS_TO_START = 120.0
_SECONDS_TO_END = 15.0


@dataclass(frozen=True)
class LocalServer:
    """A running server."""

    host: str
    port: int
    process: "subprocess.Popen[bytes]"

    def wait(self) -> None:
        """Return when the server has ended.

        Raises:
            KaggleOpsError: it ended by itself.
        """
        code = self.process.wait()
        raise KaggleOpsError(f"serving {self.url}", f"the server ended with code {code}")

    @property
    def url(self) -> str:
        """The server's own address."""
        return f"http://{self.host}:{self.port}"


@contextmanager
def local_server(
    command: Sequence[str],
    doing: str,
    *,
    host: str = LOOPBACK,
    port: int,
    environment: Mapping[str, str] | None = None,
    hint: str = "",
) -> Iterator[LocalServer]:
    """Run a server, answering before the block begins, ended after it with all that it started.

    Args:
        command: its command line.
        doing: what its start is called in an error.
        host: where it listens.
        port: where it listens.
        environment: what is added to this process's.
        hint: what to do when it does not start.

    Raises:
        KaggleOpsError: it did not start; with the last lines that it wrote.
    """
    with tempfile.TemporaryFile() as log, _process(command, log, environment or {}) as process:
        server = LocalServer(host, port, process)
        _await(server, log, doing, hint)
        yield server


def free_port(doing: str, host: str = LOOPBACK, wanted: int | None = None) -> int:
    """Return a port that can be listened on: the one wanted; without one 5000, or any.

    Raises:
        UsageError: the port is taken.
    """
    for port in (wanted,) if wanted is not None else (DEFAULT_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise UsageError(doing, f"port {wanted} of {host} cannot be had", "Choose another --port.")


@contextmanager
def _process(
    command: Sequence[str], log: IO[bytes], environment: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
        start_new_session=True,  # ended by us, in our order, not by the terminal's Ctrl-C
    )
    try:
        yield process
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_END)
            return


def _await(server: LocalServer, log: IO[bytes], doing: str, hint: str) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            reason = next((line for line in lines if line.startswith("ERROR:")), None)
            reason = reason or (lines[-1] if lines else "it wrote nothing")
            code = server.process.returncode
            raise KaggleOpsError(doing, f"it ended with code {code} ({reason})", hint)
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{server.url}/health"):  # noqa: S310
            return
        time.sleep(0.1)
    raise KaggleOpsError(doing, f"it did not answer within {_SECONDS_TO_START:.0f} s", hint)
