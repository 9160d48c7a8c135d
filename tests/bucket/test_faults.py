"""Faults on the way to a service: those that pass, lost answers, damaged content.

Pauses start at a hundredth of the patience, so these tests are quick although nothing is faked.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kaggleops.bucket import (
    ABSENT,
    Bucket,
    BucketUnavailableError,
    ConflictError,
)
from tests.bucket.uses import USES, impatient, large
from tests.buckets import ON_EVERY_SERVICE
from tests.fakes.gcs_server import GcsServer
from tests.fakes.object_server import ObjectServer, Request
from tests.fakes.s3_server import S3Server

ONLY_GCS = pytest.mark.parametrize("service", ["gcs"], indirect=True)
WRITES = ("write", "write a large one")

PASSING = {
    "gcs": [
        *((use, fault) for use in USES for fault in (503, "page")),
        *((use, fault) for use in ("read", "write", "list") for fault in ("reset", "garbled")),
        *(("read", fault) for fault in (408, 429, 500, "redirect", "truncate")),
        ("write a large one", "truncate"),
    ],
    "s3": [
        *((use, fault) for use in USES for fault in (503, "page")),
        *((use, fault) for use in ("read", "list") for fault in ("reset", "truncate")),
        *(("read", fault) for fault in (408, 429, 500, "redirect", "corrupt", "lost-response")),
        *((use, fault) for use in WRITES for fault in (409, "corrupt", "lost-response")),
        ("write a large one", "error-in-200"),
        ("delete", "lost-response"),
        ("list", "garbled"),
    ],
}
ONCE = {("read", "garbled"), ("write a large one", "error-in-200")}
"""What may strike once only, or never: not every answer has words, or is asked for again."""


@pytest.fixture
def server(service: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    # It is for the bucket to see to it that nobody asks behind its back.
    monkeypatch.delenv("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA")
    service.create_bucket("ours")
    impatient(service, 5).write("first", b"", expected=ABSENT)  # an S3 is asked for its proof
    service.put("ours", "k", b"content")
    service.reset_counts()
    return service


@pytest.fixture
def bucket(server: ObjectServer) -> Bucket:
    return impatient(server, 5)


@pytest.mark.parametrize(
    ("service", "use"), [(kind, use) for kind in PASSING for use in USES], indirect=["service"]
)
def test_a_passing_fault_is_not_noticed(
    request: pytest.FixtureRequest, server: ObjectServer, bucket: Bucket, use: str
) -> None:
    kind = request.node.callspec.params["service"]
    for fault in (fault for of, fault in PASSING[kind] if of == use):
        server.put("ours", "k", b"content")
        bucket.delete("new")
        uploads = [*server.uploads("ours")] if isinstance(server, S3Server) else []
        struck = server.fail(fault, times=2)
        result = USES[use](bucket)
        assert struck.hits == 2 or (use, fault) in ONCE
        after = USES[use](bucket)
        server.heal()
        there = server.objects("ours")
        if use in WRITES:
            content = b"new" if use == "write" else bytes(large(bucket.uri))
            assert there["new"].data == content
        elif use != "delete":
            assert result == after
        assert ("k" in there) == (use != "delete")
        # Of an upload whose answer was lost nobody has heard, until the service drops it.
        if isinstance(server, S3Server) and fault != "lost-response":
            assert [*server.uploads("ours")] == uploads


@pytest.mark.parametrize(
    ("service", "use"),
    [*(("gcs", use) for use in USES), *(("s3", use) for use in ("read", "write", "list"))],
    indirect=["service"],
)
def test_a_lasting_fault_is_unavailability(server: ObjectServer, use: str) -> None:
    for fault in (503, "reset"):
        server.fail(fault, times=None)
        with pytest.raises(BucketUnavailableError) as raised:
            USES[use](impatient(server))
        assert raised.value.problem.startswith(
            {
                ("gcs", 503): "Cloud Storage answers 503: We encountered an internal error.",
                ("gcs", "reset"): "the connection to Cloud Storage fails (ConnectionError)",
                ("s3", 503): "the service answers 503: Please reduce your request rate.",
                ("s3", "reset"): "the connection to the service fails (ConnectionClosedError)",
            }["gcs" if isinstance(server, GcsServer) else "s3", fault]
        )
        assert server.address("ours") in raised.value.doing
        server.heal()


@pytest.mark.parametrize("status", [203, 401, 403, 404, 407, 451, 511])
@ONLY_GCS
def test_a_page_in_an_answers_place_is_asked_again(server: ObjectServer, status: int) -> None:
    struck = server.fail("page", status=status, times=3)
    stored = impatient(server, 5).read("k")
    assert stored is not None
    assert (struck.hits, stored.data) == (3, b"content")
    server.fail("page", status=status, times=None)
    with pytest.raises(BucketUnavailableError, match=f"not Cloud Storage .a {status} of the type"):
        impatient(server).read("k")


@ON_EVERY_SERVICE
def test_a_fetch_goes_on_where_it_broke_off(
    server: ObjectServer, bucket: Bucket, tmp_path: Path
) -> None:
    content = os.urandom(3_000_000)
    made = server.put("ours", "k", content)
    for fault in ("truncate", 503, "page"):
        server.fail(fault)
    assert bucket.fetch("k", tmp_path / "file") == made.version
    assert (tmp_path / "file").read_bytes() == content
    assert [logged.status for logged in server.requests] == [200, 503, 200, 206]


@ON_EVERY_SERVICE
def test_a_fetch_that_stalls_goes_on(server: ObjectServer, bucket: Bucket, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    made = server.put("ours", "k", content)
    stalled = server.fail("stall")
    assert impatient(server, 2.0).fetch("k", tmp_path / "file") == made.version
    assert (tmp_path / "file").read_bytes() == content
    assert stalled.hits == 1
    assert [logged.status for logged in server.requests] == [200, 206]


@ON_EVERY_SERVICE
@pytest.mark.parametrize("use", ["fetch", "read"])
def test_what_is_cut_short_and_then_replaced_comes_anew_and_whole(
    server: ObjectServer, bucket: Bucket, tmp_path: Path, use: str
) -> None:
    # Going on from the middle, as Google's client would, asks for the old generation: a 404.
    server.put("ours", "k", b"old" * 1000)
    cut = server.fail("truncate", then=lambda: server.put("ours", "k", b"new" * 10))
    if use == "fetch":
        version = bucket.fetch("k", tmp_path / "file")
        content = (tmp_path / "file").read_bytes()
    else:
        stored = bucket.read("k")
        assert stored is not None
        version, content = stored.version, stored.data
    assert cut.hits == 1
    assert content == b"new" * 10
    assert version == server.objects("ours")["k"].version


@ON_EVERY_SERVICE
def test_a_damaged_fetch_is_not_kept(server: ObjectServer, bucket: Bucket, tmp_path: Path) -> None:
    server.fail("corrupt", times=2)
    bucket.fetch("k", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"content"
    server.fail("corrupt", times=None)
    with pytest.raises(BucketUnavailableError, match="what arrives is damaged"):
        impatient(server).fetch("k", tmp_path / "other")
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["file"]


@pytest.mark.parametrize(
    ("service", "size"), [("gcs", 100), ("gcs", 9 << 20), ("s3", 100)], indirect=["service"]
)
def test_damaged_content_is_neither_returned_nor_stored(
    server: ObjectServer, bucket: Bucket, size: int
) -> None:
    content = os.urandom(size)
    server.put("ours", "large", content)
    damaged = server.fail("corrupt", times=2)
    stored = bucket.read("large")
    assert damaged.hits == 2
    assert stored is not None
    assert stored.data == content
    damaged = server.fail("corrupt", times=1)
    bucket.write("new", content, expected=ABSENT)
    assert damaged.hits == 1
    assert server.objects("ours")["new"].data == content
    server.fail("corrupt", times=None)
    with pytest.raises(BucketUnavailableError, match=r"reading .*ours.*/large: .*is damaged"):
        impatient(server).read("large")
    with pytest.raises(BucketUnavailableError, match=r"match calculated|Content-MD5"):
        impatient(server).write("new2", content, expected=ABSENT)
    assert "new2" not in server.objects("ours")


@ON_EVERY_SERVICE
def test_faults_of_all_kinds_at_once(server: ObjectServer, bucket: Bucket) -> None:
    faults = (503, 409, "reset", "truncate", "lost-response", "corrupt", "page", "redirect")
    if isinstance(server, GcsServer):
        faults = (429, "garbled", *(each for each in faults if each != 409))
    asked: Counter[str | None] = Counter()

    def is_turn_of(number: int) -> Callable[[Request], bool]:
        def where(request: Request) -> bool:
            # Two of five requests for each object, whatever its threads are overtaken by: so none
            # meets more faults in a row than its patience lasts for.
            if number == 0:
                asked[request.key] += 1
            turn, place = divmod(asked[request.key], 5)
            return place in (1, 2) and (2 * turn + place + len(asked)) % len(faults) == number

        return where

    struck = [server.fail(each, times=None, where=is_turn_of(n)) for n, each in enumerate(faults)]

    def use(number: int) -> bytes:
        key = f"{number}"
        version = ABSENT
        for content in (b"one", b"two", b"three"):
            version = bucket.write(key, content + key.encode(), expected=version)
            assert bucket.read(key, unless=version) is None
        stored = bucket.read(key)
        assert stored is not None
        assert stored.version == version
        return stored.data

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(use, range(20)))
    assert found == [f"three{number}".encode() for number in range(20)]
    assert all(fault.hits for fault in struck)
    assert len(list(bucket.list())) == 22


@ON_EVERY_SERVICE
def test_it_waits_as_long_as_it_is_asked_to(server: ObjectServer) -> None:
    server.fail(503, times=1, retry_after=1)
    # Half a second is too short for that, although without it the pause would be a few hundredths.
    with pytest.raises(BucketUnavailableError, match="answers 503: "):
        impatient(server, 0.5).read("k")
    assert len(server.requests) == 1
    server.fail(503, times=1, retry_after=1)
    assert impatient(server, 30).read("k") is not None


@ON_EVERY_SERVICE
def test_a_service_that_hangs(server: ObjectServer) -> None:
    hanging = server.fail("hang", times=None)
    with pytest.raises(BucketUnavailableError, match="does not answer in time"):
        impatient(server).read("k")
    assert hanging.hits >= 1
    hanging.release()
    assert impatient(server, 5).read("k") is not None


@ON_EVERY_SERVICE
def test_without_patience_everything_is_tried_once(server: ObjectServer) -> None:
    assert impatient(server, 0).read("k") is not None
    server.fail(503, times=1)
    with pytest.raises(BucketUnavailableError, match="answers 503"):
        impatient(server, 0).read("k")
    assert len(server.requests) == 2


@ON_EVERY_SERVICE
def test_nobody_listens(service: ObjectServer) -> None:
    service.stop()
    said = r"connection to Cloud Storage fails|cannot be reached \(Connection refused\),"
    with pytest.raises(BucketUnavailableError, match=said):
        impatient(service).read("k")


@ON_EVERY_SERVICE
@pytest.mark.parametrize("parted", [False, True])
def test_a_write_whose_answer_is_lost_has_succeeded(
    server: ObjectServer, bucket: Bucket, tmp_path: Path, parted: bool
) -> None:
    content = os.urandom(large(bucket.uri) if parted else 3)
    file = tmp_path / "content"
    file.write_bytes(content)
    last = {"objects.insert", "PutObject"}
    if parted:
        last = {"uploads.chunk", "CompleteMultipartUpload"}
    for key, data in (("bytes", content), ("file", file)):
        lost = server.fail("lost-response", key=key, where=lambda request: request.op in last)
        version = bucket.write(key, data, expected=ABSENT)
        assert lost.hits == 1
        made = server.objects("ours")[key]
        assert (made.data, made.version) == (content, version)
        again = bucket.write(key, content + b"!", expected=version)
        assert again != version


@ON_EVERY_SERVICE
def test_a_write_that_was_lost_and_replaced_is_a_conflict(
    server: ObjectServer, bucket: Bucket
) -> None:
    # Before it is sent again, somebody has read it and written the next.
    then = lambda: server.put("ours", "contested", b"theirs")  # noqa: E731
    server.fail("lost-response", op="write", then=then)
    with pytest.raises(ConflictError):
        bucket.write("contested", b"ours", expected=ABSENT)
    assert server.objects("ours")["contested"].data == b"theirs"


@ON_EVERY_SERVICE
def test_a_deletion_whose_answer_is_lost_has_succeeded(
    server: ObjectServer, bucket: Bucket
) -> None:
    version = bucket.write("k2", b"", expected=ABSENT)
    lost = server.fail("lost-response", op="delete")
    bucket.delete("k2", expected=version)
    assert lost.hits == 1
    assert "k2" not in server.objects("ours")


@ON_EVERY_SERVICE
def test_content_and_version_belong_together(server: ObjectServer, bucket: Bucket) -> None:
    made = {server.objects("ours")["k"].version: b"content"}
    done = threading.Event()

    def replace() -> None:
        for number in range(100_000):
            content = b"%d" % number
            made[server.put("ours", "k", content).version] = content
            if done.wait(0.001):  # else who reads waits for this thread
                break

    with ThreadPoolExecutor(1) as thread:
        replacing = thread.submit(replace)
        found = [bucket.read("k") for _ in range(100)]
        done.set()
        replacing.result()
    for stored in found:
        assert stored is not None
        assert made[stored.version] == stored.data


@ON_EVERY_SERVICE
def test_a_file_that_changes_while_it_is_sent(
    server: ObjectServer, bucket: Bucket, tmp_path: Path
) -> None:
    file = tmp_path / "changing"
    file.write_bytes(b"first")
    server.fail(503, op="write", then=lambda: file.write_bytes(b"second"))
    bucket.write("new", file, expected=ABSENT)
    assert server.objects("ours")["new"].data == b"second"


# -- uploads of Cloud Storage -------------------------------------------------------------------


@ONLY_GCS
def test_a_lost_upload_session_is_begun_again(server: ObjectServer, bucket: Bucket) -> None:
    content = bytes(large(bucket.uri))
    for status in (404, 410):
        lost = server.fail(status, op="uploads.chunk")
        bucket.write(f"{status}", content, expected=ABSENT)
        assert lost.hits == 1
        assert server.objects("ours")[f"{status}"].data == content


@ONLY_GCS
def test_a_chunk_that_is_taken_in_part(
    server: ObjectServer, bucket: Bucket, tmp_path: Path
) -> None:
    # The client gives up on that with a ValueError.
    file = tmp_path / "large"
    file.write_bytes(os.urandom(16 * 1024 * 1024 + 5))
    taken = server.fail("partial")
    bucket.write("large", file, expected=ABSENT)
    assert taken.hits == 1
    assert server.objects("ours")["large"].data == file.read_bytes()


@ONLY_GCS
def test_an_interrupted_chunk_is_sent_again_by_itself(
    server: ObjectServer, bucket: Bucket, tmp_path: Path
) -> None:
    file = tmp_path / "large"
    file.write_bytes(os.urandom(2 * 16 * 1024 * 1024 + 5))
    server.fail("reset", op="uploads.chunk", times=2)
    server.fail("lost-response", op="uploads.chunk", times=1)
    bucket.write("large", file, expected=ABSENT)
    assert server.objects("ours")["large"].data == file.read_bytes()
    ops = [logged.op for logged in server.requests]
    assert ops.count("objects.insert") == 1
    assert ops.count("uploads.chunk") == 3 + 3
