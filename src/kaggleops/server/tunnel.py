"""The way to a server on Google Cloud that nobody reaches but through Identity-Aware Proxy.

Google's own client makes it, as the user who is signed in there: `gcloud compute start-iap-tunnel`.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kaggleops.errors import UsageError
from kaggleops.platforms.settings import local_setting
from kaggleops.server.local_server import LOOPBACK, LocalServer, free_port, local_server

SERVER_PORT = 5000
"""Where it listens on its machine."""


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


@contextmanager
def tunnel(machine: Machine, port: int | None = None) -> Iterator[LocalServer]:
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
    port = free_port(doing, wanted=port)
    command = [
        *(gcloud, "compute", "start-iap-tunnel", machine.name, str(SERVER_PORT)),
        f"--local-host-port={LOOPBACK}:{port}",
        *machine.options,
        "--quiet",  # it has nobody to ask
    ]
    start = f"gcloud compute instances start {machine.name} {' '.join(machine.options)}"
    hint = f"If it is off: {start}. To serve the bucket here: kaggleops ui --local"
    with local_server(command, doing, port=port, hint=hint) as server:
        yield server
