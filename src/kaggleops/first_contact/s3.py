"""What tests/fakes/s3_server.py assumes of a service that speaks Amazon's S3 protocol."""

import base64
import hashlib
from dataclasses import dataclass, replace
from typing import Any

from botocore.exceptions import ClientError

from kaggleops.bucket.patience import OutOfPatienceError, Patience
from kaggleops.bucket.s3 import S3Bucket
from kaggleops.bucket.s3_client import code_of, is_passing, status_of
from kaggleops.first_contact.assumption import Assumptions, NotCheckedError, expect
from kaggleops.first_contact.seen import one_wins
from kaggleops.platforms.s3 import opened

_PART = 5 * 1024 * 1024  # the least that a part may have, but for the last
_STALE = f'"{"0123456789abcdef" * 2}"'


@dataclass(frozen=True)
class Refused:
    """A refusal in the service's own words."""

    status: int
    code: str

    def __str__(self) -> str:
        return f"{self.status} {self.code}"


@dataclass(frozen=True)
class Storage:
    """A place in a bucket, asked by boto3's client as the bucket's own code makes it."""

    bucket: S3Bucket
    prefix: str  # below the bucket's own prefix, with a slash behind it; "" for none
    patience: float = 30.0  # seconds for which a passing fault is tried again

    @classmethod
    def of(cls, uri: str, patience: float = 30.0) -> "Storage":
        """Return the place at a bucket's address."""
        return cls(opened(uri), "", patience)

    def within(self, name: str) -> "Storage":
        """Return a place in it, so that no check sees another's objects."""
        return replace(self, prefix=f"{self.prefix}{name}/")

    def ask(self, operation: str, name: str | None = "object", **what: Any) -> Any:
        """Return the answer or the refusal; NotCheckedError for a passing fault that stays."""
        key = None if name is None else f"{self.prefix}{name}"

        def attempt() -> Any:
            try:
                return self.bucket.ask(operation, key, **what)
            except ClientError as error:
                if is_passing(error) and code_of(error) != "BadDigest":
                    raise
                return Refused(status_of(error), code_of(error))

        try:
            return Patience(self.patience, is_passing)(attempt)()
        except OutOfPatienceError as error:
            raise NotCheckedError(f"{error.cause}{error.lasted}") from error

    def put(self, data: bytes = b"one", name: str = "object", **what: Any) -> Any:
        """Write an object."""
        return self.ask("put_object", name, Body=data, **what)

    def made(self, data: bytes = b"one", name: str = "object") -> str:
        """Write an object, and return its ETag."""
        return str(_good(self.put(data, name))["ETag"])

    def content(self, expected: bytes) -> None:
        """Raise DiffersError if the object has another content."""
        found = _good(self.ask("get_object"))["Body"].read()
        expect(found == expected, "the object has changed")

    def listed(self, **what: Any) -> Any:
        """Return a page of a listing, and the names on it."""
        prefix = f"{self.bucket.uri.partition('://')[2].partition('/')[2]}/{self.prefix}".lstrip(
            "/"
        )
        page = _good(self.ask("list_objects_v2", None, Prefix=prefix, **what))
        names = [each["Key"].removeprefix(prefix) for each in page.get("Contents", [])]
        folders = [each["Prefix"].removeprefix(prefix) for each in page.get("CommonPrefixes", [])]
        return page, names, folders


S3: Assumptions[Storage] = Assumptions()


def _good(answer: Any) -> Any:
    expect(not isinstance(answer, Refused), str(answer))
    return answer


def _is_refused(answer: Any, status: int, code: str = "") -> str:
    if not isinstance(answer, Refused):
        return expect(False, "it is done")
    return expect(answer.status == status and code in ("", answer.code), str(answer))


@S3.otherwise("two runs that begin at once overwrite each other")
def create_refused(at: Storage) -> str:
    """Creating an object that is there (`If-None-Match: *`) is a 412 and changes nothing."""
    at.made()
    said = _is_refused(at.put(b"two", IfNoneMatch="*"), 412, "PreconditionFailed")
    at.content(b"one")
    return said


@S3.otherwise("nothing can be changed without overwriting what another machine wrote")
def replace_at_etag(at: Storage) -> str:
    """Replacing the ETag that is there works, and the new content has another one."""
    first = at.made()
    second = _good(at.put(b"two", IfMatch=first))["ETag"]
    return expect(first != second, f"{first}, then {second}")


@S3.otherwise("what another machine wrote meanwhile is lost")
def replace_refused(at: Storage) -> str:
    """Replacing an ETag that is not there any more is a 412 and changes nothing."""
    at.made()
    said = _is_refused(at.put(b"two", IfMatch=_STALE), 412, "PreconditionFailed")
    at.content(b"one")
    return said


@S3.otherwise("a run that somebody deleted comes back, or its end is told as another fault")
def replace_of_absent_refused(at: Storage) -> str:
    """Replacing an ETag of an object that is not there is a 404 (or a 412)."""
    answer = at.put(IfMatch=_STALE)
    return _is_refused(answer, 412 if getattr(answer, "status", 0) == 412 else 404)


@S3.otherwise("of several machines that write at once, one's data is lost without a word")
def one_of_many_wins(at: Storage) -> str:
    """Of eight creations at once one succeeds; the others are 412."""
    return one_wins(lambda each: getattr(at.put(b"%d" % each, IfNoneMatch="*"), "status", 200))


@S3.otherwise("every look at a run that has not changed downloads it anew")
def unchanged_not_sent(at: Storage) -> str:
    """Reading with `If-None-Match` of the ETag that is there is a 304."""
    return _is_refused(at.ask("get_object", IfNoneMatch=at.made()), 304)


@S3.otherwise("an object that is missing is taken for a fault")
def absent_object(at: Storage) -> str:
    """An object that is not there is a 404 NoSuchKey."""
    return _is_refused(at.ask("get_object"), 404, "NoSuchKey")


@S3.otherwise("a download that broke off begins anew, and large files never arrive")
def part_of_content(at: Storage) -> str:
    """`Range: bytes=2-4` brings three bytes with a 206, and the whole object's ETag."""
    etag = at.made(b"0123456789")
    answer = _good(at.ask("get_object", Range="bytes=2-4"))
    status, content = answer["ResponseMetadata"]["HTTPStatusCode"], answer["Body"].read()
    good = (status, content, answer["ETag"]) == (206, b"234", etag)
    return expect(good, f"{status}, {len(content)} bytes")


@S3.otherwise("a download that ends just at the object's end is taken for a failure")
def part_beyond_end(at: Storage) -> str:
    """A `Range` that begins behind the object's end is a 416."""
    at.made(b"0123456789")
    return _is_refused(at.ask("get_object", Range="bytes=10-"), 416)


@S3.otherwise("an upload that was damaged on its way is kept as it arrived")
def damaged_upload_refused(at: Storage) -> str:
    """Content that lacks the MD5 it names is a 400 BadDigest; nothing is written."""
    wrong = hashlib.md5(b"another", usedforsecurity=False).digest()
    said = _is_refused(at.put(ContentMD5=base64.b64encode(wrong).decode()), 400, "BadDigest")
    expect(isinstance(at.ask("head_object"), Refused), "it is refused, and there all the same")
    return said


@S3.otherwise("an empty file is taken for one that is missing")
def empty_object(at: Storage) -> str:
    """An object without content is kept, with a size of 0."""
    at.made(b"")
    size = _good(at.ask("head_object"))["ContentLength"]
    return expect(size == 0, f"size {size}")


@S3.otherwise("files of more than 16 MB cannot be uploaded, or overwrite another machine's")
def upload_in_parts(at: Storage) -> str:
    """An upload in parts of an object that is there is a 412 in the end, and else is done."""
    refused = _in_parts(at, at.made())
    answer = _in_parts(at, None)
    etag = answer["ETag"] if not isinstance(answer, Refused) else str(answer)
    said = f"refused: {refused}; done: {etag}"
    expect(isinstance(refused, Refused) and refused.status == 412, said)
    return expect(not isinstance(answer, Refused), said)


def _in_parts(at: Storage, there: str | None) -> Any:
    """Create an object in parts; it is to be refused if there is one."""
    name = "object" if there else "another"
    upload = {"UploadId": _good(at.ask("create_multipart_upload", name))["UploadId"]}
    parts = []
    for number, data in enumerate((bytes(_PART), b"the end"), 1):
        sent = _good(at.ask("upload_part", name, Body=data, PartNumber=number, **upload))
        parts.append({"ETag": sent["ETag"], "PartNumber": number})
    whole = {"MultipartUpload": {"Parts": parts}, "IfNoneMatch": "*"}
    answer = at.ask("complete_multipart_upload", name, **upload, **whole)
    if isinstance(answer, Refused):
        at.ask("abort_multipart_upload", name, **upload)
    return answer


@S3.otherwise("runs are missing from listings, or come twice")
def listing_order(at: Storage) -> str:
    """A listing is in the order of the names' UTF-8 bytes."""
    names = ["Z", "a", "a/b", "a0", "é", "\U0001f600"]
    for name in reversed(names):
        at.made(name=name)
    _, found, _ = at.listed()
    return expect(found == names, ", ".join(found))


@S3.otherwise("of more than 1,000 runs only the first are seen")
def listing_pages(at: Storage) -> str:
    """A listing comes in pages of `max-keys`; a token leads to the next, if there is one."""
    for number in range(3):
        at.made(name=f"{number}")
    first, names, _ = at.listed(MaxKeys=2)
    second, rest, _ = at.listed(MaxKeys=2, ContinuationToken=first["NextContinuationToken"])
    sizes = [len(names), len(rest)]
    return expect(sizes == [2, 1] and not second["IsTruncated"], f"pages of {sizes}")


@S3.otherwise("listing the runs of a bucket lists every file of theirs, too")
def listing_folders(at: Storage) -> str:
    """With a delimiter, what lies deeper is only told as a prefix."""
    for name in ("top", "folder/deep", "folder/deeper"):
        at.made(name=name)
    _, names, folders = at.listed(Delimiter="/")
    return expect((names, folders) == (["top"], ["folder/"]), f"{names}, then {folders}")


@S3.otherwise("a change that was announced is not found")
def seen_at_once(at: Storage) -> str:
    """What was written, replaced or deleted is so in the next listing."""
    for content in (b"one", b"two"):
        etag = at.made(content)
        page, _, _ = at.listed()
        found = [each["ETag"] for each in page.get("Contents", [])]
        expect(found == [etag], "a listing is behind a write")
    at.ask("delete_object")
    return expect(not at.listed()[1], "the listing lacks it once it is deleted")


@S3.otherwise("deleting is told as a failure")
def delete_told(at: Storage) -> str:
    """Deleting is a 204; so it is once more."""
    at.made()
    answers = [_good(at.ask("delete_object")) for _ in range(2)]
    statuses = [each["ResponseMetadata"]["HTTPStatusCode"] for each in answers]
    return expect(statuses == [204, 204], f"{statuses}")


@S3.otherwise("what somebody has just written is deleted")
def delete_refused(at: Storage) -> str:
    """Deleting an ETag that is not there any more is a 412 (not every service has this)."""
    at.made()
    answer = at.ask("delete_object", IfMatch=_STALE)
    if isinstance(answer, Refused) and answer.status == 501:
        raise NotCheckedError(f"the service has no such condition ({answer})")
    said = _is_refused(answer, 412)
    at.content(b"one")
    return said
