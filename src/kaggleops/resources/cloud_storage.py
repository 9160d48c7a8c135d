"""Objects of Cloud Storage as a source.

Every request names the object's generation, so all of a file's parts are of one state, whenever
they come: what was overwritten meanwhile is not mixed in but missing (404). An object that was
written anew with the same content is taken, whatever its generation.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from google.api_core import exceptions as answers

from kaggleops.bucket.gcs_client import connect, download
from kaggleops.bucket.gcs_faults import Patience, explain
from kaggleops.bucket.keys import is_key
from kaggleops.resources.files import CRC32C, File
from kaggleops.resources.origins import (
    ChangedError,
    GoneError,
    Origin,
    Progress,
    chosen,
    literal_starts,
)

_T = TypeVar("_T")

_PATIENCE = 60.0  # seconds that a passing fault is retried
_TIMEOUT = (10.0, 60.0)  # seconds until a connection, and between two bytes


class CloudStorageOrigin(Origin):
    """The objects below `gs://BUCKET/PREFIX`."""

    slices = True
    hands_out_many = True

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._bucket, _, prefix = uri.removeprefix("gs://").partition("/")
        self._root = f"{prefix}/" if prefix else ""
        self._patience = Patience(_PATIENCE)
        self._clients: dict[int, Any] = {}

    def list(self, patterns: Sequence[str]) -> list[File]:
        """Ask once, class A, for every 1,000 objects that begin as one of the patterns does."""
        doing = f"listing {self._uri}"
        starts = literal_starts(patterns)
        return chosen(
            (file for start in starts for file in self._files(start, doing)), patterns, doing
        )

    def read(self, file: File, into: Path, progress: Progress) -> None:
        """Ask once, class B."""
        with into.open("wb") as content:
            self._read(file, content, None, None)
        progress(file.size)

    def read_many(self, files: Sequence[File], take: Callable[[File, bytes], None]) -> None:
        """Ask once, class B, for each."""
        # A second, which few files are not worth.
        from kaggleops.resources.many_objects import read_objects

        names = {f"{self._bucket}/{self._root}{file.name}": file for file in files}
        objects = [(name, int(file.version)) for name, file in names.items()]
        read_objects(self._client(), objects, lambda name, content: take(names[name], content))

    def read_slice(self, file: File, into: Path, start: int, end: int) -> None:
        """Ask once, class B."""
        with into.open("r+b") as content:
            content.seek(start)
            self._read(file, content, start, end - 1)

    def _read(self, file: File, content: Any, first: int | None, last: int | None) -> None:
        doing = f"fetching gs://{self._bucket}/{self._root}{file.name}"
        begin = content.tell()

        def attempt(generation: int) -> None:
            content.seek(begin)
            if first is None:
                content.truncate()
            # The checksum is verified when all are there.
            download(
                *(self._client(), self._bucket, self._root + file.name, content),
                timeout=_TIMEOUT,
                generation=generation,
                span=None if first is None else (first, last),
            )

        try:
            self._do(self._patience(lambda: attempt(int(file.version))), doing)
        except answers.NotFound:
            same = self._same_now(file, doing)
            self._do(self._patience(lambda: attempt(int(same.version))), doing)

    def _same_now(self, file: File, doing: str) -> File:
        """Return the file as it is at the source now, if that is the same content."""
        there = self._files(file.name, doing)
        found = next((each for each in there if each.name == file.name), None)
        if found is None:
            hint = "Whoever keeps the bucket may know where it is; or `kaggleops data lock`."
            raise GoneError(doing, "it is gone at the source", hint)
        if not found.same_content(file):
            problem = "it has changed at the source since it was locked"
            hint = "`kaggleops data status` compares; `kaggleops data lock` takes what is there."
            raise ChangedError(doing, problem, hint)
        return found

    def _files(self, start: str, doing: str) -> Iterator[File]:
        pages = self._do(
            lambda: self._client().list_blobs(
                self._bucket,
                prefix=self._root + start or None,
                fields="kind,items(name,generation,size,crc32c),nextPageToken",
                page_size=1000,
                timeout=_TIMEOUT,
                retry=self._patience,
            ),
            doing,
        )
        blobs = iter(pages)
        try:
            while (blob := self._do(lambda: next(blobs, None), doing)) is not None:
                name = blob.name.removeprefix(self._root)
                if is_key(name):  # a console's "folder/" is none
                    checksum = f"{CRC32C}:{blob.crc32c}"
                    yield File(name, blob.size or 0, str(blob.generation), checksum)
        except answers.NotFound as error:
            problem = f"the bucket {self._bucket} does not exist"
            raise GoneError(doing, problem, "Check the address in the manifest.") from error

    def _client(self) -> Any:
        # A client is not to be used on both sides of a fork.
        client = self._clients.get(os.getpid())
        return client or self._clients.setdefault(os.getpid(), connect())

    def _do(self, call: Callable[[], _T], doing: str) -> _T:
        try:
            return call()
        except answers.NotFound:
            raise
        except Exception as error:
            explained = explain(error, doing, self._bucket)
            if explained is error:
                raise
            raise explained from error
