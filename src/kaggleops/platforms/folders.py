"""Where this machine keeps what is ours."""

import os
from pathlib import Path


def state_folder() -> Path:
    """Return the folder for what must outlive a process but not the machine.

    `KAGGLEOPS_HOME` if set, else the XDG state folder (`~/.local/state/kaggleops`). No cache: it
    may hold what a bucket that cannot be reached has not received yet.
    """
    if home := os.environ.get("KAGGLEOPS_HOME"):
        return Path(home).expanduser().absolute()
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "kaggleops"
