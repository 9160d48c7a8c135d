"""Whether the server can be reached, is fresh, and is of the same version as this machine."""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import requests

from kaggleops.backends.interface import Finding
from kaggleops.errors import KaggleOpsError
from kaggleops.server.health import HEALTH_PATH
from kaggleops.server.tunnel import Machine, tunnel

_TIMEOUT = 30.0  # seconds


def examine_server(folder: Path) -> Iterator[Finding]:
    """Yield what is found about the server that the folder's settings name.

    Raises:
        KaggleOpsError: it cannot be reached; with the reason.
    """
    machine = Machine.of_settings(folder)
    if machine is None:
        hint = "`kaggleops ui` serves the bucket here; infra/terraform makes a server."
        yield Finding("server", "skipped", "none is named", hint)
        return
    health = _health(machine)
    said = f"{machine} answers, its index is {health['status']}"
    if health["status"] == "fresh":
        yield Finding("server", "ok", said)
    else:
        hint = f"Look at {HEALTH_PATH}: kaggleops ui."
        yield Finding("server", "warning", f"{said}: {health.get('trouble') or 'see there'}", hint)
    # Who has not given the server's password is not told its versions.
    if theirs := health.get("versions"):
        yield _compared(theirs)


def _health(machine: Machine) -> Mapping[str, Any]:
    doing = f"asking {machine} how it is"
    with tunnel(machine) as server:
        try:
            # 503 where all is not well, with the same content.
            found = requests.get(f"{server.url}{HEALTH_PATH}.json", timeout=_TIMEOUT).json()
        except (requests.RequestException, ValueError) as error:
            hint = "Is it `kaggleops serve` that listens there?"
            raise KaggleOpsError(doing, f"no health page ({type(error).__name__})", hint) from error
    if not isinstance(found, dict) or "status" not in found:
        raise KaggleOpsError(doing, "what answers has no health page")
    return found


def _compared(theirs: Mapping[str, str]) -> Finding:
    differing = [
        f"{name} {theirs[name]} there and {version(package)} here"
        for name, package in (("kaggleops", "kaggleops"), ("mlflow", "mlflow-skinny"))
        if theirs.get(name, version(package)) != version(package)
    ]
    if differing:
        said = f"both ends differ: {', '.join(differing)}"
        return Finding("server", "warning", said, "Update the older one (docs/server.md).")
    return Finding("server", "ok", f"both ends have kaggleops {theirs['kaggleops']}")
