"""The S3 of our own, as boto3 meets it: what it promises, what it refuses, how it misbehaves."""

import base64
import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from moto.s3.models import FakeKey

from tests.fakes import s3_server as s3_server_module
from tests.fakes.s3_server import CONDITIONS, S3Server

MIB = 1 << 20


@pytest.fixture
def server(s3_server: S3Server) -> S3Server:
    s3_server.create_bucket("our-bucket")
    return s3_server


@pytest.fixture
def client(server: S3Server) -> Any:
    config = Config(
        retries={"total_max_attempts": 1},
        request_checksum_calculation="when_required",
        s3={"addressing_style": "path"},
    )
    return boto3.client("s3", endpoint_url=server.url, region_name="us-east-1", config=config)


def status(call: Callable[..., Any], key: str, **more: Any) -> int | str:
    """Return how a call ended: 200 and the like, or the code of the refusal."""
    try:
        return call(Bucket="our-bucket", Key=key, **more)["ResponseMetadata"]["HTTPStatusCode"]
    except ClientError as error:
        return error.response["Error"]["Code"]


def upload(client: Any, key: str, parts: list[bytes]) -> Callable[..., Any]:
    """Upload parts, and return what completes them."""
    begun = client.create_multipart_upload(Bucket="our-bucket", Key=key, Metadata={"its": "own"})
    named = {"Bucket": "our-bucket", "Key": key, "UploadId": begun["UploadId"]}
    tags = [
        client.upload_part(**named, PartNumber=number, Body=part)["ETag"]
        for number, part in enumerate(parts, 1)
    ]
    listed = {"Parts": [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(tags, 1)]}
    return lambda **more: client.complete_multipart_upload(**named, MultipartUpload=listed, **more)


@pytest.mark.parametrize("key", ["k", "none"])
@pytest.mark.parametrize("asked", ["0-9", "5-", "-3", "90-200", "0-0", "100-", "9-5", "0-1,5-6"])
def test_a_range_of_a_large_object_is_as_that_of_a_small_one(
    server: S3Server, client: Any, key: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("our-bucket", "k", bytes(range(100)), its="own")

    def answer() -> Any:
        try:
            got = client.get_object(Bucket="our-bucket", Key=key, Range=f"bytes={asked}")
        except ClientError as error:
            return error.response["Error"]
        headers = got["ResponseMetadata"]["HTTPHeaders"]
        kept = {name: headers[name] for name in headers.keys() - {"date", "x-amzn-requestid"}}
        return got["Body"].read(), got["ResponseMetadata"]["HTTPStatusCode"], kept

    small = answer()
    monkeypatch.setattr(s3_server_module, "_LARGE", 0)
    assert answer() == small


def test_a_range_of_a_large_object_is_read_alone(
    server: S3Server, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("our-bucket", "k", bytes(60_000_000))
    monkeypatch.setattr(FakeKey, "value", None)
    got = client.get_object(Bucket="our-bucket", Key="k", Range="bytes=40000000-40000009")
    assert got["Body"].read() == bytes(10)


def test_writes_and_deletions_with_conditions(server: S3Server, client: Any) -> None:
    put, delete = client.put_object, client.delete_object
    assert status(put, "k", Body=b"1", IfMatch='"x"') == "NoSuchKey"
    assert status(put, "k", Body=b"1", IfNoneMatch="*") == 200
    assert status(put, "k", Body=b"2", IfNoneMatch="*") == "PreconditionFailed"
    first = server.objects("our-bucket")["k"].etag
    assert status(put, "k", Body=b"2", IfMatch=first) == 200
    assert status(put, "k", Body=b"3", IfMatch=first) == "PreconditionFailed"
    assert status(client.get_object, "k", IfNoneMatch=hashlib.md5(b"2").hexdigest()) == "304"
    assert status(client.get_object, "k", IfMatch=first) == "PreconditionFailed"
    assert status(delete, "k", IfMatch=first) == "PreconditionFailed"
    assert status(delete, "k", IfMatch=hashlib.md5(b"2").hexdigest()) == 204
    assert status(delete, "k", IfMatch=first) == "NoSuchKey"
    assert not server.objects("our-bucket")


def test_multipart_uploads(server: S3Server, client: Any) -> None:
    complete, late = (upload(client, "m", [c * 5 * MIB, b"end"]) for c in (b"a", b"b"))
    assert list(server.uploads("our-bucket")) == ["m", "m"]
    tag = complete(IfNoneMatch="*")["ETag"]
    assert complete(IfNoneMatch="*")["ETag"] == tag  # done is done
    with pytest.raises(ClientError, match="PreconditionFailed"):
        late(IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        late(IfMatch='"x"')
    part = client.head_object(Bucket="our-bucket", Key="m", PartNumber=1, IfMatch=tag)
    assert (part["ContentLength"], part["ETag"], part["PartsCount"]) == (5 * MIB, tag, 2)
    assert part["Metadata"] == {"its": "own"}
    assert late(IfMatch=tag)["ETag"] != tag
    assert server.objects("our-bucket")["m"].data == b"b" * 5 * MIB + b"end"
    with pytest.raises(ClientError, match="NoSuchUpload"):
        complete()


def test_contents_are_checked_and_keys_are_taken_as_they_are(server: S3Server, client: Any) -> None:
    other = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    assert status(client.put_object, "k", Body=b"mine", ContentMD5=other) == "BadDigest"
    assert not server.objects("our-bucket")
    server.add_key("a-key", "a-word")  # so that what is asked for is signed, too
    keys = ["a b/ü+%2F&=?#;~*'(.txt", "tab\there", "emoji 🎉/x", "-"]
    for key in keys:
        assert status(client.put_object, key, Body=key.encode()) == 200
        assert client.get_object(Bucket="our-bucket", Key=key)["Body"].read() == key.encode()
        listed = client.list_objects_v2(Bucket="our-bucket", Prefix=key)["Contents"]
        assert [each["Key"] for each in listed] == [key]
    assert server.objects("our-bucket").keys() == set(keys)
    assert (server.count("A"), server.count("B")) == (9, 4)


@pytest.mark.parametrize("ignored", [*CONDITIONS, "at once"])
def test_a_service_that_lies(server: S3Server, client: Any, ignored: str) -> None:
    server.ignores_conditions = [ignored]
    client.put_object(Bucket="our-bucket", Key="k", Body=b"1")
    complete = upload(client, "k", [b"2"])
    with ThreadPoolExecutor(8) as threads:
        writes = threads.map(
            lambda n: status(client.put_object, "new", Body=b"%d" % n, IfNoneMatch="*"), range(8)
        )
        assert (list(writes).count(200) > 1) == (ignored in ("write", "at once"))
    won = {"write": status(client.put_object, "k", Body=b"3", IfNoneMatch="*") == 200}
    try:
        won["multipart"] = bool(complete(IfNoneMatch="*"))
    except ClientError:
        won["multipart"] = False
    won["delete"] = status(client.delete_object, "k", IfMatch='"x"') == 204
    assert won == {kind: kind == ignored for kind in CONDITIONS}


def test_what_keys_may_do(server: S3Server, client: Any) -> None:
    server.create_bucket("another")
    server.add_key("a-key", "a-word", "our-bucket", "ours/")
    assert status(client.put_object, "ours/k", Body=b"") == 200
    assert status(client.put_object, "theirs/k", Body=b"") == "AccessDenied"
    assert client.list_objects_v2(Bucket="our-bucket", Prefix="ours/")["KeyCount"] == 1
    for place in ({"Bucket": "our-bucket"}, {"Bucket": "another", "Prefix": "ours/"}):
        with pytest.raises(ClientError, match="AccessDenied"):
            client.list_objects_v2(**place)
    server.add_key("a-key", "its-new-word")
    assert status(client.put_object, "k", Body=b"") == "SignatureDoesNotMatch"
    server.deny("our-bucket", write=True)
    server.add_key("a-key", "a-word")
    assert status(client.put_object, "k", Body=b"") == "AccessDenied"
    assert status(client.get_object, "ours/k") == 200


def test_a_versioned_bucket_and_two_servers_at_once(server: S3Server, client: Any) -> None:
    with S3Server() as other:
        other.create_bucket("our-bucket", versioned=True)
        theirs = boto3.client("s3", endpoint_url=other.url, region_name="us-east-1")
        for body in (b"1", b"2"):
            assert status(theirs.put_object, "k", Body=body) == 200
        assert status(theirs.delete_object, "k") == 204
        assert (other.versions("our-bucket", "k"), dict(other.objects("our-bucket"))) == (3, {})
        assert status(theirs.put_object, "k", Body=b"3", IfNoneMatch="*") == 200
        assert status(client.get_object, "k") == "NoSuchKey"
        other.remove("our-bucket", "k")
    assert status(client.put_object, "k", Body=b"1") == 200


def test_faults(server: S3Server, client: Any) -> None:
    server.put("our-bucket", "k", b"content")
    for kind, code in (
        (503, "SlowDown"),
        (500, "InternalError"),
        (409, "ConditionalRequestConflict"),
    ):
        fault = server.fail(kind, op="PutObject", retry_after=7)
        with pytest.raises(ClientError) as refused:
            client.put_object(Bucket="our-bucket", Key="k2", Body=b"x")
        answer = refused.value.response
        assert answer["Error"]["Code"] == code
        assert answer["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "7"
        assert fault.hits == 1
    for kind in ("reset", "lost-response", "truncate"):
        server.fail(kind)
        with pytest.raises(BotoCoreError):
            client.put_object(Bucket="our-bucket", Key=kind, Body=b"x")
    assert server.objects("our-bucket").keys() == {"k", "lost-response", "truncate"}
    get = lambda: client.get_object(Bucket="our-bucket", Key="k")["Body"].read()  # noqa: E731
    server.fail("truncate")
    with pytest.raises(BotoCoreError):
        get()
    server.fail("corrupt")
    assert get() != b"content" == get()
    server.fail("page")
    assert b"<html" in get()
    server.fail("page")  # which boto3 takes for an answer without an ETag
    assert "ETag" not in client.put_object(Bucket="our-bucket", Key="k", Body=b"other")
    server.fail("garbled")
    with pytest.raises(ClientError, match="500"):
        client.list_objects_v2(Bucket="our-bucket")
    server.fail("error-in-200")
    with pytest.raises(ClientError, match="InternalError"):
        upload(client, "k", [b"x"])()
    late = server.fail("late")
    threading.Thread(target=lambda: late.struck.wait() and late.release()).start()
    assert get() == b"content"
