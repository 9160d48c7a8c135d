"""Where this machine keeps what is ours."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def state_folder() -> Path:
    """Return the folder for what must outlive a process but not the machine.

    `KAGGLEOPS_HOME` if set, else the XDG state folder (`~/.local/state/kaggleops`); where this user
    has no home or cannot write there (`docker run --user 4321`), one among the temporary files.
    No cache: it may hold what a bucket that cannot be reached has not received yet.
    """
    if home := os.environ.get("KAGGLEOPS_HOME"):
        return Path(home).expanduser().absolute()
    with suppress(RuntimeError):  # neither HOME nor an entry in the list of users
        state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
        there = next((each for each in (state, *state.parents) if each.exists()), state)
        if os.access(there, os.W_OK):
            return state / "kaggleops"
    return Path(tempfile.gettempdir()) / f"kaggleops-{os.getuid()}"


def write_private(path: Path, content: str) -> None:
    """Write a file that only this user can read, anew."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(content)
