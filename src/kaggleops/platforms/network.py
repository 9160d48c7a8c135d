"""Whether this machine has a network: Kaggle's notebooks can be without one."""

import os
import socket
from urllib.parse import urlsplit

from kaggleops.platforms.machine import Platform

_TIMEOUT = 5.0  # seconds: a network that is switched off answers at once or never

_SWITCH = "Switch it on in the editor: Session options > Internet (pushed: enable_internet: true)."


def has_internet() -> bool:
    """Tell whether Cloud Storage answers, or the server that stands for it in a test."""
    address = os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com"
    parts = urlsplit(address if "://" in address else f"http://{address}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname, port), timeout=_TIMEOUT):
            return True
    except OSError:
        return False


def how_to_switch_on(platform: Platform) -> str:
    """Return what to do about a network that is not there."""
    return _SWITCH if platform.name == "kaggle" else "Check this machine's network, and try again."
