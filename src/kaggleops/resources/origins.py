"""A place that files come from, whatever the kind: it lists them, and hands out their bytes."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from kaggleops.bucket.base import compile_glob
from kaggleops.errors import KaggleOpsError
from kaggleops.resources.files import File

Progress = Callable[[int], object]
"""Called with the number of bytes that have come since it was last called; from any thread."""


class GoneError(KaggleOpsError):
    """The source does not have the file any more."""


class ChangedError(KaggleOpsError):
    """The source has the file in another state than the lock says."""


class Origin(ABC):
    """One source. Safe to use from several threads; what cannot be read is a `KaggleOpsError`."""

    name = ""
    """What to write into the lock where the manifest's source does not say it all."""

    hands_out_many = False
    """Whether `read_many` is faster than `read` for each."""

    resumes = False
    """Whether `read` goes on behind what the path holds already."""

    def look(self, patterns: Sequence[str]) -> list[File]:
        """Return what `list` does, as far as it is there now: for somebody who waits."""
        return self.list(patterns)

    @abstractmethod
    def list(self, patterns: Sequence[str]) -> list[File]:
        """Return its files, or those that patterns mean."""

    def detail(self, file: File) -> File:
        """Return a listed file with what else the source says of it; GoneError if it is gone."""
        return file

    @abstractmethod
    def read(self, file: File, into: Path, progress: Progress) -> None:
        """Write a file's content to a path; OSError if it cannot be written.

        Raises GoneError if there is no such file any more, ChangedError if it is in another state.
        """

    def read_many(self, files: Sequence[File], take: Callable[[File, bytes], None]) -> None:
        """Hand out the contents of small files, in any order, as fast as they come.

        A file that does not come is left out: `read` may have more patience, or says what is wrong.
        `take` is called with each and its content by one thread; what it raises ends this.
        """
        raise NotImplementedError


def chosen(files: Iterable[File], patterns: Sequence[str], doing: str) -> list[File]:
    """Return the files that patterns mean, sorted; all of them where there are no patterns.

    Raises GoneError if a pattern means none, or there are no files at all.
    """
    files = sorted(files)
    if not patterns:
        if not files:
            hint = "Check `source`; a single file is named in `files`, below its folder."
            raise GoneError(doing, "there is nothing", hint)
        return files
    found: set[File] = set()
    for pattern in patterns:
        match = compile_glob(pattern, doing).fullmatch
        matching = {file for file in files if match(file.name)}
        if not matching:
            raise GoneError(doing, f"there is no {pattern}", "Check `files` in the manifest.")
        found |= matching
    return sorted(found)


def literal_starts(patterns: Sequence[str]) -> Iterator[str]:
    """Yield what the names that patterns mean begin with; none begins with another."""
    starts = sorted({re.split(r"[*?]", pattern, maxsplit=1)[0] for pattern in patterns or ("",)})
    last: str | None = None
    for start in starts:
        if last is None or not start.startswith(last):
            yield start
            last = start
