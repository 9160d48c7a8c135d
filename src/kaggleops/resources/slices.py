"""A large file in slices: several at once, and after a kill only those that had not come.

A slice is written to its place in the part, and then its number to a file beside it. Should the
machine itself have gone down between a write and the disk, the checksum of the whole tells.
"""

import threading
from collections.abc import Iterable
from concurrent.futures import Executor, Future, wait
from pathlib import Path
from typing import TypeVar

from kaggleops.resources.files import File
from kaggleops.resources.origins import Origin, Progress
from kaggleops.resources.staging import finished_slices

_T = TypeVar("_T")

SLICE = 16 << 20
"""Bytes of one request. On loopback with 30 ms a request, larger ones were no faster."""


def fetch_in_slices(
    origin: Origin, file: File, part: Path, pool: Executor, progress: Progress
) -> None:
    """Write a file's content to a path, going on with what is there.

    Args:
        origin: where it comes from.
        file: which; its size is known.
        part: where to.
        pool: what runs the requests.
        progress: is told of what was there, too.

    Raises:
        KaggleOpsError: as `Origin.read_slice` does.
    """
    journal = finished_slices(part)
    finished = _finished(journal) if part.exists() and part.stat().st_size == file.size else set()
    if not finished:
        journal.unlink(missing_ok=True)
        with part.open("wb") as content:
            content.truncate(file.size)
    writing = threading.Lock()

    def fetch(number: int) -> None:
        start = number * SLICE
        end = min(start + SLICE, file.size)
        if number not in finished:
            origin.read_slice(file, part, start, end)
            with writing, journal.open("a") as lines:
                lines.write(f"{number}\n")
        progress(end - start)

    count = -(-file.size // SLICE)
    all_of(pool.submit(fetch, number) for number in range(count))


def _finished(journal: Path) -> set[int]:
    try:
        # The last line may be cut off: without its end it may be another number.
        lines = journal.read_text().splitlines(keepends=True)
    except OSError:
        return set()
    return {int(line) for line in lines if line.endswith("\n")}


def all_of(futures: Iterable["Future[_T]"]) -> list[_T]:
    """Return what all came to; after the first failure, those that have not begun never do."""
    pending = list(futures)
    try:
        return [future.result() for future in pending]
    finally:
        for future in pending:
            future.cancel()
        wait(pending)
