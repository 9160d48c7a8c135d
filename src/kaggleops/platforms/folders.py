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


def write_private(path: Path, content: str) -> None:
    """Write a file that only this user can read, anew."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(content)
