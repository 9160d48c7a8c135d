"""Faults on the way to Cloud Storage: those that pass, lost answers, damaged content.

Pauses start at a hundredth of the patience, so these tests are quick although nothing is faked.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kaggleops.bucket import (
    ABSENT,
    Bucket,
    BucketUnavailableError,
    ConflictError,
    open_bucket,
)
from tests.bucket.gcs_uses import LARGE, USES, impatient
from tests.fakes.gcs.wire import Request
from tests.fakes.gcs_server import GcsServer


@pytest.fixture
def server(gcs_server: GcsServer, monkeypatch: pytest.MonkeyPatch) -> GcsServer:
    # It is for the bucket to see to it that nobody asks behind its back.
    monkeypatch.delenv("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA")
    gcs_server.create_bucket("ours")
    gcs_server.put("ours", "k", b"content")
    return gcs_server


@pytest.fixture
def bucket(server: GcsServer) -> Bucket:
    return open_bucket("gs://ours", patience=5)


@pytest.mark.parametrize(
    ("use", "fault"),
    [
        *((use, fault) for use in USES for fault in (503, 429, "reset", "truncate", "page")),
        *((use, fault) for use in ("read", "write", "list") for fault in ("redirect", "garbled")),
        *(("read", status) for status in (408, 500, 502, 504)),
    ],
)
def test_a_passing_fault_is_not_noticed(
    server: GcsServer, bucket: Bucket, use: str, fault: int | str
) -> None:
    struck = server.fail(fault, times=2)
    result = USES[use](bucket)
    can_have = (fault, use) not in (("truncate", "delete"), ("garbled", "read"))
    assert struck.hits == 2 if can_have else struck.hits <= 1
    after = USES[use](bucket)
    if use in ("read", "fetch", "stat", "list"):
        assert result == after
    assert server.objects("ours").get("new") is None or server.objects("ours")["new"].data in (
        b"new",
        bytes(LARGE),
    )
    assert ("k" in server.objects("ours")) == (use != "delete")


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("fault", [503, "reset"])
def test_a_lasting_fault_is_unavailability(server: GcsServer, use: str, fault: int | str) -> None:
    server.fail(fault, times=None)
    with pytest.raises(BucketUnavailableError) as raised:
        USES[use](impatient())
    said = {
        503: "Cloud Storage answers 503: We encountered an internal error., and so for 0.3 s",
        "reset": "the connection to Cloud Storage fails (ConnectionError), and so for 0.3 s",
    }
    assert raised.value.problem == said[fault]
    assert "gs://ours" in raised.value.doing


@pytest.mark.parametrize("status", [203, 401, 403, 404, 407, 451, 511])
def test_a_page_in_an_answers_place_is_asked_again(server: GcsServer, status: int) -> None:
    struck = server.fail("page", status=status, times=3)
    stored = impatient(5).read("k")
    assert stored is not None
    assert (struck.hits, stored.data) == (3, b"content")
    server.fail("page", status=status, times=None)
    with pytest.raises(BucketUnavailableError, match=f"not Cloud Storage .a {status} of the type"):
        impatient().read("k")


def test_a_fetch_goes_on_where_it_broke_off(
    server: GcsServer, bucket: Bucket, tmp_path: Path
) -> None:
    content = os.urandom(3_000_000)
    made = server.put("ours", "k", content)
    asked = []

    def note(request: Request) -> bool:
        asked.append((request.headers.get("Range"), request.query.get("generation")))
        return True

    server.fail("truncate", times=1, where=note)
    server.fail(503, times=1, where=lambda request: len(asked) == 2)
    server.fail("page", times=1)
    assert bucket.fetch("k", tmp_path / "file") == str(made.generation)
    assert (tmp_path / "file").read_bytes() == content
    stalled = server.fail("stall", times=1)
    assert impatient(1.0).fetch("k", tmp_path / "file") == str(made.generation)
    assert (tmp_path / "file").read_bytes() == content
    assert stalled.hits == 1
    media = [logged for logged in server.requests if logged.op == "objects.get_media"]
    assert [logged.status for logged in media] == [200, 200, 206, 200, 206]


def test_a_fetch_that_breaks_off_begins_anew_with_what_is_there_then(
    server: GcsServer, bucket: Bucket, tmp_path: Path
) -> None:
    server.put("ours", "k", b"old" * 1000)
    server.fail("truncate", then=lambda: server.put("ours", "k", b"new" * 10))
    version = bucket.fetch("k", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"new" * 10
    assert version == str(server.objects("ours")["k"].generation)


def test_a_damaged_fetch_is_not_kept(server: GcsServer, bucket: Bucket, tmp_path: Path) -> None:
    server.fail("corrupt", times=2)
    bucket.fetch("k", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"content"
    server.fail("corrupt", times=None)
    with pytest.raises(BucketUnavailableError, match="what arrives is damaged"):
        impatient().fetch("k", tmp_path / "other")
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["file"]


def test_faults_of_all_kinds_at_once(server: GcsServer, bucket: Bucket) -> None:
    faults = (503, "reset", "truncate", "lost-response", "corrupt", "page", "redirect", "garbled")
    for seed, fault in enumerate(faults):
        server.fail(fault, times=None, probability=0.05, seed=seed)

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
        found = list(threads.map(use, range(40)))
    assert found == [f"three{number}".encode() for number in range(40)]
    assert len(list(bucket.list())) == 41


def test_it_waits_as_long_as_it_is_asked_to(server: GcsServer) -> None:
    server.fail(429, times=1, retry_after=1)
    # Half a second is too short for that, although without it the pause would be a few hundredths.
    with pytest.raises(BucketUnavailableError, match=r"answers 429: .* for 0\.5 s"):
        impatient(0.5).read("k")
    assert len(server.requests) == 1
    server.fail(429, times=1, retry_after=1)
    assert impatient(3).read("k") is not None


def test_a_service_that_hangs(server: GcsServer) -> None:
    hanging = server.fail("hang", times=None)
    with pytest.raises(BucketUnavailableError, match="Cloud Storage does not answer in time"):
        impatient().read("k")
    assert hanging.hits >= 1
    hanging.release()
    assert impatient(5).read("k") is not None


def test_without_patience_everything_is_tried_once(server: GcsServer) -> None:
    assert impatient(0).read("k") is not None
    server.fail(503, times=1)
    with pytest.raises(BucketUnavailableError, match="answers 503"):
        impatient(0).read("k")
    assert len(server.requests) == 2


def test_nobody_listens() -> None:
    with GcsServer() as gone:
        url = gone.url
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        with pytest.raises(BucketUnavailableError, match="connection to Cloud Storage fails"):
            impatient().read("k")


@pytest.mark.parametrize("size", [3, LARGE])
def test_a_write_whose_answer_is_lost_has_succeeded(
    server: GcsServer, bucket: Bucket, tmp_path: Path, size: int
) -> None:
    content = os.urandom(size)
    file = tmp_path / "content"
    file.write_bytes(content)
    for key, data in (("bytes", content), ("file", file)):
        lost = server.fail("lost-response", where=completes(key, size))
        version = bucket.write(key, data, expected=ABSENT)
        assert lost.hits == 1
        made = server.objects("ours")[key]
        assert (made.data, str(made.generation)) == (content, version)
        again = bucket.write(key, content + b"!", expected=version)
        assert again != version


def test_a_write_that_was_lost_and_replaced_is_a_conflict(
    server: GcsServer, bucket: Bucket
) -> None:
    # Before it is sent again, somebody has read it and written the next.
    server.fail(
        "lost-response",
        op="objects.insert",
        then=lambda: server.put("ours", "contested", b"theirs"),
    )
    with pytest.raises(ConflictError):
        bucket.write("contested", b"ours", expected=ABSENT)
    assert server.objects("ours")["contested"].data == b"theirs"


def test_a_deletion_whose_answer_is_lost_has_succeeded(server: GcsServer, bucket: Bucket) -> None:
    version = bucket.write("k2", b"", expected=ABSENT)
    lost = server.fail("lost-response", op="objects.delete")
    bucket.delete("k2", expected=version)
    assert lost.hits == 1
    assert "k2" not in server.objects("ours")


@pytest.mark.parametrize("size", [100, LARGE])
def test_damaged_content_is_never_returned(server: GcsServer, bucket: Bucket, size: int) -> None:
    content = os.urandom(size)
    server.put("ours", "large", content)
    damaged = server.fail("corrupt", times=2)
    stored = bucket.read("large")
    assert damaged.hits == 2
    assert stored is not None
    assert stored.data == content
    server.fail("corrupt", times=None)
    with pytest.raises(
        BucketUnavailableError, match=r"reading gs://ours/large: .*what arrives is damaged"
    ):
        impatient().read("large")


@pytest.mark.parametrize("size", [100, LARGE])
def test_damaged_content_is_never_stored(server: GcsServer, bucket: Bucket, size: int) -> None:
    content = os.urandom(size)
    damaged = server.fail("corrupt", times=1)
    bucket.write("new", content, expected=ABSENT)
    assert damaged.hits == 1
    assert server.objects("ours")["new"].data == content
    server.fail("corrupt", times=None)
    with pytest.raises(BucketUnavailableError, match="match calculated"):
        impatient().write("new2", content, expected=ABSENT)
    assert "new2" not in server.objects("ours")


def test_what_is_cut_short_and_then_replaced_is_read_whole(
    server: GcsServer, bucket: Bucket
) -> None:
    # Going on from the middle, as the client would, asks for the old generation: a 404.
    server.put("ours", "k", b"old" * 1000)

    cut = server.fail(
        "truncate",
        op="objects.get_media",
        then=lambda: server.put("ours", "k", b"new" * 1000),
    )
    stored = bucket.read("k")
    assert cut.hits == 1
    assert stored is not None
    assert stored.data == b"new" * 1000
    assert stored.version == str(server.objects("ours")["k"].generation)


def test_content_and_version_belong_together(server: GcsServer, bucket: Bucket) -> None:
    done = threading.Event()

    def replace() -> dict[str, bytes]:
        made = {}
        for number in range(100_000):
            content = b"%d" % number
            made[str(server.put("ours", "k", content).generation)] = content
            if done.is_set():
                break
        return made

    with ThreadPoolExecutor(1) as thread:
        replacing = thread.submit(replace)
        found = [bucket.read("k") for _ in range(100)]
        done.set()
    made = {**replacing.result(), str(1_700_000_000_000_001): b"content"}
    for stored in found:
        assert stored is not None
        assert made[stored.version] == stored.data


def test_a_lost_upload_session_is_begun_again(server: GcsServer, bucket: Bucket) -> None:
    for status in (404, 410):
        lost = server.fail(status, op="uploads.chunk")
        bucket.write(f"{status}", bytes(LARGE), expected=ABSENT)
        assert lost.hits == 1
        assert server.objects("ours")[f"{status}"].data == bytes(LARGE)


def test_a_chunk_that_is_taken_in_part(server: GcsServer, bucket: Bucket, tmp_path: Path) -> None:
    # The client gives up on that with a ValueError.
    file = tmp_path / "large"
    file.write_bytes(os.urandom(16 * 1024 * 1024 + 5))
    taken = server.fail("partial")
    bucket.write("large", file, expected=ABSENT)
    assert taken.hits == 1
    assert server.objects("ours")["large"].data == file.read_bytes()


def test_an_interrupted_chunk_is_sent_again_by_itself(
    server: GcsServer, bucket: Bucket, tmp_path: Path
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


def test_a_file_that_changes_while_it_is_sent(server: GcsServer, tmp_path: Path) -> None:
    file = tmp_path / "changing"
    file.write_bytes(b"first")

    server.fail(503, op="objects.insert", then=lambda: file.write_bytes(b"second"))
    impatient(5).write("new", file, expected=ABSENT)
    assert server.objects("ours")["new"].data == b"second"


def completes(key: str, size: int) -> Callable[[Request], bool]:
    op = "uploads.chunk" if size == LARGE else "objects.insert"
    return lambda request: (request.op, request.key) == (op, key)
