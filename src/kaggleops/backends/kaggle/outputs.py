"""The files that a notebook left, each checked before it is kept: its name, the answer, its size.

The real client keeps an error's page as the file, and writes wherever a file's name points to.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import IO

import requests

from kaggleops.backends.downloads import Downloaded
from kaggleops.errors import KaggleOpsError
from kaggleops.platforms.kaggle.http import explained

_CHUNK = 1 << 20


def keep(
    listed: Iterable[tuple[str, str]],
    sizes: Mapping[str, int],
    directory: Path,
    session: requests.Session,
) -> Downloaded:
    """Download files.

    Args:
        listed: the name and the address of each.
        sizes: how many bytes each has, where that is known.
        directory: where to; nothing is written outside it.
        session: how.
    """
    brought = Downloaded()
    for name, url in listed:
        brought.keep(directory, name, partial(_write, name, url, sizes.get(name), session))
    return brought


def _write(
    name: str, url: str, size: int | None, session: requests.Session, file: IO[bytes]
) -> None:
    doing = f"downloading {name!r}"
    with explained(doing), session.get(url, stream=True) as answer:
        answer.raise_for_status()
        for chunk in answer.iter_content(_CHUNK):
            file.write(chunk)
    if size is not None and file.tell() != size:
        raise KaggleOpsError(doing, f"{file.tell()} bytes came of {size}", "Try again.")
