"""Where this machine keeps what is ours, for this user alone, whatever the umask."""

import os
import secrets
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


def provide_home() -> None:
    """Give a user without a home one among the temporary files: MLflow is not imported without."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(private_folder(state_folder()))


def private_folder(folder: Path) -> Path:
    """Make a folder that only this user can enter, below the state folder its parents too.

    Those that are there already become so. The folder that `KAGGLEOPS_HOME` names, and any other
    outside of ours, stays as its owner has it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ours = state_folder()
    kept = ours if os.environ.get("KAGGLEOPS_HOME") else ours.parent
    for each in (folder, *folder.parents):
        if (each != folder and not each.is_relative_to(ours)) or each == kept:
            break
        _close(each, 0o700)
    return folder


def private_file(path: Path) -> Path:
    """Make a file that only this user can read and write; one that is there becomes so."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    _close(path, 0o600)
    return path


def private_database(file: Path) -> None:
    """Make the file of a database in SQLite, and those beside it, readable by this user alone."""
    if file.is_relative_to(state_folder()):
        private_folder(file.parent)
    file.parent.mkdir(parents=True, exist_ok=True)
    private_file(file)  # SQLite gives those beside it the same rights
    for beside in ("-wal", "-shm", "-journal"):
        _close(Path(f"{file}{beside}"), 0o600)


def _close(path: Path, mode: int) -> None:
    with suppress(OSError):  # it is another user's, who has let us in
        if path.stat().st_mode & 0o777 & ~mode:
            path.chmod(mode)


def write_private(path: Path, content: str) -> None:
    """Write a file that only this user can read, anew: who reads it meanwhile finds a whole one."""
    private_folder(path.parent)
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
