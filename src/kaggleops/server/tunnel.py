"""The way to a server on Google Cloud that can only be reached through Identity-Aware Proxy.

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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, NoReturn

from kaggleops.backends.interface import Finding
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.settings import local_setting
from kaggleops.server.address import LOOPBACK, listening_socket
from kaggleops.server.settings import HEALTH_PATH

_SERVER_PORT = 5000  # on its machine

_SECONDS_TO_OPEN = 120.0
_SECONDS_TO_END = 15.0


@dataclass(frozen=True)
class Machine:
    """A machine on Compute Engine."""

    project: str
    zone: str
    name: str

    @classmethod
    def named(cls, path: str) -> "Machine":
        """Return the machine with a resource name; UsageError if it is not one."""
        # No part may begin like an option of gcloud's.
        part = r"([a-z0-9][a-z0-9.:-]*)"
        match = re.fullmatch(f"projects/{part}/zones/{part}/instances/{part}", path.strip())
        if match is None:
            hint = "Write it as projects/PROJECT/zones/ZONE/instances/NAME."
            raise UsageError(f"finding the server {path}", "not the name of a machine", hint)
        return cls(*match.groups())

    @classmethod
    def of_settings(cls, folder: Path) -> "Machine | None":
        """Return the machine that `server:` in the folder's config/local.yaml names, if any.

        Raises UsageError if that names none.
        """
        path = local_setting(folder, "server")
        return cls.named(path) if path else None

    def __str__(self) -> str:
        return f"{self.name} in {self.zone} of {self.project}"

    @property
    def path(self) -> str:
        """Its resource name."""
        return f"projects/{self.project}/zones/{self.zone}/instances/{self.name}"

    @property
    def options(self) -> list[str]:
        """Its place, as options of gcloud."""
        return [f"--zone={self.zone}", f"--project={self.project}"]


@dataclass(frozen=True)
class Tunnel:
    """An open tunnel: the URL of the server on this machine, and gcloud's process."""

    url: str
    process: "subprocess.Popen[bytes]"

    def wait(self) -> NoReturn:
        """Wait until gcloud ends, which is an error (KaggleOpsError)."""
        code = self.process.wait()
        raise KaggleOpsError(f"bringing the server to {self.url}", f"gcloud ended with code {code}")


@contextmanager
def tunnel(machine: Machine, port: int | None = None) -> Iterator[Tunnel]:
    """Make a machine's server answer at a port of this machine while the block runs.

    Args:
        machine: the server's machine.
        port: the port here; 0 for any free one; by default 5000, or a free one if that is taken.

    Raises:
        UsageError: gcloud is not installed, or the port is taken.
        KaggleOpsError: the tunnel does not open, with what gcloud says.
    """
    doing = f"opening a tunnel to {machine}"
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        hint = "Install Google Cloud's client: https://cloud.google.com/sdk/docs/install"
        raise UsageError(doing, "gcloud is not installed", hint)
    with listening_socket(LOOPBACK, port, to_anyone=False) as free:
        port = free.getsockname()[1]
    command = [
        *(gcloud, "compute", "start-iap-tunnel", machine.name, str(_SERVER_PORT)),
        f"--local-host-port={LOOPBACK}:{port}",
        *machine.options,
        "--quiet",  # nobody is there to answer
    ]
    start = f"gcloud compute instances start {machine.name} {' '.join(machine.options)}"
    hint = f"If it is off: {start}. To serve the bucket here: kaggleops ui --local"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # ended by us, not by the terminal's Ctrl-C
        )
        try:
            opened = Tunnel(f"http://{LOOPBACK}:{port}", process)
            _await(opened, log, doing, hint)
            yield opened
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


# -- the check of `kaggleops doctor` ------------------------------------------------------------


def examine_server(folder: Path) -> Iterator[Finding]:
    """Check the server that the folder's settings name; KaggleOpsError if it cannot be reached."""
    import requests

    machine = Machine.of_settings(folder)
    if machine is None:
        hint = "`kaggleops ui` serves the bucket here; infra/terraform makes a server."
        yield Finding("server", "skipped", "none is named", hint)
        return
    doing = f"checking {machine}"
    with tunnel(machine, 0) as server:  # 5000 is for who looks at the UI
        try:
            # 503 where all is not well, with the same content.
            health = requests.get(f"{server.url}{HEALTH_PATH}.json", timeout=30).json()
        except (requests.RequestException, ValueError) as error:
            hint = "Does `kaggleops serve` listen there?"
            raise KaggleOpsError(doing, f"no health page ({type(error).__name__})", hint) from error
    if not isinstance(health, dict) or "status" not in health:
        raise KaggleOpsError(doing, "the server there has no health page")
    said = f"{machine} answers, its index is {health['status']}"
    if health["status"] == "fresh":
        yield Finding("server", "ok", said)
    else:
        hint = f"Look at {HEALTH_PATH}: kaggleops ui."
        yield Finding("server", "warning", f"{said}: {health.get('trouble') or 'see there'}", hint)
    # A server that asks for a password tells its versions only with it.
    theirs = health.get("versions") or {}
    ours = {"kaggleops": version("kaggleops"), "mlflow": version("mlflow-skinny")}
    if differing := [
        f"{name} {theirs[name]} there and {each} here"
        for name, each in ours.items()
        if theirs.get(name, each) != each
    ]:
        said = f"the versions differ: {', '.join(differing)}"
        yield Finding("server", "warning", said, "Update the older one (docs/server.md).")
    elif theirs:
        yield Finding("server", "ok", f"both ends have kaggleops {theirs['kaggleops']}")
