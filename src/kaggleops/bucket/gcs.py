"""A bucket on Cloud Storage, through Google's own client.

How it keeps the promises of base.py:

- A version is an object's generation. A write is one upload with `ifGenerationMatch`, a read one
  download whose answer carries the generation along with the content.
- Every attempt at a read starts afresh; a fetch goes on where it broke off. Both check the whole
  content's checksum, which the client does not once it has gone on.
- An upload names its MD5, so that Cloud Storage refuses what was damaged on the way. (The client's
  own check comes after the fact and deletes the object, even if that is another's by then.)
- A 412 is a conflict only if the object's size and MD5 are not those of what was to be written,
  and its generation is not the expected one (then the content was damaged on the way).
"""

import base64
import hashlib
import io
import math
import mimetypes
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from google.api_core import exceptions as answers
from google.auth.exceptions import GoogleAuthError

from kaggleops.bucket.base import (
    ABSENT,
    AT_MOST,
    NO_KEY,
    Bucket,
    BucketNotFoundError,
    BucketUnavailableError,
    ConflictError,
    Entry,
    LeftOut,
    ObjectNotFoundError,
    ObjectTooLargeError,
    StoredObject,
    Version,
    check_key,
    check_prefix,
    compile_glob,
    crc32c,
    is_key,
    made,
    opened,
)
from kaggleops.bucket.gcs_client import (
    InterruptedTransferError,
    Patience,
    connect,
    download,
    explain,
    message_of,
)

_T = TypeVar("_T")

_ONE_REQUEST = 8 * 1024 * 1024
"""Up to how many bytes the client uploads in one request; above, in chunks (its own constant)."""

_CHUNK = 16 * 1024 * 1024
"""Bytes held in memory and sent again after a fault; the client's own default is 100 MiB."""

_NEVER = 1
"""A generation that no object has (they are microseconds since 1970)."""


class GcsBucket(Bucket):
    """The objects of the bucket `name` whose names start with `prefix` and a slash."""

    lists_checksums = True

    def __init__(self, name: str, prefix: str = "", *, patience: float = 120.0) -> None:
        self._name = name
        self._root = f"{prefix}/" if prefix else ""
        self._patience = Patience(patience)
        # Connecting and reading. An attempt gets a second even where there is no patience at all.
        self._timeout = (min(10.0, max(1.0, patience)), min(60.0, max(1.0, patience)))
        # A client is not to be used on both sides of a fork. Should two threads make the first one
        # at once, one of the two is left unused.
        self._clients: dict[int, Any] = {}
        self.uri = self.artifact_uri = f"gs://{name}/{prefix}" if prefix else f"gs://{name}"

    def read(
        self, key: str, *, unless: Version | None = None, at_most: int = AT_MOST
    ) -> StoredObject | None:
        """Ask once, class B, also where nothing has changed."""
        doing = f"reading {self.object_uri(key)}"
        check_key(key, doing)

        def attempt() -> StoredObject:
            content = io.BytesIO()
            fetching = _Fetching(content, unless=unless, at_most=at_most, doing=doing)
            fetching.go_on(self._client(), self._name, self._root + key, self._timeout)
            return StoredObject(key, fetching.version, content.getvalue())

        try:
            return self._do(self._patience(attempt), doing)
        except answers.NotModified:
            return None
        except answers.NotFound as error:
            self._refuse_missing_bucket(error, doing)
            if unless == ABSENT:
                return None
            raise ObjectNotFoundError(doing, "there is no such object") from error

    def fetch(self, key: str, into: Path, *, listed: Entry | None = None) -> Version:
        """Ask once, class B, and again for what has not come whenever the connection breaks."""
        doing = f"fetching {self.object_uri(key)}"
        check_key(key, doing)
        with made(into) as part:
            fetching = _Fetching(part, listed, doing=doing)

            def attempt() -> Version:
                fetching.go_on(self._client(), self._name, self._root + key, self._timeout)
                return fetching.version

            try:
                return self._as_long_as_some_comes(attempt, part, doing)
            except answers.NotFound as error:
                self._refuse_missing_bucket(error, doing)
                raise ObjectNotFoundError(doing, "there is no such object") from error

    def read_span(
        self, entry: Entry, into: BinaryIO, start: int = 0, end: int | None = None
    ) -> None:
        """Ask once, class B, and again for what has not come whenever the connection breaks."""
        doing = f"fetching {self.object_uri(entry.key)}"
        check_key(entry.key, doing)
        begin = into.tell()

        def attempt() -> None:
            at = start + into.tell() - begin
            if at and at >= (entry.size if end is None else end):
                return
            download(
                *(self._client(), self._name, self._root + entry.key, into),
                timeout=self._timeout,
                generation=generation_of(entry.version),
                span=(at, None if end is None else end - 1) if at or end is not None else None,
            )

        try:
            self._as_long_as_some_comes(attempt, into, doing)
        except answers.NotFound as error:
            raise ObjectNotFoundError(doing, "it is not at that version any more") from error

    def _as_long_as_some_comes(self, attempt: Callable[[], _T], into: BinaryIO, doing: str) -> _T:
        while True:
            come = into.tell()
            try:
                return self._do(self._patience(attempt), doing)
            except BucketUnavailableError:
                if into.tell() <= come:
                    raise

    def read_many(self, entries: Sequence[Entry], take: Callable[[Entry, bytes], None]) -> None:
        """Ask once, class B, for each; after a fault that stays, all that have not come are out."""
        # A second, which few objects are not worth.
        from kaggleops.bucket.gcs_many import read_objects

        names = {f"{self._name}/{self._root}{entry.key}": entry for entry in entries}
        objects = [(name, generation_of(entry.version) or 0) for name, entry in names.items()]
        read_objects(self._client(), objects, lambda name, content: take(names[name], content))

    def write(self, key: str, data: bytes | Path, *, expected: Version) -> Version:
        """Ask once, class A; a refusal costs one request of class B more."""
        doing = f"writing {self.object_uri(key)}"
        check_key(key, doing)

        def attempt() -> Version:
            with opened(data, doing) as content:
                digest = hashlib.file_digest(content, _md5).digest()
                size, md5 = content.seek(0, os.SEEK_END), base64.b64encode(digest).decode()
                content.seek(0)
                blob = self._blob(key, chunk_size=_CHUNK)
                blob.md5_hash = md5
                try:
                    return self._upload(blob, content, size, expected, doing)
                except answers.PreconditionFailed as error:
                    there = self._look(key, doing)
                    if there is not None and (there.size or 0, there.md5_hash) == (size, md5):
                        return str(there.generation)
                    if _generation(there) == expected:
                        raise InterruptedTransferError("what arrives is damaged") from error
                    raise _conflict(doing, expected, there) from error

        return self._do(self._patience(attempt), doing)

    def stat(self, key: str) -> Entry | None:
        """Ask once, class B."""
        doing = f"looking for {self.object_uri(key)}"
        check_key(key, doing)
        there = self._look(key, doing)
        return entry_of(key, there) if there is not None else None

    def delete(self, key: str, *, expected: Version | None = None) -> None:
        """Ask once, which is free."""
        doing = f"deleting {self.object_uri(key)}"
        check_key(key, doing)

        def delete() -> None:
            self._blob(key).delete(
                if_generation_match=generation_of(expected),
                timeout=self._timeout,
                retry=self._patience,
            )

        try:
            self._do(delete, doing)
        except answers.NotFound as error:
            self._refuse_missing_bucket(error, doing)
        except answers.PreconditionFailed as error:
            there = self._look(key, doing)
            if there is not None:
                raise _conflict(doing, str(expected), there) from error

    def list(
        self,
        prefix: str = "",
        *,
        recursive: bool = True,
        glob: str | None = None,
        checksums: bool = False,
        left_out: LeftOut = lambda where, why: None,
    ) -> Iterator[Entry]:
        """Ask once, class A, for every 1,000 objects."""
        doing = f"listing {self.object_uri(prefix)}"
        check_prefix(prefix, doing)
        pattern = compile_glob(glob, doing) if glob is not None else None
        besides = ",crc32c" if checksums else ""
        return self._list(prefix, recursive, glob, pattern, doing, besides, left_out)

    def _list(
        self,
        prefix: str,
        recursive: bool,
        glob: str | None,
        pattern: re.Pattern[str] | None,
        doing: str,
        besides: str = "",
        left_out: LeftOut = lambda where, why: None,
    ) -> Iterator[Entry]:
        # The glob spares us what does not match, but what matches is decided here, so that all
        # kinds of bucket agree. It cannot be sent where the bucket's own prefix would be taken for
        # a part of it, and beside a delimiter it means something else.
        usable = glob is not None and not re.search(r"[*?\[\]{}\\]", self._root)
        pages = self._do(
            lambda: self._client().list_blobs(
                self._name,
                prefix=self._root + prefix or None,
                delimiter=None if recursive or usable else "/",
                match_glob=f"{self._root}{glob}" if usable else None,
                fields=f"kind,items(name,generation,size,updated{besides}),nextPageToken",
                page_size=1000,
                timeout=self._timeout,
                retry=self._patience,
            ),
            doing,
        )
        blobs = iter(pages)
        while (blob := self._next(blobs, doing)) is not None:
            key = self._key_of(blob)
            deeper = not recursive and "/" in key[len(prefix) :]
            if not is_key(key):
                if not key.endswith("/"):  # a console's placeholder for a folder
                    left_out(self.object_uri(key), NO_KEY)
            elif not deeper and (pattern is None or pattern.fullmatch(key)):
                yield entry_of(key, blob)

    def _next(self, blobs: Iterator[Any], doing: str) -> Any | None:
        try:
            return self._do(lambda: next(blobs, None), doing)
        except answers.NotFound as error:
            raise self._missing_bucket(doing) from error

    def _client(self) -> Any:
        client = self._clients.get(os.getpid())
        return client or self._clients.setdefault(os.getpid(), connect())

    def _blob(self, key: str, chunk_size: int | None = None) -> Any:
        # Always a new one: a blob that has been used asks for the generation that it has seen.
        return self._client().bucket(self._name).blob(self._root + key, chunk_size=chunk_size)

    def _key_of(self, blob: Any) -> str:
        return str(blob.name).removeprefix(self._root)

    def _do(self, call: Callable[[], _T], doing: str) -> _T:
        """Call, and turn into our errors whatever means the same for every verb."""
        try:
            return call()
        except (answers.NotModified, answers.NotFound, answers.PreconditionFailed):
            raise
        except Exception as error:
            explained = explain(error, doing, self._name)
            if explained is error:
                raise
            raise explained from error

    def _upload(self, blob: Any, content: Any, size: int, expected: Version, doing: str) -> Version:
        large = size > _ONE_REQUEST
        try:
            blob.upload_from_file(
                content,
                size=size,
                content_type=content_type(blob.name),
                if_generation_match=generation_of(expected),
                timeout=self._timeout,
                checksum=None,
                # A chunk is sent again by itself; only what that does not mend starts afresh.
                retry=self._patience if large else None,
            )
        except answers.GoogleAPICallError as error:
            if error.code not in {404, 410}:
                raise
            if isinstance(error, answers.NotFound):
                self._refuse_missing_bucket(error, doing)
                if generation_of(expected) and self._look(self._key_of(blob), doing) is None:
                    raise _conflict(doing, expected, None) from error
            raise InterruptedTransferError("the upload's session was lost") from error
        except ValueError as error:
            if isinstance(error, GoogleAuthError):  # some are both
                raise
            # The file has become shorter, or the service has taken less than it was sent.
            raise InterruptedTransferError(str(error)) from error
        return str(blob.generation)

    def _look(self, key: str, doing: str) -> Any | None:
        """Return the object's blob with its metadata, or None if there is none."""

        def look() -> Any:
            blob = self._blob(key)
            blob.reload(timeout=self._timeout, retry=self._patience)
            return blob

        try:
            return self._do(look, doing)
        except answers.NotFound as error:
            self._refuse_missing_bucket(error, doing)
            return None

    def _refuse_missing_bucket(self, error: answers.NotFound, doing: str) -> None:
        """Raise `BucketNotFoundError` if that is what the 404 means."""
        message = message_of(error).lower()
        if "no such object" in message:
            return
        if "bucket does not exist" in message:
            raise self._missing_bucket(doing) from error
        # Not words that we know. Only an absent bucket cannot be listed.
        next(self._list("", False, None, None, doing), None)

    def _missing_bucket(self, doing: str) -> BucketNotFoundError:
        hint = f"Check the name, or create it: gcloud storage buckets create gs://{self._name}"
        return BucketNotFoundError(doing, f"the bucket {self._name} does not exist", hint)


class _Fetching:
    """A content that comes into a file, in as many requests as it takes.

    Args:
        part: the file, empty.
        listed: the object as a listing has shown it.
        unless: the version that is known already.
        at_most: how many bytes it may have.
        doing: what is being done, for the error.
    """

    def __init__(
        self,
        part: BinaryIO,
        listed: Entry | None = None,
        *,
        unless: Version | None = None,
        at_most: float = math.inf,
        doing: str,
    ) -> None:
        self._part = part
        self._listed = listed
        self._unless = unless
        self._at_most = at_most
        self._doing = doing
        self._headers: Mapping[str, str] = {}
        """Of the first answer: they tell of the whole object."""

    @property
    def version(self) -> Version:
        """That of the object whose content comes."""
        return self._headers["X-Goog-Generation"]

    def go_on(self, client: Any, bucket: str, name: str, timeout: tuple[float, float]) -> None:
        """Fetch what has not come yet, and check the whole."""
        at = self._part.seek(0, os.SEEK_END)
        size = int(self._headers.get("X-Goog-Stored-Content-Length", -1))
        if at != size:
            try:
                download(
                    *(client, bucket, name, self._part),
                    timeout=timeout,
                    generation=int(self.version) if at else None,
                    unless=generation_of(self._unless),
                    span=(at, None) if at else None,
                    begun=self._begun,
                )
            except answers.ClientError as error:
                if at and error.code in {404, 416}:
                    raise self._anew("it was replaced meanwhile") from error
                raise
            size = int(self._headers.get("X-Goog-Stored-Content-Length", -1))
            if size > self._part.tell():
                raise InterruptedTransferError("only a part arrives")
        self._part.seek(0)
        if crc32c(self._part) not in self._right():
            raise self._anew("what arrives is damaged")

    def _begun(self, headers: Mapping[str, str]) -> None:
        if not self._headers:
            size = int(headers.get("X-Goog-Stored-Content-Length", 0))
            if size > self._at_most:
                version = headers["X-Goog-Generation"]
                raise ObjectTooLargeError(self._doing, size, int(self._at_most), version)
            self._headers = headers

    def _right(self) -> set[str]:
        """Return the checksum that the content must have: one, or else none is right."""
        told = set(re.findall(r"crc32c=([^,\s]+)", self._headers.get("X-Goog-Hash", "")))
        if self._listed and int(self.version) < (generation_of(self._listed.version) or 0):
            return set()  # a cache has answered: a listing is never of the future
        if self._listed and self._listed.crc32c and self._listed.version == self.version:
            told = told & {self._listed.crc32c} if told else {self._listed.crc32c}
        return told

    def _anew(self, why: str) -> InterruptedTransferError:
        self._headers = {}
        self._part.seek(0)
        self._part.truncate()
        return InterruptedTransferError(why)


def entry_of(key: str, blob: Any) -> Entry:
    """Return an object as a listing shows it."""
    updated_ms = int(blob.updated.timestamp() * 1000)
    return Entry(key, str(blob.generation), blob.size or 0, updated_ms, blob.crc32c or "")


def content_type(name: str) -> str:
    """Return what an object's content is served as."""
    # So that a browser shows a plot instead of saving it.
    kind, encoding = mimetypes.guess_type(name)
    return kind if kind and not encoding else "application/octet-stream"


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


def generation_of(version: Version | None) -> int | None:
    """Return the generation to match; a version of another kind of bucket matches none."""
    if version is None:
        return None
    return int(version) if version.isdecimal() else _NEVER


def _generation(there: Any | None) -> Version:
    return ABSENT if there is None else str(there.generation)


def _conflict(doing: str, expected: Version, there: Any | None) -> ConflictError:
    problem = f"it is at version {_generation(there)}, not {expected}: somebody else has written it"
    return ConflictError(doing, problem, "Read it again first.")
