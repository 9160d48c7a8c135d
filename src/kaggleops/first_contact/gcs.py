"""What tests/fakes/gcs_server.py assumes of Cloud Storage's JSON API."""

import base64
import hashlib
import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from google.api_core.exceptions import from_http_response

from kaggleops.bucket.gcs_client import connect, is_passing, message_of
from kaggleops.bucket.location import name_and_prefix
from kaggleops.bucket.patience import OutOfPatienceError, Patience
from kaggleops.first_contact.assumption import Assumptions, NotCheckedError, expect
from kaggleops.first_contact.seen import one_wins

_CHUNK = 256 * 1024  # what the chunks of a resumable upload are multiples of
_PASSING = (408, 429)
_TIMEOUT = (10.0, 60.0)
_WRITES = 10  # to one object, one after the other


@dataclass(frozen=True)
class Storage:
    """A place in a bucket, asked in Cloud Storage's own words by Google's client's connection."""

    client: Any
    bucket: str
    prefix: str  # with a slash behind it
    patience: float = 30.0  # seconds for which a passing fault is tried again

    @classmethod
    def of(cls, uri: str, patience: float = 30.0) -> "Storage":
        """Return the place at a bucket's address."""
        name, prefix = name_and_prefix(uri)
        return cls(connect(), name, f"{prefix}/" if prefix else "", patience)

    def within(self, name: str) -> "Storage":
        """Return a place in it, so that no check sees another's objects."""
        return replace(self, prefix=f"{self.prefix}{name}/")

    def ask(
        self, method: str, path: str = "", *, data: bytes = b"", headers: Any = None, **params: Any
    ) -> Any:
        """Return the answer about what is at a path below the bucket's objects."""
        upload = "/upload" if "uploadType" in params or "upload_id" in params else ""
        media = "/download" if params.get("alt") == "media" else ""
        url = f"{self.client.api_endpoint}{upload}{media}/storage/v1/b/{self.bucket}/o{path}"
        return self.send(method, url, params=params, data=data, headers=headers)

    def send(self, method: str, url: str, **what: Any) -> Any:
        """Return the answer, whatever it is but a passing fault: then NotCheckedError."""

        def attempt() -> Any:
            answer = self.client._http.request(method, url, timeout=_TIMEOUT, **what)
            if answer.status_code in _PASSING or answer.status_code >= 500:
                raise from_http_response(answer)
            return answer

        try:
            return Patience(self.patience, is_passing)(attempt)()
        except OutOfPatienceError as error:
            raise NotCheckedError(f"{error.cause}{error.lasted}") from error

    def on(self, method: str, name: str = "object", **params: Any) -> Any:
        """Ask about an object."""
        return self.ask(method, f"/{quote(self.prefix + name, safe='')}", **params)

    def insert(self, data: bytes, name: str = "object", md5: str = "", **params: Any) -> Any:
        """Upload an object in one request, as the client does."""
        told = {"name": self.prefix + name} | ({"md5Hash": md5} if md5 else {})
        content = (
            b"--part\r\ncontent-type: application/json\r\n\r\n"
            + json.dumps(told).encode()
            + b"\r\n--part\r\ncontent-type: application/octet-stream\r\n\r\n"
            + data
            + b"\r\n--part--"
        )
        headers = {"Content-Type": 'multipart/related; boundary="part"'}
        return self.ask("POST", data=content, headers=headers, uploadType="multipart", **params)

    def made(self, data: bytes = b"one", name: str = "object") -> dict[str, Any]:
        """Upload an object and return what is told of it."""
        return resource(self.insert(data, name))

    def begin(self, size: int, **params: Any) -> Any:
        """Begin a resumable upload."""
        told = json.dumps({"name": f"{self.prefix}object"}).encode()
        headers = {"Content-Type": "application/json", "X-Upload-Content-Length": str(size)}
        return self.ask("POST", data=told, headers=headers, uploadType="resumable", **params)

    def listed(self, **params: Any) -> dict[str, Any]:
        """Return a page of a listing."""
        return resource(self.ask("GET", prefix=self.prefix, **params))


GCS: Assumptions[Storage] = Assumptions()


def resource(answer: Any) -> dict[str, Any]:
    """Return what a good answer tells."""
    expect(answer.status_code == 200, _said(answer))
    told: dict[str, Any] = answer.json()
    return told


def _said(answer: Any) -> str:
    status = f"{answer.status_code}"
    return f"{status}: {message_of(from_http_response(answer))}" if not answer.ok else status


def _refused(answer: Any, status: int, words: str = "") -> str:
    said = _said(answer)
    return expect(answer.status_code == status and words.lower() in said.lower(), said)


def _content(at: Storage, expected: bytes) -> None:
    found = at.on("GET", alt="media")
    expect(found.status_code == 200 and found.content == expected, "the object has changed")


@GCS.otherwise("two runs that begin at once overwrite each other")
def create_refused(at: Storage) -> str:
    """Creating an object that is there (`ifGenerationMatch=0`) is a 412 and changes nothing."""
    at.made()
    said = _refused(at.insert(b"two", ifGenerationMatch="0"), 412)
    _content(at, b"one")
    return said


@GCS.otherwise("nothing can be changed, or what another machine wrote is overwritten")
def replace_at_generation(at: Storage) -> str:
    """Replacing the generation that is there works, and its new generation is a larger number."""
    first = at.made()["generation"]
    second = resource(at.insert(b"two", ifGenerationMatch=first))["generation"]
    return expect(int(second) > int(first), f"after {first} comes {second}")


@GCS.otherwise("what another machine wrote meanwhile is lost")
def replace_refused(at: Storage) -> str:
    """Replacing a generation that is not there any more is a 412 and changes nothing."""
    old = at.made()["generation"]
    at.made(b"two")
    said = _refused(at.insert(b"three", ifGenerationMatch=old), 412)
    _content(at, b"two")
    return said


@GCS.otherwise("a run that somebody deleted comes back")
def replace_of_absent_refused(at: Storage) -> str:
    """Replacing a generation of an object that is not there is a 412 (or a 404)."""
    answer = at.insert(b"one", ifGenerationMatch="5")
    expect(answer.status_code in (404, 412), _said(answer))
    return _said(answer)


@GCS.otherwise("of several machines that write at once, one's data is lost without a word")
def one_of_many_wins(at: Storage) -> str:
    """Of eight creations at once one succeeds; the others are 412."""
    return one_wins(lambda each: at.insert(b"%d" % each, ifGenerationMatch="0").status_code)


@GCS.otherwise("every look at a run that has not changed downloads it anew")
def unchanged_not_sent(at: Storage) -> str:
    """Reading with `ifGenerationNotMatch` of the generation that is there is a 304."""
    generation = at.made()["generation"]
    answer = at.on("GET", alt="media", ifGenerationNotMatch=generation)
    return expect(answer.status_code == 304, _said(answer))


@GCS.otherwise("an object that is missing is taken for a bucket that is, at one request more")
def absent_object(at: Storage) -> str:
    """An object that is not there is a 404 with the words "No such object"."""
    return _refused(at.on("GET", alt="media"), 404, "no such object")


@GCS.otherwise("a mistyped bucket is told in other words, at one request more")
def absent_bucket(at: Storage) -> str:
    """A bucket that is not there is a 404 with the words "bucket does not exist"."""
    nowhere = replace(
        at, bucket=f"{at.bucket}-{hashlib.sha256(at.prefix.encode()).hexdigest()[:8]}"
    )
    answer = nowhere.ask("GET", prefix=at.prefix)
    if answer.status_code in (401, 403):
        raise NotCheckedError(f"this account may not ask for other buckets: {_said(answer)}")
    return _refused(answer, 404, "bucket does not exist")


@GCS.otherwise("what is read has no version and no checksum, and cannot be written again")
def content_headers(at: Storage) -> str:
    """A content comes with X-Goog-Generation, -Hash (crc32c) and -Stored-Content-Length."""
    told = at.made(b"some content")
    headers = at.on("GET", alt="media").headers
    named = ("X-Goog-Generation", "X-Goog-Hash", "X-Goog-Stored-Content-Length")
    seen = ", ".join(f"{name}: {headers.get(name)}" for name in named)
    good = headers.get(named[0]) == told["generation"] and headers.get(named[2]) == "12"
    return expect(good and f"crc32c={told['crc32c']}" in headers.get(named[1], ""), seen)


@GCS.otherwise("a download that broke off begins anew, and large files never arrive")
def part_of_content(at: Storage) -> str:
    """`Range: bytes=2-4` brings three bytes with a 206, and the whole object's generation."""
    told = at.made(b"0123456789")
    name = quote(f"{at.prefix}object", safe="")
    answer = at.ask("GET", f"/{name}", headers={"Range": "bytes=2-4"}, alt="media")
    seen = f"{answer.status_code}, {len(answer.content)} bytes"
    good = (answer.status_code, answer.content) == (206, b"234")
    return expect(good and answer.headers["X-Goog-Generation"] == told["generation"], seen)


@GCS.otherwise("a download that ends just at the object's end is taken for a failure")
def part_beyond_end(at: Storage) -> str:
    """A `Range` that begins behind the object's end is a 416."""
    at.made(b"0123456789")
    name = quote(f"{at.prefix}object", safe="")
    answer = at.ask("GET", f"/{name}", headers={"Range": "bytes=10-"}, alt="media")
    return expect(answer.status_code == 416, _said(answer))


@GCS.otherwise("an upload that was damaged on its way is kept as it arrived")
def damaged_upload_refused(at: Storage) -> str:
    """Content that lacks the MD5 it names is a 400 with "match calculated"; nothing is written."""
    wrong = base64.b64encode(hashlib.md5(b"another", usedforsecurity=False).digest()).decode()
    said = _refused(at.insert(b"one", md5=wrong), 400, "match calculated")
    expect(at.on("GET").status_code == 404, "it is refused, and there all the same")
    return said


@GCS.otherwise("a repeated upload cannot be told from a conflict")
def upload_told(at: Storage) -> str:
    """An upload's answer tells generation, size, md5Hash, crc32c and updated."""
    told = at.made(b"one")
    wanted = {"generation", "size", "md5Hash", "crc32c", "updated"}
    md5 = base64.b64encode(hashlib.md5(b"one", usedforsecurity=False).digest()).decode()
    seen = f"it tells {', '.join(sorted(wanted & told.keys()))}"
    return expect(wanted <= told.keys() and (told["size"], told["md5Hash"]) == ("3", md5), seen)


@GCS.otherwise("an empty file is taken for one that is missing")
def empty_object(at: Storage) -> str:
    """An object without content is kept, with a size of 0."""
    told = at.made(b"")
    found = at.on("GET", alt="media")
    seen = f"size {told.get('size', 'not told')}, then {_said(found)}"
    return expect(told.get("size", "0") == "0" and found.status_code == 200, seen)


@GCS.otherwise("files of more than 8 MB cannot be uploaded")
def large_upload(at: Storage) -> str:
    """An upload in chunks: 200 with a Location, 308 with the Range that came, then 200."""
    data = bytes(_CHUNK) + b"the end"
    begun = at.begin(len(data))
    expect(begun.status_code == 200 and "Location" in begun.headers, _said(begun))
    answers = [_put(at, begun, data, 0, _CHUNK), _put(at, begun, data, _CHUNK, len(data))]
    first, last = answers
    came = first.headers.get("Range")
    seen = f"{begun.status_code}, {first.status_code} (Range: {came}), {last.status_code}"
    expect(first.status_code == 308 and came == f"bytes=0-{_CHUNK - 1}", seen)
    return expect(last.status_code == 200 and last.json()["size"] == str(len(data)), seen)


@GCS.otherwise("a large file of another machine is overwritten")
def large_upload_refused(at: Storage) -> str:
    """An upload in chunks of an object that is there is a 412, at its beginning or its end."""
    at.made()
    answer = at.begin(3, ifGenerationMatch="0")
    when = "at its beginning"
    if answer.status_code == 200:
        answer, when = _put(at, answer, b"two", 0, 3), "at its end"
    said = f"{when}, {_refused(answer, 412)}"
    _content(at, b"one")
    return said


def _put(at: Storage, begun: Any, data: bytes, start: int, end: int) -> Any:
    headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
    return at.send("PUT", begun.headers["Location"], data=data[start:end], headers=headers)


@GCS.otherwise("runs are missing from listings, or come twice")
def listing_order(at: Storage) -> str:
    """A listing is in the order of the names' UTF-8 bytes."""
    names = ["Z", "a", "a/b", "a0", "é", "\U0001f600"]
    for name in reversed(names):
        at.made(name=name)
    found = [each["name"].removeprefix(at.prefix) for each in at.listed()["items"]]
    return expect(found == names, ", ".join(found))


@GCS.otherwise("of more than 1,000 runs only the first are seen")
def listing_pages(at: Storage) -> str:
    """A listing comes in pages of `maxResults`; `nextPageToken` leads to the next, if any."""
    for number in range(3):
        at.made(name=f"{number}")
    first = at.listed(maxResults="2")
    second = at.listed(maxResults="2", pageToken=first.get("nextPageToken", ""))
    sizes = [len(each["items"]) for each in (first, second)]
    return expect(sizes == [2, 1] and "nextPageToken" not in second, f"pages of {sizes}")


@GCS.otherwise("listing the runs of a bucket lists every file of theirs, too")
def listing_folders(at: Storage) -> str:
    """With `delimiter=/`, what lies deeper is only told as a prefix."""
    for name in ("top", "folder/deep", "folder/deeper"):
        at.made(name=name)
    page = at.listed(delimiter="/")
    items = [each["name"].removeprefix(at.prefix) for each in page["items"]]
    prefixes = [each.removeprefix(at.prefix) for each in page.get("prefixes", [])]
    return expect((items, prefixes) == (["top"], ["folder/"]), f"{items}, then {prefixes}")


@GCS.otherwise("a run of a known id cannot be found without listing all")
def listing_glob(at: Storage) -> str:
    """`matchGlob` with `*` stops at a slash."""
    for name in ("a/run", "a/b/run", "a/other"):
        at.made(name=name)
    page = at.listed(matchGlob=f"{at.prefix}*/run")
    found = [each["name"].removeprefix(at.prefix) for each in page.get("items", [])]
    return expect(found == ["a/run"], ", ".join(found) or "nothing is listed")


@GCS.otherwise("listings are several times as large, or lack what is needed")
def listing_fields(at: Storage) -> str:
    """`fields` leaves just name, generation, size, updated and crc32c of each object."""
    at.made()
    told = "name,generation,size,updated,crc32c"
    page = at.listed(fields=f"kind,items({told}),nextPageToken")
    found = ",".join(sorted(page["items"][0]))
    return expect(found == ",".join(sorted(told.split(","))), found)


@GCS.otherwise("a change that was announced is not found, and runs look older than they are")
def seen_at_once(at: Storage) -> str:
    """What was written, replaced or deleted is so in the next listing."""
    generations = []
    for content in (b"one", b"two"):
        told = at.made(content)
        page = at.listed()
        generations += [each["generation"] for each in page.get("items", [])]
        expect(generations[-1:] == [told["generation"]], "a listing is behind a write")
    at.on("DELETE")
    return expect(not at.listed().get("items"), "the listing lacks it once it is deleted")


@GCS.otherwise("what somebody has just written is deleted")
def delete_refused(at: Storage) -> str:
    """Deleting a generation that is not there any more is a 412."""
    old = at.made()["generation"]
    at.made(b"two")
    said = _refused(at.on("DELETE", ifGenerationMatch=old), 412)
    _content(at, b"two")
    return said


@GCS.otherwise("deleting is told as a failure")
def delete_told(at: Storage) -> str:
    """Deleting is a 204 without content; once more, a 404."""
    at.made()
    first, again = at.on("DELETE"), at.on("DELETE")
    seen = f"{first.status_code}, then {again.status_code}"
    return expect((first.status_code, first.content, again.status_code) == (204, b"", 404), seen)


@GCS.otherwise("a run's heartbeats and the change log fail instead of waiting")
def rate_of_one_object(at: Storage) -> str:
    """Ten writes of one object in a row are done, or refused with 429 (which is tried again)."""
    done: list[int] = []
    impatient = replace(at, patience=0.0)
    for number in range(_WRITES):
        try:
            done.append(impatient.insert(b"%d" % number).status_code)
        except NotCheckedError as error:
            code = getattr(getattr(error.__cause__, "cause", None), "code", None)
            if code not in _PASSING:
                raise
            done.append(int(code))
    seen = ", ".join(f"{done.count(code)} times {code}" for code in sorted(set(done)))
    return expect(set(done) <= {200, 429}, seen)


@GCS.otherwise("live runs are taken for lost ones, and lost ones for live")
def time_told(at: Storage) -> str:
    """`updated` is the time of the write in RFC 3339, in UTC."""
    told = str(at.made()["updated"])
    return expect(datetime.fromisoformat(told).utcoffset() == timedelta(0), told)
