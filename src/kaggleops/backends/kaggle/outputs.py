"""What a notebook leaves: its files, and its log.

Each file is checked before it is kept: its name, the answer, its size. The real client keeps an
error's page as the file, and writes wherever a file's name points to.

The log is a stream of lines, each once. The service drops a live log after some idle minutes and
replays it from its start; an entry may also come late, in the log that is kept when the session has
ended. So what counts is how often an entry came within one reading: the n-th time is new if no
reading before it had n of them.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import requests

from kaggleops.backends.downloads import Downloaded
from kaggleops.errors import KaggleOpsError
from kaggleops.platforms.kaggle.http import explained

Entry = Mapping[str, Any]
Entries = Iterable[Entry]


class Log:
    """What has been shown of one log."""

    def __init__(self) -> None:
        self._shown: Counter[tuple[str, str, str]] = Counter()

    def new(self, reading: Entries) -> Iterator[str]:
        """Yield the text of those entries of a reading, from its start, that no other had."""
        here: Counter[tuple[str, str, str]] = Counter()
        for entry in reading:
            text = str(entry.get("data") or "")
            key = (str(entry.get("stream_name")), str(entry.get("time")), text)
            here[key] += 1
            if here[key] > self._shown[key]:
                self._shown[key] += 1
                yield text.removesuffix("\n")


def parsed(kept: str) -> Entries:
    """Return the entries of a kept log: a JSON array, or else its plain lines."""
    entries = None
    with suppress(ValueError):
        entries = json.loads(kept)
    if not isinstance(entries, list):
        entries = kept.splitlines()
    return [each if isinstance(each, dict) else {"data": str(each)} for each in entries]


_CHUNK = 1 << 20


def keep(
    listed: Iterable[tuple[str, str]],
    sizes: Mapping[str, int],
    directory: Path,
    session: requests.Session,
) -> Downloaded:
    """Download files, by name and address, below a directory; `sizes` in bytes, where known."""
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
