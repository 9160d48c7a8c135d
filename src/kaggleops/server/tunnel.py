"""The way to a server on Google Cloud that nobody reaches but through Identity-Aware Proxy.

Google's own client makes it, as the user who is signed in there: `gcloud compute start-iap-tunnel`.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.settings import local_setting
from kaggleops.server.processes import LOOPBACK, listening_socket

SERVER_PORT = 5000
"""Where it listens on its machine."""

_SECONDS_TO_OPEN = 120.0
_SECONDS_TO_END = 15.0


@dataclass(frozen=True)
class Machine:
    """A machine of Compute Engine's."""

    project: str
    zone: str
    name: str

    @classmethod
    def named(cls, path: str) -> "Machine":
        """Return the machine of a resource's name, `projects/…/zones/…/instances/…`.

        Raises:
            UsageError: it is none.
        """
        # No part may begin like an option of gcloud's.
        part = r"([a-z0-9][a-z0-9.:-]*)"
        match = re.fullmatch(f"projects/{part}/zones/{part}/instances/{part}", path.strip())
        if match is None:
            raise UsageError(
                f"finding the server {path}",
                "that is no machine's name",
                "Write it as projects/PROJECT/zones/ZONE/instances/NAME.",
            )
        return cls(*match.groups())

    @classmethod
    def of_settings(cls, folder: Path) -> "Machine | None":
        """Return what `server:` in the folder's config/local.yaml names; None if it names none.

        Raises:
            UsageError: that is no machine.
        """
        path = local_setting(folder, "server")
        return cls.named(path) if path else None

    def __str__(self) -> str:
        return f"{self.name} in {self.zone} of {self.project}"

    @property
    def path(self) -> str:
        """The resource's name."""
        return f"projects/{self.project}/zones/{self.zone}/instances/{self.name}"

    @property
    def options(self) -> list[str]:
        """What tells gcloud where it is."""
        return [f"--zone={self.zone}", f"--project={self.project}"]


@dataclass(frozen=True)
class Tunnel:
    """An open one.

    Args:
        url: where the server answers on this machine.
        process: gcloud's.
    """

    url: str
    process: "subprocess.Popen[bytes]"

    def wait(self) -> NoReturn:
        """Wait until it ends by itself.

        Raises:
            KaggleOpsError: it has.
        """
        code = self.process.wait()
        raise KaggleOpsError(f"bringing the server to {self.url}", f"gcloud ended with code {code}")


@contextmanager
def tunnel(machine: Machine, port: int | None = None) -> Iterator[Tunnel]:
    """Bring a machine's server to a port of this one, answering before the block begins.

    Args:
        machine: where it is.
        port: this machine's port; 5000 by default, or a free one where that is taken.

    Raises:
        UsageError: gcloud is not installed, or the port is taken.
        KaggleOpsError: there is no way, with what gcloud says.
    """
    doing = f"opening a tunnel to {machine}"
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        hint = "Install Google Cloud's client: https://cloud.google.com/sdk/docs/install"
        raise UsageError(doing, "gcloud is not installed", hint)
    with listening_socket(LOOPBACK, port, to_anyone=False) as free:
        port = free.getsockname()[1]
    command = [
        *(gcloud, "compute", "start-iap-tunnel", machine.name, str(SERVER_PORT)),
        f"--local-host-port={LOOPBACK}:{port}",
        *machine.options,
        "--quiet",  # it has nobody to ask
    ]
    start = f"gcloud compute instances start {machine.name} {' '.join(machine.options)}"
    hint = f"If it is off: {start}. To serve the bucket here: kaggleops ui --local"
    with tempfile.TemporaryFile() as log, _process(command, log) as process:
        opened = Tunnel(f"http://{LOOPBACK}:{port}", process)
        _await(opened, log, doing, hint)
        yield opened


@contextmanager
def _process(command: Sequence[str], log: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # ended by us, not by the terminal's Ctrl-C
    )
    try:
        yield process
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, how)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_TO_END)
                break


def _await(opened: Tunnel, log: IO[bytes], doing: str, hint: str) -> None:
    deadline = time.monotonic() + _SECONDS_TO_OPEN
    while time.monotonic() < deadline:
        if opened.process.poll() is not None:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            reason = next((line for line in lines if line.startswith("ERROR:")), None)
            reason = reason or (lines[-1] if lines else "it wrote nothing")
            code = opened.process.returncode
            raise KaggleOpsError(doing, f"it ended with code {code} ({reason})", hint)
        with suppress(OSError), urllib.request.urlopen(f"{opened.url}/health"):  # noqa: S310
            return
        time.sleep(0.1)
    raise KaggleOpsError(doing, f"it did not answer within {_SECONDS_TO_OPEN:.0f} s", hint)
