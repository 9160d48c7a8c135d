"""The files that a notebook left, each checked before it is kept: its name, the answer, its size.

The real client keeps an error's page as the file, and writes wherever a file's name points to.
"""

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import requests

from kaggleops.backends.inside import inside
from kaggleops.backends.remote_run import Downloaded
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
    files: list[Path] = []
    problems: list[str] = []
    for name, url in listed:
        try:
            path = inside(directory, name)
            _fetch(name, url, sizes.get(name), path, session)
            files.append(path)
        except KaggleOpsError as error:
            problems.append(str(error))
    return Downloaded(files, problems)


def _fetch(name: str, url: str, size: int | None, path: Path, session: requests.Session) -> None:
    doing = f"downloading {name!r}"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".kaggleops-")
    try:
        with explained(doing), os.fdopen(handle, "wb") as file:
            with session.get(url, stream=True) as answer:
                answer.raise_for_status()
                for chunk in answer.iter_content(_CHUNK):
                    file.write(chunk)
            came = file.tell()
        if size is not None and came != size:
            raise KaggleOpsError(doing, f"{came} bytes came of {size}", "Try again.")
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
