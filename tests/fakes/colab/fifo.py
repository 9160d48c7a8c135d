"""A named pipe for one to wait at, and another to let go."""

import os
from contextlib import suppress
from pathlib import Path


def make_fifo(path: Path) -> None:
    """Make one, if nobody was faster."""
    path.parent.mkdir(exist_ok=True)
    with suppress(FileExistsError):
        os.mkfifo(path)
