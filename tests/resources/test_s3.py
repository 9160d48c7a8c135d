"""What is special about objects of S3: their checksums, which no listing tells."""

import hashlib
import json
from pathlib import Path
from typing import Any

import boto3
import pytest

from kaggleops.bucket import ABSENT, AccessDeniedError, open_bucket
from kaggleops.bucket.checksums import checksum_of
from kaggleops.resources.files import DamagedError
from kaggleops.resources.lock import read_lock
from kaggleops.resources.manifest import Manifest
from kaggleops.resources.origins import ChangedError
from kaggleops.resources.sync import compare, fetch, lock
from tests.fakes.s3_server import S3Server

from .conftest import Project

PART = 5 << 20  # the smallest that S3 takes, but for the last
LARGE = bytes(range(256)) * (PART // 256) + b"the end"


class Theirs:
    """Somebody's bucket, filled with other tools than ours."""

    def __init__(self, server: S3Server) -> None:
        server.create_bucket("theirs")
        self.server = server
        self.source = server.address("theirs", "set")
        self.client: Any = boto3.client("s3", endpoint_url=server.url, region_name="us-east-1")

    def put(self, name: str, data: bytes, **fields: Any) -> str:
        made = self.client.put_object(Bucket="theirs", Key=f"set/{name}", Body=data, **fields)
        return str(made["ETag"]).strip('"')

    def put_in_parts(self, name: str, data: bytes, **fields: Any) -> str:
        """Upload a file as the AWS command does, and return its ETag."""
        of = {"Bucket": "theirs", "Key": f"set/{name}"}
        upload = {**of, "UploadId": self.client.create_multipart_upload(**of, **fields)["UploadId"]}
        parts = []
        for number, at in enumerate(range(0, len(data), PART), 1):
            sent = self.client.upload_part(**upload, PartNumber=number, Body=data[at : at + PART])
            parts.append({"PartNumber": number, "ETag": sent["ETag"]})
        made = self.client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        return str(made["ETag"]).strip('"')


@pytest.fixture
def theirs(s3_server: S3Server) -> Theirs:
    return Theirs(s3_server)


@pytest.fixture
def manifest(theirs: Theirs, project: Project) -> Manifest:
    return project.declare(theirs={"source": theirs.source})


def test_what_is_locked_is_the_etag_and_a_checksum_of_the_content(
    theirs: Theirs, project: Project, manifest: Manifest
) -> None:
    plain = theirs.put("plain", b"content")
    parts = theirs.put_in_parts("parts", LARGE)
    by_rclone = theirs.put_in_parts("rclone", LARGE, Metadata={"md5chksum": _base64_md5(LARGE)})
    with_a_key = theirs.put("key", b"content", ServerSideEncryption="aws:kms")
    lock(manifest)
    files = {file.name: file for file in read_lock(manifest)["theirs"].files}
    md5 = hashlib.md5(LARGE).hexdigest()
    assert {name: (file.version, file.checksum) for name, file in files.items()} == {
        "plain": (plain, f"md5:{plain}"),
        "parts": (parts, f"etag-{PART}:{parts}"),
        "rclone": (by_rclone, f"md5:{md5}"),
        "key": (with_a_key, files["key"].checksum),
    }
    assert files["key"].checksum.startswith("crc32c:")  # it came, for nothing else tells it
    assert project.files() == {"theirs/key": b"content"}
    fetch(manifest)
    assert project.files("data/theirs") == {
        "plain": b"content",
        "parts": LARGE,
        "rclone": LARGE,
        "key": b"content",
    }
    assert fetch(manifest).steps == []


def _base64_md5(data: bytes) -> str:
    import base64

    return base64.b64encode(hashlib.md5(data).digest()).decode()


def test_what_has_not_changed_is_not_looked_at_again(theirs: Theirs, manifest: Manifest) -> None:
    for number in range(5):
        theirs.put(str(number), b"%d" % number)
    lock(manifest)
    theirs.put("3", b"new")
    theirs.server.reset_counts()
    lock(manifest)
    assert (theirs.server.count("A"), theirs.server.count("B")) == (1, 1)
    assert all(each.right or each.disk for each in compare(manifest))
    theirs.server.reset_counts()
    assert compare(manifest)[0].source == {}
    assert (theirs.server.count("A"), theirs.server.count("B")) == (1, 0)


def test_the_same_bytes_in_other_parts_are_the_same(theirs: Theirs, manifest: Manifest) -> None:
    theirs.put("large", LARGE)
    lock(manifest)
    theirs.put_in_parts("large", LARGE, Metadata={"md5chksum": _base64_md5(LARGE)})
    assert compare(manifest)[0].source == {}
    fetch(manifest)
    theirs.put_in_parts("large", LARGE)  # nothing tells that it is
    assert compare(manifest)[0].source == {"changed": ["large"]}


def test_what_is_replaced_on_the_way_is_not_mixed(
    theirs: Theirs, project: Project, manifest: Manifest
) -> None:
    theirs.put("large", LARGE)
    lock(manifest)
    other = b"other" * (len(LARGE) // 5)

    def replace() -> None:
        theirs.server.put("theirs", "set/large", other)

    theirs.server.fail("truncate", op="GetObject", then=replace)
    with pytest.raises(ChangedError, match=r"large: it has changed at the source"):
        fetch(manifest)
    assert "theirs/large" not in project.files()
    theirs.put("large", LARGE)
    came: list[int] = []
    theirs.server.reset_counts()
    fetch(manifest, progress=came.append)  # goes on behind what has come
    assert (project.folder / "data/theirs/large").read_bytes() == LARGE
    assert came[0] > 0
    assert sum(came) == len(LARGE)
    assert [each.status for each in theirs.server.requests] == [206]


def test_a_large_file_comes_in_as_many_requests_as_it_takes(
    theirs: Theirs, project: Project, manifest: Manifest
) -> None:
    theirs.put_in_parts("large", LARGE)
    lock(manifest)
    theirs.server.reset_counts()
    theirs.server.fail("truncate", op="GetObject", times=3)
    fetch(manifest)
    assert (project.folder / "data/theirs/large").read_bytes() == LARGE
    assert [each.status for each in theirs.server.requests] == [200, 206, 206, 206]


@pytest.mark.parametrize("is_large", [False, True])
def test_a_wrong_checksum_in_the_lock_is_named(
    theirs: Theirs, project: Project, manifest: Manifest, is_large: bool
) -> None:
    etag = theirs.put_in_parts("x", LARGE) if is_large else theirs.put("x", b"content")
    lock(manifest)
    locked = json.loads(project.lock.read_text())
    entry = locked["theirs"]["files"]["x"]
    entry["checksum"] = entry["checksum"].replace(etag, "0" * 32)
    project.lock.write_text(json.dumps(locked))
    with pytest.raises(DamagedError, match=r"x: its checksum is (md5|etag-\d+):.* instead of \1:0"):
        fetch(manifest)
    assert project.files() == {}


def test_a_lock_with_checksums_of_cloud_storage_holds(
    theirs: Theirs, project: Project, manifest: Manifest, tmp_path: Path
) -> None:
    etag = theirs.put("x", b"content")
    (tmp_path / "x").write_bytes(b"content")
    file = {"size": 7, "version": etag, "checksum": checksum_of(tmp_path / "x", "crc32c")}
    asked = {"source": theirs.source}
    project.lock.write_text(json.dumps({"theirs": {"asked": asked, "files": {"x": file}}}))
    assert fetch(manifest).size == 7
    assert compare(manifest)[0].right


@pytest.mark.parametrize("key", ["", "of-another-service"])
def test_a_public_bucket_is_read_without_a_key_for_it(
    theirs: Theirs, project: Project, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    theirs.put("x", b"content")
    theirs.server.create_bucket("private")
    theirs.server.add_key("their-key", "their-word")
    theirs.server.publish("theirs")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    if not key:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    manifest = project.declare(
        theirs={"source": theirs.source}, private={"source": theirs.server.address("private", "x")}
    )
    fetch(manifest, ["theirs"])
    assert project.files() == {"theirs/x": b"content"}
    said = "the access key was refused" if key else "no access key was found"
    with pytest.raises(AccessDeniedError, match=said):
        fetch(manifest, ["private"])
    with pytest.raises(AccessDeniedError, match=said):
        open_bucket(theirs.source).write("y", b"", expected=ABSENT)
