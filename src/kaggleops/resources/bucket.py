"""Objects of a bucket as a source.

On Cloud Storage every request names the object's generation, so all of a file is of one state,
whenever it comes: what was overwritten meanwhile is not mixed in but missing (404). An object that
was written anew with the same content is taken, whatever its generation.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kaggleops.bucket import Bucket, BucketNotFoundError, Entry, ObjectNotFoundError, open_bucket
from kaggleops.resources.files import CRC32C, File, checksum_of
from kaggleops.resources.origins import (
    ChangedError,
    GoneError,
    Origin,
    Progress,
    chosen,
    literal_starts,
)

_PATIENCE = 60.0  # seconds that a passing fault is retried


class _Part(io.FileIO):
    """A file that grows, and tells by how much, what was there included."""

    def __init__(self, path: Path, progress: Progress) -> None:
        super().__init__(path, "ab")
        self._progress = progress
        progress(self.tell())

    def write(self, content: Any) -> int:
        written = super().write(content)
        self._progress(written)
        return written


class BucketOrigin(Origin):
    """The objects below a folder of a bucket.

    Args:
        uri: the bucket, `gs://BUCKET/PREFIX`, `bucket+file:///FOLDER` or `file:///FOLDER`.
        folder: below that; "" for all of it.
    """

    def __init__(self, uri: str, folder: str = "") -> None:
        address = f"bucket+{uri}" if uri.startswith("file:") else uri
        self._bucket: Bucket = open_bucket(address, patience=_PATIENCE)
        self._folder = f"{folder}/" if folder else ""
        # The versions of a folder are those of this machine, so a lock does not name them.
        self._pinned = self.resumes = self.hands_out_many = self._bucket.lists_checksums

    def list(self, patterns: Sequence[str]) -> list[File]:
        """Ask once, class A, for every 1,000 objects that begin as one of the patterns does.

        A folder's files are read: nothing else tells their checksums.
        """
        doing = f"listing {self._bucket.object_uri(self._folder.rstrip('/'))}"
        found = (file for start in literal_starts(patterns) for file in self._files(start, doing))
        wanted = chosen(found, patterns, doing)
        return wanted if self._pinned else [self._read_through(file) for file in wanted]

    def read(self, file: File, into: Path, progress: Progress) -> None:
        """Ask once, class B, for what is missing of it."""
        if not self._pinned:
            try:
                self._bucket.fetch(self._folder + file.name, into)
            except ObjectNotFoundError as error:
                raise GoneError(error.doing, "it is gone at the source") from error
            progress(file.size)
            return
        with _Part(into, progress) as part:
            # The checksum is verified when all of it is there.
            try:
                self._bucket.read_span(self._entry(file), part, part.tell())
            except ObjectNotFoundError as error:
                same = self._same_now(file, error.doing)
                self._bucket.read_span(self._entry(same), part, part.tell())

    def read_many(self, files: Sequence[File], take: Callable[[File, bytes], None]) -> None:
        """Ask once, class B, for each."""
        listed = {self._entry(file): file for file in files}
        self._bucket.read_many(list(listed), lambda entry, content: take(listed[entry], content))

    def _entry(self, file: File) -> Entry:
        return Entry(self._folder + file.name, file.version, file.size)

    def _same_now(self, file: File, doing: str) -> File:
        """Return the file as it is at the source now, if that is the same content."""
        there = self._files(file.name, doing)
        found = next((each for each in there if each.name == file.name), None)
        if found is None:
            hint = "Ask the bucket's owner, or lock what is there now: `kaggleops data lock`."
            raise GoneError(doing, "it is gone at the source", hint)
        if not found.same_content(file):
            problem = "it has changed at the source since it was locked"
            hint = "`kaggleops data status` shows what changed; `kaggleops data lock` accepts it."
            raise ChangedError(doing, problem, hint)
        return found

    def _files(self, start: str, doing: str) -> Iterator[File]:
        try:
            for each in self._bucket.list(self._folder + start, checksums=self._pinned):
                file = File(each.key.removeprefix(self._folder), each.size)
                if self._pinned:
                    checksum = f"{CRC32C}:{each.crc32c}"
                    file = replace(file, version=each.version, checksum=checksum)
                yield file
        except BucketNotFoundError as error:
            raise GoneError(doing, error.problem, "Check the address in the manifest.") from error

    def _read_through(self, file: File) -> File:
        path = self._bucket.local_path(self._folder + file.name)
        assert path is not None  # noqa: S101 - a folder's is
        return replace(file, size=path.stat().st_size, checksum=checksum_of(path))
