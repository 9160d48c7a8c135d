"""A bucket on whatever service speaks Amazon's S3 protocol, through boto3.

How it keeps the promises of base.py:

- A version is an object's ETag: the same content has the same version, so that a write on it can
  only replace what its writer has read. A write is one PUT with `If-Match` or `If-None-Match: *`
  (a large one ends in one), a read one GET whose answer carries the ETag along with the content.
- Some services take those headers and ignore them. Before this process's first write, the service
  must have proven that it does not (conditions.py).
- An upload names its MD5, so that the service refuses what was damaged on the way. The MD5 is kept
  in the object's metadata as `md5chksum`, as rclone does: the ETag is another where the service
  encrypts with a key of its own, or has put the object together from parts.
- What is fetched must have that MD5. An object of somebody else's that has neither is put together
  as its ETag was, from parts of the first one's size.
- A 412 is a conflict only if the object's size and MD5 are not those of what was to be written. A
  409 says that another write is going on: it is asked again.
"""

import base64
import hashlib
import io
import math
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from kaggleops.bucket.base import (
    ABSENT,
    AccessDeniedError,
    BucketError,
    BucketNotFoundError,
    Entry,
    Listing,
    ObjectNotFoundError,
    Version,
    conflict,
    content_type,
    opened,
    start_of,
)
from kaggleops.bucket.checksums import MD5, checksum_of, kind_of, new_md5, of_parts
from kaggleops.bucket.conditions import OWN_KEYS, Conditions, conditions_of
from kaggleops.bucket.patience import InterruptedTransferError, Patience
from kaggleops.bucket.remote import AbsentError, Download, Head, RemoteBucket, UnchangedError
from kaggleops.bucket.s3_client import (
    ClientError,
    Endpoint,
    ForeignAnswerError,
    NoCredentialsError,
    code_of,
    connect,
    explain,
    is_passing,
    status_of,
)

_ONE_REQUEST = 16 << 20
"""Up to how many bytes go up in one request; above, in parts."""

_PART = 16 << 20
_PARTS_AT_ONCE = 4
_MOST_PARTS = 10_000
_LARGEST_REQUEST = 5 << 30
"""How many bytes a service takes in one request where parts may not be used."""

_CHECKSUM = "md5chksum"
"""What rclone calls a content's MD5 (in base64) in an object's metadata."""

_MD5 = re.compile(r"[0-9a-f]{32}")
_PIECE = 1 << 20
_AT_ONCE = 32
_AHEAD = 8 * _AT_ONCE
"""How many small objects are asked for before the last of them is handed out."""


class S3Bucket(RemoteBucket):
    """A bucket of the service at `endpoint`."""

    def __init__(
        self, endpoint: Endpoint, name: str, prefix: str = "", *, patience: float = 120.0
    ) -> None:
        super().__init__(name, prefix, patience, is_passing)
        self._endpoint = endpoint
        self._exists = False
        self._is_signed = True
        self._conditions: Conditions | None = None
        self.quotes = True
        path = f"/{prefix}" if prefix else ""
        self.artifact_uri = f"s3://{name}{path}"
        at = f"@{endpoint.host}" if endpoint.host else ""
        self.uri = f"{'s3' if endpoint.scheme == 'https' else 's3+http'}://{name}{at}{path}"

    @property
    def service(self) -> str:
        """The host that answers; one for all regions of Amazon's."""
        host = self._endpoint.host or str(self.client.meta.endpoint_url).partition("://")[2]
        return "amazonaws.com" if host.endswith(".amazonaws.com") else host

    def read_many(self, entries: Sequence[Entry], take: Callable[[Entry, bytes], None]) -> None:
        """Ask once, class B, for each; after a fault that stays, all that have not come are out."""
        ended = False

        def content_of(entry: Entry) -> io.BytesIO | None:
            nonlocal ended
            content = io.BytesIO()
            try:
                if ended:
                    return None
                self.read_span(entry, content)
            except BucketError as error:
                ended |= not isinstance(error, ObjectNotFoundError)
                return None
            content.seek(0)
            return content

        with ThreadPoolExecutor(_AT_ONCE) as threads:
            try:
                # No more of them in memory than are handed out next.
                for at in range(0, len(entries), _AHEAD):
                    some = entries[at : at + _AHEAD]
                    for entry, content in zip(some, threads.map(content_of, some), strict=True):
                        right = entry.checksum or f"{MD5}:{entry.version}"
                        if content and checksum_of(content, kind_of(right)) == right:
                            take(entry, content.getvalue())
            finally:
                ended = True  # who is interrupted leaves nobody at work

    def write(self, key: str, data: bytes | Path, *, expected: Version) -> Version:
        """Ask once, class A; a refusal costs one request of class B more."""
        self._proven()
        return self.write_unproven(key, data, expected=expected)

    def write_unproven(
        self, key: str, data: bytes | Path, *, expected: Version, in_parts: bool | None = None
    ) -> Version:
        """Write as `write` does, on a service that may have proven nothing.

        `in_parts` tells whether it goes up so; None for a large one where the service is proven.
        """
        doing = self._about("writing", key)
        replaced = expected

        def attempt() -> Version:
            nonlocal replaced
            with opened(data, doing) as content:
                md5 = hashlib.file_digest(content, new_md5).digest()
                size = content.seek(0, os.SEEK_END)
                content.seek(0)
                parted = in_parts
                if parted is None:
                    parted = size > _ONE_REQUEST and self._proven().multipart
                if size > _LARGEST_REQUEST and not parted:
                    problem = f"{self.service} takes no more than 5 GB at once under a condition"
                    raise BucketError(doing, problem)
                send = self._send_in_parts if parted else self._send
                try:
                    answer = send(key, content, size, md5, replaced)
                except ClientError as error:
                    if status_of(error) not in {404, 412}:
                        raise
                    if status_of(error) == 404:
                        self._refuse_other_than_absent(error, doing)
                    there = self._look(key, doing)
                    if there and there["ContentLength"] == size and md5 in _md5s(there):
                        return _version(there)
                    now = _version(there) if there else ABSENT
                    if now == replaced and self._conditions:
                        raise InterruptedTransferError("what arrives is damaged") from error
                    raise conflict(doing, expected, now) from error
            version = _version(answer)
            if next(_md5s(answer), md5) != md5:
                replaced = version
                if self._md5_there(key, version, doing) != md5:
                    raise InterruptedTransferError("what arrives is damaged")
            return version

        return self._do(self._patience(attempt), doing)

    def _md5_there(self, key: str, version: Version, doing: str) -> bytes | None:
        """Return the MD5 of what has come there: an ETag may look like one and be none."""
        with tempfile.TemporaryFile() as content:
            try:
                self.download(Download(key, doing, version), content)
            except AbsentError:  # somebody else has written it meanwhile
                return None
            content.seek(0)
            return bytes(hashlib.file_digest(content, new_md5).digest())

    def _send(self, key: str, content: BinaryIO, size: int, md5: bytes, expected: Version) -> Any:
        return self.ask(
            "put_object",
            key,
            Body=content,
            ContentLength=size,
            ContentMD5=_base64(md5),
            **_described(key, md5),
            **self._condition(expected),
        )

    def _send_in_parts(
        self, key: str, content: BinaryIO, size: int, md5: bytes, expected: Version
    ) -> Any:
        upload = self._patience(
            lambda: self.ask("create_multipart_upload", key, **_described(key, md5))
        )()["UploadId"]
        length = max(_PART, math.ceil(size / _MOST_PARTS))
        reading = Lock()

        def send(number: int) -> Mapping[str, Any]:
            with reading:
                content.seek((number - 1) * length)
                part = content.read(length)
            sent = {"UploadId": upload, "PartNumber": number, "Body": part}
            sent["ContentMD5"] = _base64(hashlib.md5(part, usedforsecurity=False).digest())
            answer = self._patience(partial(self.ask, "upload_part", key, **sent))()
            return {"ETag": answer["ETag"], "PartNumber": number}

        try:
            with ThreadPoolExecutor(_PARTS_AT_ONCE) as threads:  # no more of them in memory
                parts = list(threads.map(send, range(1, math.ceil(size / length) + 1)))
            # After a 409 its parts are no more: they go up anew.
            completing = Patience(
                self._patience.seconds, lambda error: is_passing(error) and status_of(error) != 409
            )
            return completing(
                lambda: self.ask(
                    "complete_multipart_upload",
                    key,
                    UploadId=upload,
                    MultipartUpload={"Parts": parts},
                    **self._condition(expected),
                )
            )()
        except BaseException:
            with suppress(Exception):  # what is left of it costs money until the service drops it
                self.ask("abort_multipart_upload", key, UploadId=upload)
            raise

    def stat(self, key: str, *, checksum: bool = False) -> Entry | None:
        """Ask once, class B; twice for the checksum of somebody else's object in parts."""
        doing = self._about("looking for", key)
        there = self._look(key, doing)
        if there is None:
            return None
        size, sure = there["ContentLength"], ""
        if checksum:
            told = self._do(self._patience(lambda: self._checksums(key, there)), doing) or ()
            [sure] = told if len(told) == 1 else [""]
        found = _entry(key, there, size)
        return replace(found, checksum=sure) if _adds_up(sure, size) else found

    def _checksums(self, key: str, answer: Mapping[str, Any]) -> frozenset[str] | None:
        """Return of which checksums the object's content has one; None where nothing tells."""
        if md5s := frozenset(f"{MD5}:{each.hex()}" for each in _md5s(answer)):
            return md5s
        digest, _, parts = _version(answer).partition("-")
        if not _MD5.fullmatch(digest) or not parts.isdecimal():
            return None  # encrypted with a key of the service's own, by somebody else
        first = self.ask("head_object", key, PartNumber=1)
        same = first["ETag"] == answer["ETag"]
        return frozenset([of_parts(_version(answer), first["ContentLength"])]) if same else None

    def old_versions(self, keys: Sequence[str]) -> Sequence[str]:
        """Ask, class A, whether versions are kept; name one command of boto3's for all keys."""
        doing = f"looking whether {self.uri} keeps versions"
        try:
            kept = self._do(self._patience(lambda: self.ask("get_bucket_versioning", None)), doing)
            if not kept.get("Status"):
                return ()
        except AccessDeniedError:  # whose key may not ask
            pass
        except BucketError:  # a service that knows none
            return ()
        script = (
            f'import boto3; b = boto3.resource("s3", endpoint_url={self._endpoint.url!r})'
            f".Bucket({self.name!r}); "
            f"[v.delete() for k in {[self._root + key for key in keys]!r} "
            f"for v in b.object_versions.filter(Prefix=k) if k in (v.key, k.rstrip('/') + '/')]"
        )
        return [shlex.join([sys.executable, "-c", script])]

    def delete(self, key: str, *, expected: Version | None = None) -> None:
        """Ask once, which is free; twice where the service honours no conditional delete."""
        doing = self._about("deleting", key)
        if expected is None or self._proven().delete:
            return self.delete_unproven(key, expected=expected)
        # Whoever writes it just now is lost with it, as somebody who writes a moment sooner is.
        there = self._look(key, doing)
        if there is not None and _version(there) != expected:
            raise conflict(doing, expected, _version(there))
        return self.delete_unproven(key)

    def delete_unproven(self, key: str, *, expected: Version | None = None) -> None:
        """Delete as `delete` does, on a service of which that condition is taken to hold."""
        doing = f"deleting {self.object_uri(key)}"
        what = {} if expected is None else {"IfMatch": self._etag(expected)}
        try:
            self._do(self._patience(lambda: self.ask("delete_object", key, **what)), doing)
        except ClientError as error:
            if status_of(error) != 412:
                return self._refuse_other_than_absent(error, doing)
            there = self._look(key, doing)
            if there is not None:
                raise conflict(doing, str(expected), _version(there)) from error

    def listed(self, asked: Listing) -> Iterator[Entry]:
        """Ask once, class A, for every 1,000 objects."""
        # A delimiter counts from the end of the prefix that is sent.
        start = start_of(asked.glob, asked.prefix) if asked.recursive else asked.prefix
        for each in self._pages(start, "" if asked.recursive else "/", asked.doing):
            yield _entry(each["Key"].removeprefix(self._root), each, each["Size"])

    def _page(self, asked: Mapping[str, str]) -> Any:
        page = self.ask("list_objects_v2", None, **asked)
        for each in page.get("Contents", ()):
            if not {"Key", "ETag", "Size", "LastModified"} <= each.keys():
                raise ForeignAnswerError("a list that says too little")
        return page

    def _pages(self, start: str, delimiter: str, doing: str) -> Iterator[Any]:
        asked = {"Prefix": self._root + start} | ({"Delimiter": delimiter} if delimiter else {})
        while True:
            try:
                page = self._do(self._patience(lambda: self._page(asked)), doing)
            except ClientError as error:
                self._refuse_other_than_absent(error, doing)
                raise self._missing_bucket(doing) from error
            yield from page.get("Contents", ())
            if not page["IsTruncated"]:
                return
            after = page.get("NextContinuationToken")
            if not after or after == asked.get("ContinuationToken"):
                problem = f"{self.service} says that the list goes on, but not where"
                raise BucketError(doing, problem)
            asked["ContinuationToken"] = after

    @property
    def client(self) -> Any:
        """The connection to the service, as this process has signed in now."""
        return connect(self._endpoint, self._timeout)

    def ask(self, operation: str, key: str | None, **what: Any) -> Any:
        """Ask the service once, and make sure that it is the service which answers."""
        where = {"Bucket": self.name} | ({} if key is None else {"Key": self._root + key})
        answer = self._answer(operation, **where, **what)
        kind = answer["ResponseMetadata"]["HTTPHeaders"].get("content-type", "no type")
        marks = _MARKS.get(operation, ())
        if not all(mark in answer for mark in marks) or (not marks and "html" in kind):
            raise ForeignAnswerError(f"an answer of the type {kind}")
        self._exists = True
        return answer

    def _answer(self, operation: str, **what: Any) -> Any:
        is_signed = self._is_signed or operation not in _OF_READERS
        try:
            client = connect(self._endpoint, self._timeout, signed=is_signed)
            return getattr(client, operation)(**what)
        except (NoCredentialsError, ClientError) as error:
            if not is_signed and status_of(error) in {401, 403}:  # it is public no more
                self._is_signed = True
                return self._answer(operation, **what)
            # Who has no key, or only one of another service, may read a public bucket all the same.
            has_key = isinstance(error, ClientError) and code_of(error) != "InvalidAccessKeyId"
            if has_key or operation not in _OF_READERS or not self._is_signed:
                raise
            try:
                anybody = connect(self._endpoint, self._timeout, signed=False)
                answer = getattr(anybody, operation)(**what)
            except ClientError as unsigned:
                if status_of(unsigned) in {401, 403}:
                    raise error from None
                raise
            self._is_signed = False
            return answer

    def download(self, asked: Download, into: BinaryIO) -> None:
        """Ask the service, which has the ETag and mostly an MD5 in the answer's headers."""
        key, doing, unless = asked.key, asked.doing, asked.unless
        what: dict[str, Any] = {"Range": asked.range} if asked.range else {}
        if unless not in (None, ABSENT):
            what["IfNoneMatch"] = _quoted(unless)
        try:
            answer = self.ask("get_object", key, **what)
            with closing(answer["Body"]) as body:
                if asked.range and answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
                    raise ForeignAnswerError("a whole for a part")
                # Not every service honours conditional reads, and nobody proves that it does.
                found = _version(answer)
                if asked.version not in (None, found):
                    raise AbsentError
                if found == unless:
                    raise UnchangedError
                if asked.begun:
                    size = answer.get("ContentLength", -1)  # in chunks, a proxy does not tell it
                    asked.begun(Head(found, size, self._checksums(key, answer)))
                for piece in body.iter_chunks(_PIECE):
                    into.write(piece)
        except ClientError as error:
            if status_of(error) == 304:
                raise UnchangedError from error
            if status_of(error) not in {404, 416}:
                raise
            if status_of(error) == 404:
                self._refuse_other_than_absent(error, doing)
            raise AbsentError from error

    def _look(self, key: str, doing: str) -> Any | None:
        """Return the object's metadata, or None if there is none."""
        try:
            return self._do(self._patience(lambda: self.ask("head_object", key)), doing)
        except ClientError as error:
            self._refuse_other_than_absent(error, doing)
            return None

    def _explain(self, error: Exception, doing: str) -> Exception:
        if isinstance(error, ClientError) and status_of(error) in {304, 404, 412}:
            return error
        return explain(error, doing, self.uri)

    def _about(self, verb: str, key: str) -> str:
        if key.startswith(OWN_KEYS):
            return f"{verb} {self.object_uri(key)}"
        return super()._about(verb, key)

    def _refuse_other_than_absent(self, error: ClientError, doing: str) -> None:
        """Raise the error that a refusal means, unless it only means that there is no object."""
        if status_of(error) != 404:
            raise explain(error, doing, self.uri) from error
        if code_of(error) == "NoSuchBucket":
            raise self._missing_bucket(doing) from error
        # A HEAD is refused without words. Only an absent bucket cannot be listed.
        if code_of(error) != "NoSuchKey" and not self._exists:
            next(self._pages("", "/", doing), None)

    def _missing_bucket(self, doing: str) -> BucketNotFoundError:
        hint = f"Check the name, or create it: kaggleops init --bucket {self.uri}"
        problem = f"the bucket {self.name} does not exist on {self.service}"
        return BucketNotFoundError(doing, problem, hint)

    def _proven(self) -> Conditions:
        if self._conditions is None:
            self._conditions = conditions_of(self)
            self.quotes = self._conditions.quotes
        return self._conditions

    def _condition(self, expected: Version) -> Mapping[str, str]:
        if expected == ABSENT:
            return {"IfNoneMatch": "*"}
        return {"IfMatch": self._etag(expected)}

    def _etag(self, version: Version) -> str:
        return _quoted(version) if self.quotes else version


_OF_READERS = {"get_object", "head_object", "list_objects_v2"}

_MARKS: Mapping[str, tuple[str, ...]] = {
    "get_object": ("ETag",),
    "head_object": ("ETag", "ContentLength", "LastModified"),
    "put_object": ("ETag",),
    "create_multipart_upload": ("UploadId",),
    "upload_part": ("ETag",),
    "complete_multipart_upload": ("ETag",),
    "list_objects_v2": ("IsTruncated",),
}
"""What each answer of a service says, and a proxy's page does not."""


def _entry(key: str, told: Mapping[str, Any], size: int) -> Entry:
    return Entry(key, _version(told), size, int(told["LastModified"].timestamp() * 1000))


def _version(answer: Mapping[str, Any]) -> Version:
    return str(answer["ETag"]).removeprefix("W/").strip('"')


def _adds_up(checksum: str, size: int) -> bool:
    """Tell whether so many bytes make the parts that an ETag counts, all of one size."""
    part, _, count = checksum.removeprefix("etag-").partition(":")
    if not part.isdecimal():
        return True
    return max(1, math.ceil(size / int(part))) == int(count.rpartition("-")[2])


def _md5s(answer: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield what may be the MD5 of an object's content, first what more services tell rightly."""
    own_key = "kms" in str(answer.get("ServerSideEncryption")) or "SSECustomerAlgorithm" in answer
    version = _version(answer) if answer else ""
    if _MD5.fullmatch(version) and not own_key:
        yield bytes.fromhex(version)
    with suppress(ValueError):
        told = base64.b64decode(answer.get("Metadata", {}).get(_CHECKSUM, ""), validate=True)
        if len(told) == 16:
            yield told


def _described(key: str, md5: bytes) -> Mapping[str, Any]:
    return {"ContentType": content_type(key), "Metadata": {_CHECKSUM: _base64(md5)}}


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _quoted(version: Version | None) -> str:
    return f'"{version}"'
