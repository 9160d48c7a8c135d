"""What the buckets of remote services do alike: read and fetch, whatever happens on the way.

A kind says how it downloads; here is what comes of it: a content that comes in as many
requests as it takes, and is handed out once it has the checksum that it must have.
"""

import io
import math
import os
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from kaggleops.bucket.base import (
    ABSENT,
    AT_MOST,
    Bucket,
    BucketUnavailableError,
    Entry,
    ObjectNotFoundError,
    ObjectTooLargeError,
    StoredObject,
    Version,
    check_key,
    made,
)
from kaggleops.bucket.checksums import checksum_of, is_of_parts, kind_of
from kaggleops.bucket.patience import InterruptedTransferError, Patience

_T = TypeVar("_T")


class AbsentError(Exception):
    """There is no such object, or it is not at the version that was asked for."""


class UnchangedError(Exception):
    """The object is at the version that is known."""


@dataclass(frozen=True)
class Head:
    """What a service tells of an object whose content it sends."""

    version: Version
    size: int
    """Of the whole object, in bytes; -1 where that is not told."""
    checksums: frozenset[str] | None
    """Of which the whole content has one; None where nothing tells, and any content will do."""


class Download(NamedTuple):
    """A content that is asked for."""

    key: str
    doing: str  # what is being done, for the error
    version: Version | None = None  # which; None for what is there now
    unless: Version | None = None  # the version that is not to be sent
    start: int = 0
    end: int | None = None  # the byte after the last; None for all that follow
    begun: Callable[[Head], object] | None = None
    """Called before anything is written, for the whole object's sake."""

    @property
    def range(self) -> str:
        """The header that asks for a part; "" for the whole."""
        last = "" if self.end is None else self.end - 1
        return f"bytes={self.start}-{last}" if self.start or self.end is not None else ""


class RemoteBucket(Bucket):
    """The objects of the bucket `name` whose names start with `prefix` and a slash ("" for all).

    For `patience` seconds, faults of which `is_passing` is true are retried.
    """

    def __init__(
        self, name: str, prefix: str, patience: float, is_passing: Callable[[Exception], bool]
    ) -> None:
        self.name = name
        self._root = f"{prefix}/" if prefix else ""
        self._patience = Patience(patience, is_passing)
        # Connecting and reading. An attempt gets a second even where there is no patience at all.
        self._timeout = (min(10.0, max(1.0, patience)), min(60.0, max(1.0, patience)))

    @abstractmethod
    def download(self, asked: Download, into: BinaryIO) -> None:
        """Ask once, and write a content to where a stream stands; what came before an error stays.

        Raises AbsentError if it is not there, UnchangedError if nothing but `unless` is.
        """

    @abstractmethod
    def _explain(self, error: Exception, doing: str) -> Exception:
        """Return the error to raise, `error` itself where it says all: an answer, or a mistake."""

    def is_older(self, version: Version, than: Version) -> bool:
        """Tell whether an object's version is known to be older than another one."""
        return False

    def read(
        self, key: str, *, unless: Version | None = None, at_most: int = AT_MOST
    ) -> StoredObject | None:
        """Ask once, class B, also where nothing has changed."""
        doing = self._about("reading", key)

        def attempt() -> StoredObject:
            content = io.BytesIO()
            fetching = _Fetching(self, key, content, doing, unless=unless, at_most=at_most)
            return StoredObject(key, fetching.go_on(), content.getvalue())

        try:
            return self._do(self._patience(attempt), doing)
        except UnchangedError:
            return None
        except AbsentError as error:
            if unless == ABSENT:
                return None
            raise ObjectNotFoundError(doing, "there is no such object") from error

    def fetch(self, key: str, into: Path, *, listed: Entry | None = None) -> Version:
        """Ask once, class B, and again for what has not come whenever the connection breaks."""
        doing = self._about("fetching", key)
        with made(into) as part:
            fetching = _Fetching(self, key, part, doing, listed=listed)
            try:
                return self._as_long_as_some_comes(fetching.go_on, part, doing)
            except AbsentError as error:
                raise ObjectNotFoundError(doing, "there is no such object") from error

    def read_span(
        self, entry: Entry, into: BinaryIO, start: int = 0, end: int | None = None
    ) -> None:
        """Ask once, class B, and again for what has not come whenever the connection breaks."""
        doing = self._about("fetching", entry.key)
        begin = into.tell()

        def attempt() -> None:
            at = start + into.tell() - begin
            if at and at >= (entry.size if end is None else end):
                return
            self.download(Download(entry.key, doing, entry.version, start=at, end=end), into)

        try:
            self._as_long_as_some_comes(attempt, into, doing)
        except AbsentError as error:
            raise ObjectNotFoundError(doing, "it is not at that version any more") from error

    def _about(self, verb: str, key: str) -> str:
        """Return what is being done, for errors; InvalidKeyError if there can be no such object."""
        doing = f"{verb} {self.object_uri(key)}"
        check_key(key, doing)
        return doing

    def _as_long_as_some_comes(self, attempt: Callable[[], _T], into: BinaryIO, doing: str) -> _T:
        while True:
            come = into.tell()
            try:
                return self._do(self._patience(attempt), doing)
            except BucketUnavailableError:
                if into.tell() <= come:
                    raise

    def _do(self, call: Callable[[], _T], doing: str) -> _T:
        """Call, and turn into our errors whatever means the same for every verb."""
        try:
            return call()
        except Exception as error:
            explained = self._explain(error, doing)
            if explained is error:
                raise
            raise explained from error


@dataclass
class _Fetching:
    """A content that comes into an empty file `part`, in as many requests as it takes."""

    bucket: RemoteBucket
    key: str
    part: BinaryIO
    doing: str
    listed: Entry | None = None
    unless: Version | None = None
    at_most: float = math.inf
    head: Head | None = None  # what the first answer told: it is of the whole object
    came: str = ""  # the checksum of what came last and was doubtful

    def go_on(self) -> Version:
        """Fetch what has not come yet, check the whole, and return its version."""
        at = self.part.seek(0, os.SEEK_END)
        if self.head is None or at != self.head.size:
            try:
                version = self.head.version if self.head and at else None
                of = (self.key, self.doing, version, self.unless)
                self.bucket.download(Download(*of, start=at, begun=self._begun), self.part)
            except AbsentError as error:
                if at:
                    raise self._anew("it was replaced meanwhile") from error
                raise
        head = self.head
        if head is None or head.size > self.part.tell():
            raise InterruptedTransferError("only a part arrives")
        if not self._is_right(head):
            raise self._anew("what arrives is damaged")
        return head.version

    def _begun(self, head: Head) -> None:
        if self.head is None:
            if head.size > self.at_most:
                raise ObjectTooLargeError(self.doing, head.size, int(self.at_most), head.version)
            self.head = head

    def _is_right(self, head: Head) -> bool:
        listed = self.listed
        if listed and self.bucket.is_older(head.version, listed.version):
            return False  # a cache has answered: a listing is never of the future
        if listed and listed.checksum and listed.version == head.version:
            if self._checksum(kind_of(listed.checksum)) != listed.checksum:
                return False
            if not head.checksums:
                return True
        if head.checksums is None:
            return True
        found = {self._checksum(kind) for kind in {kind_of(each) for each in head.checksums}}
        if found & head.checksums:
            return True
        # Parts of several sizes, or a service that counts otherwise: what comes twice is right.
        before, self.came = self.came, next(filter(is_of_parts, found), "")
        return bool(before) and before == self.came

    def _checksum(self, kind: str) -> str:
        self.part.seek(0)
        return checksum_of(self.part, kind)

    def _anew(self, why: str) -> InterruptedTransferError:
        self.head = None
        self.part.seek(0)
        self.part.truncate()
        return InterruptedTransferError(why)
