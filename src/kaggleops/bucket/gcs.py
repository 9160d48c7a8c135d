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
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from google.api_core import exceptions as answers
from google.auth.exceptions import GoogleAuthError

from kaggleops.bucket import gcs_client
from kaggleops.bucket.base import (
    ABSENT,
    BucketNotFoundError,
    Entry,
    Listing,
    Version,
    conflict,
    content_type,
    opened,
)
from kaggleops.bucket.checksums import CRC32C, checksum_of, new_md5
from kaggleops.bucket.patience import InterruptedTransferError
from kaggleops.bucket.remote import AbsentError, Download, Head, RemoteBucket, UnchangedError

_ONE_REQUEST = 8 * 1024 * 1024
"""Up to how many bytes the client uploads in one request; above, in chunks (its own constant)."""

_CHUNK = 16 * 1024 * 1024
"""Bytes held in memory and sent again after a fault; the client's own default is 100 MiB."""

_NEVER = 1
"""A generation that no object has (they are microseconds since 1970)."""


class GcsBucket(RemoteBucket):
    """A bucket whose service is Cloud Storage."""

    keeps_deleted = "Soft-deleted objects disappear after the bucket's soft-delete period."

    def __init__(self, name: str, prefix: str = "", *, patience: float = 120.0) -> None:
        super().__init__(name, prefix, patience, gcs_client.is_passing)
        # A client is not to be used on both sides of a fork. Should two threads make the first one
        # at once, one of the two is left unused.
        self._clients: dict[int, Any] = {}
        self.uri = self.artifact_uri = f"gs://{name}/{prefix}" if prefix else f"gs://{name}"

    def download(self, asked: Download, into: BinaryIO) -> None:
        """Ask Cloud Storage, which has the generation and the checksum in the answer's headers."""
        try:
            gcs_client.download(
                *(self._client(), self.name, self._root + asked.key, into),
                timeout=self._timeout,
                generation=generation_of(asked.version),
                unless=generation_of(asked.unless),
                part=asked.range,
                begun=lambda headers: asked.begun and asked.begun(_head(headers)),
            )
        except answers.NotModified as error:
            raise UnchangedError from error
        except answers.NotFound as error:
            self._refuse_missing_bucket(error, asked.doing)
            raise AbsentError from error
        except answers.RequestRangeNotSatisfiable as error:
            raise AbsentError from error

    def is_older(self, version: Version, than: Version) -> bool:
        """Compare the generations, which are times."""
        return int(version) < (generation_of(than) or 0)

    def read_many(self, entries: Sequence[Entry], take: Callable[[Entry, bytes], None]) -> None:
        """Ask once, class B, for each; after a fault that stays, all that have not come are out."""
        names = {f"{self.name}/{self._root}{entry.key}": entry for entry in entries}
        objects = [(name, generation_of(entry.version) or 0) for name, entry in names.items()]

        def came(name: str, content: bytes) -> None:
            if checksum_of(io.BytesIO(content)) == names[name].checksum:
                take(names[name], content)

        gcs_client.read_objects(self._client(), objects, came)

    def write(self, key: str, data: bytes | Path, *, expected: Version) -> Version:
        """Ask once, class A; a refusal costs one request of class B more."""
        doing = self._about("writing", key)

        def attempt() -> Version:
            with opened(data, doing) as content:
                digest = hashlib.file_digest(content, new_md5).digest()
                size, md5 = content.seek(0, os.SEEK_END), base64.b64encode(digest).decode()
                content.seek(0)
                try:
                    return self._upload(key, content, size, md5, expected, doing)
                except answers.PreconditionFailed as error:
                    there = self._look(key, doing)
                    if there is not None and (there.size or 0, there.md5_hash) == (size, md5):
                        return str(there.generation)
                    if _generation(there) == expected:
                        raise InterruptedTransferError("what arrives is damaged") from error
                    raise conflict(doing, expected, _generation(there)) from error

        return self._do(self._patience(attempt), doing)

    def stat(self, key: str, *, checksum: bool = False) -> Entry | None:
        """Ask once, class B; the answer tells the checksum."""
        doing = self._about("looking for", key)
        there = self._look(key, doing)
        return _entry(key, there) if there is not None else None

    def delete(self, key: str, *, expected: Version | None = None) -> None:
        """Ask once, which is free."""
        doing = self._about("deleting", key)

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
                raise conflict(doing, str(expected), _generation(there)) from error

    def old_versions(self, keys: Sequence[str]) -> Sequence[str]:
        """Name one command of gcloud's for all."""
        places = [f"{self.object_uri(key)}{'**' if key.endswith('/') else ''}" for key in keys]
        return [shlex.join(["gcloud", "storage", "rm", "--all-versions", *places])]

    def listed(self, asked: Listing) -> Iterator[Entry]:
        """Ask once, class A, for every 1,000 objects."""
        # The glob cannot be sent where the bucket's own prefix would be taken for a part of it, and
        # beside a delimiter it means something else.
        usable = asked.glob is not None and not re.search(r"[*?\[\]{}\\]", self._root)
        told = f"name,generation,size,updated{',crc32c' if asked.checksums else ''}"
        pages = self._do(
            lambda: self._client().list_blobs(
                self.name,
                prefix=self._root + asked.prefix or None,
                delimiter=None if asked.recursive or usable else "/",
                match_glob=f"{self._root}{asked.glob}" if usable else None,
                fields=f"kind,items({told}),nextPageToken",
                page_size=1000,
                timeout=self._timeout,
                retry=self._patience,
            ),
            asked.doing,
        )
        blobs = iter(pages)
        try:
            while (blob := self._do(lambda: next(blobs, None), asked.doing)) is not None:
                yield _entry(blob.name.removeprefix(self._root), blob)
        except answers.NotFound as error:
            raise self._missing_bucket(asked.doing) from error

    def _client(self) -> Any:
        client = self._clients.get(os.getpid())
        return client or self._clients.setdefault(os.getpid(), gcs_client.connect())

    def _blob(self, key: str, chunk_size: int | None = None) -> Any:
        # Always a new one: a blob that has been used asks for the generation that it has seen.
        return self._client().bucket(self.name).blob(self._root + key, chunk_size=chunk_size)

    def _explain(self, error: Exception, doing: str) -> Exception:
        if isinstance(error, answers.NotModified | answers.NotFound | answers.PreconditionFailed):
            return error
        return gcs_client.explain(error, doing, self.name)

    def _upload(
        self, key: str, content: Any, size: int, md5: str, expected: Version, doing: str
    ) -> Version:
        blob = self._blob(key, chunk_size=_CHUNK)
        blob.md5_hash = md5
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
                if generation_of(expected) and self._look(key, doing) is None:
                    raise conflict(doing, expected, ABSENT) from error
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
        message = gcs_client.message_of(error).lower()
        if "no such object" in message:
            return
        if "bucket does not exist" in message:
            raise self._missing_bucket(doing) from error
        # Not words that we know. Only an absent bucket cannot be listed.
        next(self.listed(Listing(recursive=False, doing=doing)), None)

    def _missing_bucket(self, doing: str) -> BucketNotFoundError:
        hint = f"Check the name, or create it: gcloud storage buckets create gs://{self.name}"
        return BucketNotFoundError(doing, f"the bucket {self.name} does not exist", hint)


def _head(headers: Mapping[str, str]) -> Head:
    hashes = re.findall(r"crc32c=([^,\s]+)", headers.get("X-Goog-Hash", ""))
    size = int(headers.get("X-Goog-Stored-Content-Length", -1))
    checksums = frozenset(f"{CRC32C}:{digest}" for digest in hashes)
    return Head(headers["X-Goog-Generation"], size, checksums)


def _entry(key: str, blob: Any) -> Entry:
    updated_ms = int(blob.updated.timestamp() * 1000)
    checksum = f"{CRC32C}:{blob.crc32c}" if blob.crc32c else ""
    return Entry(key, str(blob.generation), blob.size or 0, updated_ms, checksum)


def generation_of(version: Version | None) -> int | None:
    """Return the generation to match; a version of another kind of bucket matches none."""
    if version is None:
        return None
    return int(version) if version.isdecimal() else _NEVER


def _generation(there: Any | None) -> Version:
    return ABSENT if there is None else str(there.generation)
