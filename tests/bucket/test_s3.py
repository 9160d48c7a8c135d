"""What is special about s3://: the proof of a service, and faults on the way there."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import boto3
import pytest

from kaggleops.bucket import (
    ABSENT,
    AccessDeniedError,
    Bucket,
    BucketError,
    BucketNotFoundError,
    BucketUnavailableError,
    ConflictError,
    conditions,
    open_bucket,
)
from kaggleops.bucket.conditions import UnsafeServiceError
from kaggleops.bucket.s3 import S3Bucket
from kaggleops.bucket.s3_client import Endpoint, connect
from kaggleops.errors import UsageError
from tests.bucket.uses import USES, impatient, large
from tests.fakes.object_server import Request
from tests.fakes.s3_server import S3Server
from tests.fakes.wire import Response

LARGE = large("s3:")
ANSWER = ".kaggleops/conditions.json"


@pytest.fixture
def server(s3_server: S3Server) -> S3Server:
    s3_server.proven = [""]
    s3_server.create_bucket("ours")
    s3_server.put("ours", "k", b"content")
    open_bucket(s3_server.address("ours"), patience=5).write("first", b"", expected=ABSENT)
    s3_server.reset_counts()
    return s3_server


@pytest.fixture
def bucket(server: S3Server) -> Bucket:
    return open_bucket(server.address("ours"), patience=5)


# -- proof before trust -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ignores", "what"),
    [
        ({"write"}, "of 8 writes at once on one version, 8 were done"),
        ({"at once"}, r"of 8 writes at once on one version, \d were done"),
    ],
)
def test_a_service_that_ignores_conditions_is_refused_by_name(
    s3_server: S3Server, ignores: set[str], what: str
) -> None:
    s3_server.create_bucket("ours")
    s3_server.ignores_conditions = ignores
    bucket = open_bucket(s3_server.address("ours"), patience=5)
    host = s3_server.url.removeprefix("http://")
    says = f"trying whether {host} honours conditional writes: it does not: {what}"
    for _ in range(2):
        with pytest.raises(UnsafeServiceError, match=says):
            bucket.write("k", b"content", expected=ABSENT)
    assert s3_server.objects("ours") == {}
    s3_server.ignores_conditions = ()  # it has learnt it: nothing was kept against it
    bucket.write("k", b"content", expected=ABSENT)


def test_a_service_that_knows_no_conditions_is_refused_at_once(s3_server: S3Server) -> None:
    s3_server.create_bucket("ours")
    message = "NotImplemented: A header you provided implies functionality that is not implemented"
    s3_server.fail(501, times=None, message=message, op="PutObject")
    bucket = open_bucket(s3_server.address("ours"), patience=60)
    with pytest.raises(UnsafeServiceError, match=r"does not know what is asked of it .A head"):
        bucket.write("k", b"content", expected=ABSENT)
    assert [logged.op for logged in s3_server.requests].count("PutObject") <= 8


def test_what_was_proven_is_kept_in_the_bucket(s3_server: S3Server, tmp_path: Path) -> None:
    s3_server.create_bucket("ours")
    address = s3_server.address("ours", "some/prefix")
    open_bucket(address).write("k", b"content", expected=ABSENT)
    kept = json.loads(s3_server.objects("ours")[f"some/prefix/{ANSWER}"].data)
    assert kept.pop("proven").endswith("Z")
    host = s3_server.url.removeprefix("http://")
    held = {"endpoint": host, "bucket": "ours", "multipart": True, "delete": True, "quotes": True}
    assert kept == held
    assert set(s3_server.objects("ours")) == {"some/prefix/k", f"some/prefix/{ANSWER}"}
    assert [entry.key for entry in open_bucket(address).list()] == ["k"]
    s3_server.reset_counts()
    write = f"open_bucket({address!r}).write('other', b'', expected='0')"
    (tmp_path / "write.py").write_text(f"from kaggleops.bucket import open_bucket\n{write}\n")
    subprocess.run([sys.executable, tmp_path / "write.py"], check=True)
    assert [logged.op for logged in s3_server.requests] == ["GetObject", "PutObject"]


@pytest.mark.parametrize(
    "kept",
    [b"{}", b"[]", b"no JSON", b'{"endpoint": "s3.example.com"}', b"[" * 9999, bytes(1 << 17)],
)
def test_what_another_service_has_proven_counts_for_nothing(
    s3_server: S3Server, kept: bytes
) -> None:
    s3_server.create_bucket("ours")
    s3_server.put("ours", ANSWER, kept)
    s3_server.ignores_conditions = {"write"}
    with pytest.raises(UnsafeServiceError):
        open_bucket(s3_server.address("ours")).write("k", b"", expected=ABSENT)


def test_what_a_later_release_has_proven_counts(s3_server: S3Server) -> None:
    s3_server.proven = [""]
    s3_server.create_bucket("ours")
    kept = json.loads(s3_server.objects("ours")[ANSWER].data) | {"copy": {"source": True}}
    s3_server.put("ours", ANSWER, json.dumps(kept).encode())
    open_bucket(s3_server.address("ours")).write("k", b"", expected=ABSENT)
    assert [logged.op for logged in s3_server.requests] == ["GetObject", "PutObject"]


def test_what_is_proven_no_more_is_kept_no_longer(s3_server: S3Server) -> None:
    s3_server.proven = [""]
    s3_server.create_bucket("ours")
    bucket = open_bucket(s3_server.address("ours"))
    bucket.write("k", b"one", expected=ABSENT)
    s3_server.ignores_conditions = {"write"}
    assert isinstance(bucket, S3Bucket)
    with pytest.raises(UnsafeServiceError):
        conditions.prove(bucket)  # as doctor does
    assert set(s3_server.objects("ours")) == {"k"}
    with pytest.raises(UnsafeServiceError):
        open_bucket(s3_server.address("ours")).write("k", b"two", expected=ABSENT)
    assert s3_server.objects("ours")["k"].data == b"one"


@pytest.mark.parametrize("op", ["CompleteMultipartUpload", "DeleteObject"])
def test_a_fault_that_passes_proves_nothing(s3_server: S3Server, op: str) -> None:
    s3_server.create_bucket("ours")
    s3_server.fail(503, times=None, op=op)
    with pytest.raises(BucketUnavailableError):
        impatient(s3_server).write("k", b"", expected=ABSENT)
    assert not {ANSWER, "k"} & set(s3_server.objects("ours"))
    s3_server.heal()
    open_bucket(s3_server.address("ours"), patience=5).write("k", b"", expected=ABSENT)
    kept = json.loads(s3_server.objects("ours")[ANSWER].data)
    assert (kept["multipart"], kept["delete"]) == (True, True)


def test_a_service_that_keeps_only_the_conditions_of_plain_writes(s3_server: S3Server) -> None:
    s3_server.create_bucket("ours")
    s3_server.ignores_conditions = {"multipart", "delete"}
    bucket = open_bucket(s3_server.address("ours"), patience=5)
    first = bucket.write("large", bytes(LARGE), expected=ABSENT)
    with pytest.raises(ConflictError):
        bucket.write("large", bytes(LARGE + 1), expected=ABSENT)
    bucket.write("k", b"one", expected=ABSENT)
    with pytest.raises(ConflictError):
        bucket.delete("k", expected=first)
    assert bucket.read("k") is not None
    kept = json.loads(s3_server.objects("ours")[ANSWER].data)
    assert (kept["multipart"], kept["delete"]) == (False, False)


def test_a_service_that_knows_no_etag_in_quotes(s3_server: S3Server) -> None:
    s3_server.create_bucket("ours")
    s3_server.unquoted = True
    first = open_bucket(s3_server.address("ours"), patience=5)
    version = first.write("k", b"one", expected=ABSENT)
    conditions._known.clear()  # another process reads what this one has found out
    other = open_bucket(s3_server.address("ours"), patience=5)
    second = other.write("k", b"two", expected=version)
    with pytest.raises(ConflictError):
        first.delete("k", expected=version)
    with pytest.raises(ConflictError):
        other.write("k", bytes(LARGE), expected=version)
    first.delete("k", expected=second)
    assert json.loads(s3_server.objects("ours")[ANSWER].data)["quotes"] is False
    assert sum(logged.status == 412 for logged in s3_server.requests) < 30


def test_whoever_only_reads_proves_nothing(server: S3Server, bucket: Bucket) -> None:
    bucket.read("k")
    list(bucket.list())
    assert [logged.op for logged in server.requests] == ["GetObject", "ListObjectsV2"]


# -- faults of this protocol's own; test_faults.py has the others ---------------------------------


def test_a_conflict_at_the_end_of_an_upload_in_parts_begins_it_anew(
    server: S3Server, bucket: Bucket
) -> None:
    server.fail(409, op="CompleteMultipartUpload")
    bucket.write("new", bytes(LARGE), expected=ABSENT)
    ops = [logged.op for logged in server.requests]
    assert ops.count("CreateMultipartUpload") == 2
    assert not server.uploads("ours")


def test_a_part_that_is_slow_does_not_hold_up_the_others(server: S3Server) -> None:
    bucket, content = impatient(server, 60), os.urandom((4 << 24) + 1)
    last_came = Event()

    def is_first(request: Request) -> bool:
        if request.query["partNumber"] == "5":
            last_came.set()
        return request.query["partNumber"] == "1"

    slow = server.fail("late", op="UploadPart", times=None, where=is_first)
    with ThreadPoolExecutor(1) as other:
        writing = other.submit(bucket.write, "new", content, expected=ABSENT)
        came = last_came.wait(30)
        slow.release()
        writing.result()
    assert came
    assert server.objects("ours")["new"].data == content


def test_an_etag_that_looks_like_an_md5_and_is_none(server: S3Server, tmp_path: Path) -> None:
    server.opaque = True
    bucket = impatient(server, 20)
    version = bucket.write("new", b"one", expected=ABSENT)
    server.fail("lost-response", op="PutObject")
    version = bucket.write("new", b"two", expected=version)
    assert bucket.read("new", unless=version) is None
    bucket.fetch("new", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"two"
    there = bucket.stat("new", checksum=True)
    assert there is not None
    assert there.checksum == ""  # one of two: only the content tells which
    server.fail("corrupt", op="GetObject", times=None)
    with pytest.raises(BucketUnavailableError, match="damaged"):
        impatient(server, 1).read("new")


@pytest.mark.parametrize("goes_on", ["", "<NextContinuationToken>1</NextContinuationToken>"])
def test_a_listing_that_comes_to_no_end(server: S3Server, bucket: Bucket, goes_on: str) -> None:
    page = f"<ListBucketResult><IsTruncated>true</IsTruncated>{goes_on}</ListBucketResult>"
    server.fail("page", times=None)  # moto would not know what was asked
    change(server, lambda answer: Response(200, [("Content-Type", "text/xml")], page.encode()))
    with pytest.raises(BucketError, match="says that the list goes on, but not where"):
        list(bucket.list())


def test_a_listing_that_says_too_little(server: S3Server) -> None:
    page = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>k</Key></Contents>"
    change(server, lambda answer: Response(200, [], f"{page}</ListBucketResult>".encode()))
    with pytest.raises(BucketUnavailableError, match="a list that says too little"):
        list(impatient(server).list())


def change(server: S3Server, change: Callable[[Response], Response]) -> None:
    assert server._http
    server._http.change = lambda request, answer: change(answer)


def test_somebody_elses_object_in_parts_is_verified_as_well(
    server: S3Server, tmp_path: Path
) -> None:
    content = os.urandom(11 << 20)
    client = boto3.client("s3", endpoint_url=server.url, region_name="us-east-1")
    (tmp_path / "theirs").write_bytes(content)
    client.upload_file(str(tmp_path / "theirs"), "ours", "theirs")
    bucket = impatient(server, 20)
    told = bucket.stat("theirs", checksum=True)
    assert told is not None
    assert told.checksum == f"etag-{8 << 20}:{told.version}"
    server.fail("corrupt", op="GetObject", times=1)
    bucket.fetch("theirs", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content


# -- what does not pass -------------------------------------------------------------------------


def test_refusals_say_what_to_do(
    server: S3Server, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = open_bucket(server.address("other-bucket"), patience=1)
    for use in ("read", "write", "stat", "list"):
        with pytest.raises(BucketNotFoundError, match="bucket other-bucket does not exist on 127"):
            USES[use](absent)
    server.deny("ours", write=True)
    with pytest.raises(
        AccessDeniedError,
        match=r"Access Denied. Check the name. Ask the owner of s3\+http://ours@",
    ):
        bucket.write("k2", b"", expected=ABSENT)
    server.add_key("another-key", "another-word")
    with pytest.raises(AccessDeniedError, match=r"the access key was refused .The AWS Acc"):
        bucket.read("k")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(AccessDeniedError, match=r"no access key was found\. Set AWS_ACC"):
        bucket.read("k")
    monkeypatch.setenv("AWS_PROFILE", "nobodys")
    with pytest.raises(AccessDeniedError, match="the access key cannot be used: The config"):
        bucket.read("k")


@pytest.mark.parametrize("use", ["read", "stat", "list", "write"])
def test_the_region_is_said_in_which_a_bucket_lies(
    server: S3Server, bucket: Bucket, use: str
) -> None:
    told = [("x-amz-request-id", "1"), ("x-amz-bucket-region", "eu-west-1")]
    told.append(("Content-Type", "application/xml"))
    change(server, lambda answer: Response(301, told))
    with pytest.raises(
        UsageError, match=r"lies in the region eu-west-1\. Set AWS_REGION=eu-west-1"
    ):
        USES[use](bucket)


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"])
def test_a_key_that_no_request_can_carry_is_said_at_once_and_not_repeated(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "word-nobody\nknows")
    with pytest.raises(AccessDeniedError, match="has a character that no request") as raised:
        open_bucket(server.address("ours"), patience=60).read("k")
    assert "nobody" not in str(raised.value)


def test_a_key_that_is_written_anew_is_used(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    bucket = impatient(server)
    for name in ("first", "second"):
        server.add_key(name, f"{name}-word", "ours")
        key = f"aws_access_key_id = {name}\naws_secret_access_key = {name}-word\n"
        Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"]).write_text(f"[default]\n{key}")
        assert bucket.read("k") is not None
        server.add_key(name, "no more")


def test_a_bucket_that_is_public_no_more_is_read_with_a_key(
    server: S3Server, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add_key("known", "known-word", "ours")
    server.publish("ours")
    assert bucket.read("k") is not None
    server._public.clear()
    with pytest.raises(AccessDeniedError, match="the access key was refused"):
        bucket.read("k")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "known")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "known-word")
    assert bucket.read("k") is not None


def test_threads_that_begin_together_share_one_client(s3_server: S3Server) -> None:
    # One takes 13 MB, and a tenth of a second to make.
    endpoint, together = Endpoint("http", s3_server.url.removeprefix("http://")), Barrier(32)

    def connected(_: int) -> Any:
        together.wait()
        return connect(endpoint, (1, 1))

    with ThreadPoolExecutor(32) as threads:
        clients = list(threads.map(connected, range(32)))
    assert len({id(client) for client in clients}) == 1


def test_only_versions_of_what_is_named_are_deleted(s3_server: S3Server) -> None:
    s3_server.create_bucket("ours", versioned=True)
    for key in ("a", "ab", "a/b", "f/x", "fx"):
        s3_server.put("ours", key, b"")
    (command,) = open_bucket(s3_server.address("ours")).old_versions(["a", "f/"])
    subprocess.run(command, shell=True, check=True)
    left = [key for key in ("a", "ab", "a/b", "f/x", "fx") if s3_server.versions("ours", key)]
    assert left == ["ab", "a/b", "fx"]


def test_a_service_without_tls_is_said_at_once_to_have_none(s3_server: S3Server) -> None:
    plain = s3_server.address("ours")
    with pytest.raises(BucketError, match="speaks no TLS") as raised:
        open_bucket(plain.replace("s3+http:", "s3:"), patience=60).read("k")
    assert f"Without TLS its address is {plain} " in str(raised.value)


def test_an_upload_that_fails_leaves_no_parts(server: S3Server, bucket: Bucket) -> None:
    server.fail(403, op="UploadPart", times=None)
    with pytest.raises(BucketError):
        bucket.write("new", bytes(LARGE), expected=ABSENT)
    assert not server.uploads("ours")


def test_neither_kind_imports_what_the_other_needs() -> None:
    for address, unwanted in (("s3://b-1@h", "google.cloud"), ("gs://b-1", "boto")):
        code = "import sys; from kaggleops.bucket import open_bucket; "
        code += f"open_bucket({address!r}); "
        code += f"sys.exit(any(name.startswith({unwanted!r}) for name in sys.modules))"
        subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("missing", "use"),
    [
        ("boto3", "from kaggleops.bucket import open_bucket; open_bucket('s3://b-1')"),
        ("botocore", "from kaggleops.platforms import detect; detect().sign_in('s3://b-1')"),
    ],
)
def test_it_is_told_where_the_client_is_missing(tmp_path: Path, missing: str, use: str) -> None:
    for name in ("boto3", "botocore"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('no', name={name!r})")
    (tmp_path / "config").write_text("[default]\nendpoint_url = https://s3.example.com\n")
    found = subprocess.run(
        [sys.executable, "-c", use],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "AWS_CONFIG_FILE": f"{tmp_path}/config"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = f"opening an s3:// bucket: {missing} is not installed. pip install 'kaggleops[s3]'"
    assert said in found.stderr


def test_amazons_host_is_one_for_all_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    for region in ("us-east-1", "eu-west-1"):
        monkeypatch.setenv("AWS_REGION", region)
        bucket = open_bucket("s3://b-1")
        assert isinstance(bucket, S3Bucket)
        assert bucket.service == "amazonaws.com"
