"""What tests/fakes/gcs_server.py and s3_server.py assume of Cloud Storage and of S3's protocol."""

import base64
import hashlib
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self
from urllib.parse import quote

from google.api_core.exceptions import from_http_response

from kaggleops.bucket import ABSENT, gcs_client
from kaggleops.bucket.location import name_and_prefix, root_and_prefix
from kaggleops.bucket.patience import OutOfPatienceError, Patience
from kaggleops.first_contact.assumption import NotCheckedError, expect

_TIMEOUT = (10.0, 60.0)
_PASSING = (408, 429)
_CHUNK = 256 * 1024  # what the chunks of a resumable upload are multiples of
_PART = 5 << 20  # the least that a part of an upload to S3 may have, but for the last
_AT_ONCE, _IN_A_ROW = 8, 10  # writes of one object


class Answer(NamedTuple):
    """What a service answers: the status, that with a refusal's words, and what comes along."""

    status: int
    said: str
    version: str = ""  # of the object that was written or read
    content: bytes = b""
    told: Any = None  # the whole answer, as the service's client has it


class Storage:
    """A place in a bucket, asked in the service's own words over its bucket's own connection.

    Each request expects its answer, and returns the place: what is assumed is written as a chain.
    A version that is named by a number is that of the place's first write, its second, and so on.
    """

    absent = damaged = ""  # words of refusals
    deleted_twice = 404

    def __init__(self, uri: str, patience: float = 30.0) -> None:
        root, path = root_and_prefix(uri)
        self.client, self.bucket = self._connected(root), name_and_prefix(root)[0]
        self.prefix = f"{path}/" if path else ""
        self.patience = patience  # seconds for which a passing fault is tried again
        self.versions: list[str] = []
        self._steps: list[str] = []

    def within(self, name: str) -> Self:
        """Return a place in it, so that no check sees another's objects."""
        place = copy(self)
        place.prefix, place.versions, place._steps = f"{self.prefix}{name}/", [], []
        return place

    @property
    def seen(self) -> str:
        """What to report: the first refusal or listing, else the last answer."""
        return next((each for each in self._steps if not each.startswith("2")), self._steps[-1])

    def put(
        self,
        data: bytes = b"one",
        name: str = "object",
        on: int | str | None = None,
        md5: bytes = b"",
        is_: int | tuple[int, ...] = 200,
        says: str = "",
    ) -> Self:
        """Write an object, on a version, naming an MD5."""
        there = self._version(on)
        answer = self._put(data, name, there, md5)
        self._expect(answer, is_, says)
        if is_ == 200:
            expect(answer.version != there, f"its version is {there} as before")
            self.versions.append(answer.version)
        return self

    def having(self, *names: str) -> Self:
        """Write objects, the last first."""
        for name in reversed(names):
            self.put(name=name)
        return self

    def get(
        self,
        content: bytes | None = None,
        unless: int | None = None,
        span: str = "",
        is_: int | tuple[int, ...] = 200,
        says: str = "",
    ) -> Self:
        """Read it, unless it is at a version, or a span of it as `Range` has it."""
        answer = self._get(self._version(unless), span)
        self._expect(answer, is_, says)
        if content is not None:
            right = (answer.content, answer.version) == (content, self.versions[-1])
            expect(right, f"{answer.said}, with {len(answer.content)} bytes of {answer.version}")
        return self

    def delete(self, on: int | None = None, is_: int = 204) -> Self:
        """Delete it, on a version."""
        answer = self._delete(self._version(on))
        if answer.status == 501:
            raise NotCheckedError(f"the service has no such condition ({answer.said})")
        return self._expect(answer, is_)

    def lists(self, names: Sequence[str], folders: Sequence[str] = (), **how: Any) -> Self:
        """List it, and the last object at the version of its last write."""
        found, versions, deeper, _ = self._page(**how)
        seen = ", ".join([*found, *deeper]) or "nothing"
        self._steps.append(expect((found, deeper) == (list(names), list(folders)), seen))
        expect(len(found) != 1 or versions == self.versions[-1:], "a listing is behind a write")
        return self

    def _version(self, on: int | str | None) -> str | None:
        return self.versions[on] if isinstance(on, int) else on

    def _expect(self, answer: Answer, is_: int | tuple[int, ...], says: str = "") -> Self:
        statuses = is_ if isinstance(is_, tuple) else (is_,)
        right = answer.status in statuses and says.lower() in answer.said.lower()
        self._steps.append(expect(right, answer.said))
        return self

    def _patiently(self, attempt: Any, is_passing: Any) -> Any:
        try:
            return Patience(self.patience, is_passing)(attempt)()
        except OutOfPatienceError as error:
            raise NotCheckedError(f"{error.cause}{error.lasted}") from error

    # -- as a service has it: a page is its names, versions, folders and where it goes on ----------

    _connected: Any
    _put: Any
    _get: Any
    _delete: Any
    _page: Any

    # -- what is assumed of both (assumptions.md) -------------------------------------------------

    def create_refused(self) -> str:
        return self.put().put(b"two", on=ABSENT, is_=412).get(b"one").seen

    def replace_at_version(self) -> str:
        return self.put().put(b"two", on=0).get(b"two").seen

    def replace_refused(self) -> str:
        return self.put().put(b"two").put(b"three", on=0, is_=412).get(b"two").seen

    def replace_of_absent_refused(self) -> str:
        return self.put().delete().put(b"two", on=0, is_=(404, 412)).seen

    def one_of_many_wins(self) -> str:
        start = threading.Barrier(_AT_ONCE)

        def create(number: int) -> int:
            start.wait()
            return int(self._put(b"%d" % number, on=ABSENT).status)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            statuses = sorted(pool.map(create, range(_AT_ONCE)))
        if statuses == [412] * _AT_ONCE:  # the one that won was asked again
            raise NotCheckedError("an answer was lost on its way")
        return expect(statuses == [200] + [412] * (_AT_ONCE - 1), f"{statuses}")

    def unchanged_not_sent(self) -> str:
        return self.put().get(unless=0, is_=304).seen

    def absent_object(self) -> str:
        return self.get(is_=404, says=self.absent).seen

    def part_of_content(self) -> str:
        return self.put(b"0123456789").get(b"234", span="bytes=2-4", is_=206).seen

    def part_beyond_end(self) -> str:
        return self.put(b"0123456789").get(span="bytes=10-", is_=416).seen

    def damaged_upload_refused(self) -> str:
        wrong = hashlib.md5(b"another", usedforsecurity=False).digest()
        return self.put(md5=wrong, is_=400, says=self.damaged).get(is_=404).seen

    def empty_object(self) -> str:
        return self.put(b"").get(b"").seen

    def listing_order(self) -> str:
        names = ("Z", "a", "a/b", "a0", "é", "\U0001f600")
        return self.having(*names).lists(names).seen

    def listing_pages(self) -> str:
        names, *_, after = self.having("0", "1", "2")._page(size=2)
        more, *_, end = self._page(size=2, after=after)
        return expect((names, more, end) == (["0", "1"], ["2"], ""), f"{names}, then {more}")

    def listing_folders(self) -> str:
        return self.having("d", "a/b", "a/c").lists(["d"], ["a/"], delimiter="/").seen

    def seen_at_once(self) -> str:
        self.put().lists(["object"]).put(b"two").lists(["object"])
        return self.delete().lists([]).seen

    def delete_refused(self) -> str:
        return self.put().put(b"two").delete(0, 412).get(b"two").seen

    def delete_told(self) -> str:
        return self.put().delete().delete(is_=self.deleted_twice).seen


class CloudStorage(Storage):
    """Cloud Storage's JSON API."""

    absent, damaged = "no such object", "match calculated"

    def _connected(self, root: str) -> Any:
        return gcs_client.connect()

    def _send(self, method: str, url: str, **what: Any) -> Answer:
        """Return the answer, whatever it is but a passing fault: then NotCheckedError."""

        def attempt() -> Any:
            answer = self.client._http.request(method, url, timeout=_TIMEOUT, **what)
            if answer.status_code in _PASSING or answer.status_code >= 500:
                raise from_http_response(answer)
            return answer

        answer = self._patiently(attempt, gcs_client.is_passing)
        words = "" if answer.ok else f": {gcs_client.message_of(from_http_response(answer))}"
        version = answer.headers.get("X-Goog-Generation", "")
        said = f"{answer.status_code}{words}"
        return Answer(answer.status_code, said, version, answer.content, answer)

    def ask(self, method: str, path: str = "", **what: Any) -> Answer:
        """Ask about what is at a path below the bucket's objects."""
        params = {name: value for name, value in what.pop("params", {}).items() if value}
        kind = "/upload" if "uploadType" in params else ""
        kind = "/download" if params.get("alt") == "media" else kind
        url = f"{self.client.api_endpoint}{kind}/storage/v1/b/{self.bucket}/o{path}"
        return self._send(method, url, params=params, **what)

    def _put(
        self, data: bytes, name: str = "object", on: str | None = None, md5: bytes = b""
    ) -> Answer:
        told = {"name": self.prefix + name}
        told |= {"md5Hash": base64.b64encode(md5).decode()} if md5 else {}
        content = (
            b"--part\r\ncontent-type: application/json\r\n\r\n"
            + json.dumps(told).encode()
            + b"\r\n--part\r\ncontent-type: application/octet-stream\r\n\r\n"
            + data
            + b"\r\n--part--"
        )
        headers = {"Content-Type": 'multipart/related; boundary="part"'}
        params = {"uploadType": "multipart", "ifGenerationMatch": on}
        answer = self.ask("POST", params=params, data=content, headers=headers)
        version = answer.told.json()["generation"] if answer.status == 200 else ""
        return answer._replace(version=version)

    def _object(self) -> str:
        return f"/{quote(f'{self.prefix}object', safe='')}"

    def _get(self, unless: str | None = None, span: str = "") -> Answer:
        headers = {"Range": span} if span else None
        params = {"alt": "media", "ifGenerationNotMatch": unless}
        return self.ask("GET", self._object(), params=params, headers=headers)

    def _delete(self, on: str | None) -> Answer:
        return self.ask("DELETE", self._object(), params={"ifGenerationMatch": on})

    def _page(
        self, size: int = 0, after: str = "", delimiter: str = "", glob: str = "", **how: Any
    ) -> tuple[list[str], list[str], list[str], str]:
        how |= {"maxResults": size, "pageToken": after, "delimiter": delimiter}
        how |= {"prefix": self.prefix, "matchGlob": glob and self.prefix + glob}
        answer = self.ask("GET", params=how)
        self._expect(answer, 200)
        told = answer.told.json()
        items = told.get("items", [])
        return (
            [each["name"].removeprefix(self.prefix) for each in items],
            [each["generation"] for each in items],
            [each.removeprefix(self.prefix) for each in told.get("prefixes", [])],
            told.get("nextPageToken", ""),
        )

    def _begin(self, size: int, on: str | None = None) -> Answer:
        """Begin a resumable upload."""
        told = json.dumps({"name": f"{self.prefix}object"}).encode()
        headers = {"Content-Type": "application/json", "X-Upload-Content-Length": str(size)}
        params = {"uploadType": "resumable", "ifGenerationMatch": on}
        return self.ask("POST", params=params, data=told, headers=headers)

    def _go_on(self, begun: Answer, data: bytes, start: int, end: int) -> Answer:
        """Send a chunk of one."""
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
        url = begun.told.headers["Location"]
        return self._send("PUT", url, data=data[start:end], headers=headers)

    # -- what is assumed of it alone --------------------------------------------------------------

    def absent_bucket(self) -> str:
        self.bucket += f"-{hashlib.sha256(self.prefix.encode()).hexdigest()[:8]}"
        answer = self.ask("GET", params={"prefix": self.prefix})
        if answer.status in (401, 403):
            raise NotCheckedError(f"this account may not ask for other buckets: {answer.said}")
        return self._expect(answer, 404, "bucket does not exist").seen

    def content_headers(self) -> str:
        told = self._put(b"some content").told.json()
        headers = self._get().told.headers
        named = ("X-Goog-Generation", "X-Goog-Hash", "X-Goog-Stored-Content-Length")
        version, checksum, size = found = [headers.get(name, "none") for name in named]
        right = f"crc32c={told['crc32c']}" in checksum
        return expect(right and (version, size) == (told["generation"], "12"), ", ".join(found))

    def upload_told(self) -> str:
        told = self._put(b"one").told.json()
        wanted = {"generation", "size", "md5Hash", "crc32c", "updated"}
        seen = f"it tells {', '.join(sorted(wanted & told.keys()))}"
        return expect(wanted <= told.keys() and told["size"] == "3", seen)

    def large_upload(self) -> str:
        data = bytes(_CHUNK) + b"the end"
        begun = self._begin(len(data))
        expect(begun.status == 200 and "Location" in begun.told.headers, begun.said)
        first = self._go_on(begun, data, 0, _CHUNK)
        came = f"{first.said}, Range: {first.told.headers.get('Range')}"
        expect(came == f"308, Range: bytes=0-{_CHUNK - 1}", came)
        last = self._go_on(begun, data, _CHUNK, len(data))
        whole = last.status == 200 and last.told.json()["size"] == str(len(data))
        return expect(whole, f"{begun.status}; {came}; {last.said}")

    def large_upload_refused(self) -> str:
        answer = self.put()._begin(3, ABSENT)
        if answer.status == 200:
            answer = self._go_on(answer, b"two", 0, 3)
        return self._expect(answer, 412).get(b"one").seen

    def listing_glob(self) -> str:
        return self.having("a/run", "a/b/run", "a/c").lists(["a/run"], glob="*/run").seen

    def listing_fields(self) -> str:
        told = "name,generation,size,updated,crc32c"
        how = {"prefix": self.prefix, "fields": f"kind,items({told}),nextPageToken"}
        found = self.put().ask("GET", params=how).told.json()["items"][0].keys()
        return expect(found == set(told.split(",")), ",".join(found))

    def rate_of_one_object(self) -> str:
        done: list[int] = []
        self.patience = 0.0
        for number in range(_IN_A_ROW):
            try:
                done.append(self._put(b"%d" % number).status)
            except NotCheckedError as error:
                code = getattr(getattr(error.__cause__, "cause", None), "code", None)
                if code not in _PASSING:
                    raise
                done.append(int(code))
        seen = ", ".join(f"{done.count(code)} times {code}" for code in sorted(set(done)))
        return expect(set(done) <= {200, 429}, seen)

    def time_told(self) -> str:
        told = str(self._put(b"one").told.json()["updated"])
        return expect(datetime.fromisoformat(told).utcoffset() == timedelta(0), told)


class S3(Storage):
    """Amazon's S3 protocol, by boto3's client as the bucket's own code makes it."""

    absent, damaged = "NoSuchKey", "BadDigest"
    deleted_twice = 204

    def _connected(self, root: str) -> Any:
        from kaggleops.platforms.s3 import opened

        return opened(root)

    def ask(self, operation: str, name: str | None = "object", **what: Any) -> Answer:
        """Return the answer; NotCheckedError for a passing fault that stays."""
        from botocore.exceptions import ClientError

        from kaggleops.bucket.s3_client import code_of, is_passing, status_of

        def attempt() -> Answer:
            key = None if name is None else self.prefix + name
            try:
                told = self.client.ask(operation, key, **{k: v for k, v in what.items() if v})
            except ClientError as error:
                if is_passing(error) and code_of(error) != self.damaged:
                    raise
                return Answer(status_of(error), f"{status_of(error)} {code_of(error)}")
            status = told["ResponseMetadata"]["HTTPStatusCode"]
            content = told["Body"].read() if "Body" in told else b""
            return Answer(status, f"{status}", told.get("ETag", ""), content, told)

        answer: Answer = self._patiently(attempt, is_passing)
        return answer

    def _put(
        self, data: bytes, name: str = "object", on: str | None = None, md5: bytes = b""
    ) -> Answer:
        what = {"IfNoneMatch": "*"} if on == ABSENT else {"IfMatch": on}
        what |= {"ContentMD5": base64.b64encode(md5).decode()}
        return self.ask("put_object", name, Body=data, **what)

    def _get(self, unless: str | None = None, span: str = "") -> Answer:
        return self.ask("get_object", IfNoneMatch=unless, Range=span)

    def _delete(self, on: str | None) -> Answer:
        return self.ask("delete_object", IfMatch=on)

    def _page(
        self, size: int = 0, after: str = "", delimiter: str = ""
    ) -> tuple[list[str], list[str], list[str], str]:
        how = {"MaxKeys": size, "ContinuationToken": after, "Delimiter": delimiter}
        answer = self.ask("list_objects_v2", None, Prefix=self.prefix, **how)
        self._expect(answer, 200)
        found, deeper = answer.told.get("Contents", []), answer.told.get("CommonPrefixes", [])
        return (
            [each["Key"].removeprefix(self.prefix) for each in found],
            [each["ETag"] for each in found],
            [each["Prefix"].removeprefix(self.prefix) for each in deeper],
            answer.told["NextContinuationToken"] if answer.told["IsTruncated"] else "",
        )

    def upload_in_parts(self) -> str:
        refused, done = self.put()._in_parts("object"), self._in_parts("another")
        said = f"refused: {refused.said}; done: {done.said}"
        return expect((refused.status, done.status) == (412, 200), said)

    def _in_parts(self, name: str) -> Answer:
        upload = {"UploadId": self.ask("create_multipart_upload", name).told["UploadId"]}
        parts = []
        for number, data in enumerate((bytes(_PART), b"the end"), 1):
            sent = self.ask("upload_part", name, Body=data, PartNumber=number, **upload)
            parts.append({"ETag": sent.version, "PartNumber": number})
        whole = {"MultipartUpload": {"Parts": parts}, "IfNoneMatch": "*"}
        answer = self.ask("complete_multipart_upload", name, **upload, **whole)
        if answer.status != 200:
            self.ask("abort_multipart_upload", name, **upload)
        return answer
