"""One stock `mlflow server` process over a bucket, kept small."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from kaggleops.errors import KaggleOpsError, UsageError

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 5000
_SECONDS_TO_START = 120.0
_SECONDS_TO_END = 15.0


@dataclass(frozen=True)
class MlflowServer:
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
def mlflow_server(
    tracking_uri: str, artifact_root: str, *, host: str = LOOPBACK, port: int | None = None
) -> Iterator[MlflowServer]:
    """Run the stock server over a bucket, answering before the block begins, ended after it.

    Args:
        tracking_uri: the bucket's tracking URI.
        artifact_root: the URI under which the bucket's artifacts lie.
        host: the address to listen on.
        port: the port; 5000 by default, or a free one where that is taken.

    Raises:
        UsageError: the server is not installed, or the port is taken.
        KaggleOpsError: it did not start; with the last lines that it wrote.
    """
    if importlib.util.find_spec("flask") is None:  # mlflow-skinny has none
        hint = "Install it: pip install 'kaggleops[server]'."
        raise UsageError("starting the MLflow UI", "the MLflow server is not installed", hint)
    port = _free_port(host, port)
    command = _command(tracking_uri, artifact_root, host, port)
    with tempfile.TemporaryFile() as log, _process(command, log) as process:
        server = MlflowServer(host, port, process)
        _await(server, log)
        yield server


def _command(tracking_uri: str, artifact_root: str, host: str, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", tracking_uri),
        *("--default-artifact-root", artifact_root),
        # The UI reads artifacts through the runs' own locations; no proxy is needed for that.
        "--no-serve-artifacts",
        *("--host", host),
        *("--port", str(port)),
        *("--workers", "1"),
    ]


@contextmanager
def _process(command: list[str], log: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    environment = {
        **os.environ,
        # Two processes and 0.43 GB instead of ten and 0.98 (measured on MLflow 3.17, 1,000 runs).
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    process = subprocess.Popen(
        command,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
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


def _await(server: MlflowServer, log: IO[bytes]) -> None:
    doing = f"starting the MLflow server at {server.url}"
    deadline = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else "it wrote nothing"
            code = server.process.returncode
            raise KaggleOpsError(doing, f"it ended with code {code} ({reason})")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{server.url}/health"):  # noqa: S310
            return
        time.sleep(0.1)
    raise KaggleOpsError(doing, f"it did not answer within {_SECONDS_TO_START:.0f} s")


def _free_port(host: str, wanted: int | None) -> int:
    for port in (wanted,) if wanted is not None else (DEFAULT_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise UsageError(
        "starting the MLflow UI", f"port {wanted} of {host} cannot be had", "Choose another --port."
    )
