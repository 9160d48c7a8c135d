"""The fake Cloud Storage, through Google's own client."""

import base64
import gzip
import hashlib
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions as answers
from google.cloud import storage
from google.cloud.storage import transfer_manager

from tests.fakes.gcs_server import GcsServer

KIB = 1024


@pytest.fixture
def server(gcs_server: GcsServer) -> GcsServer:
    gcs_server.create_bucket("b")
    return gcs_server


@pytest.fixture
def bucket(server: GcsServer) -> Iterator[storage.Bucket]:
    with storage.Client() as client:
        yield client.bucket("b")


def test_an_object_and_its_metadata(server: GcsServer, bucket: storage.Bucket) -> None:
    blob = bucket.blob("a b/ü%.txt")
    blob.metadata = {"commit": "abc"}
    blob.cache_control = "no-store"
    blob.upload_from_string(b"hello", content_type="text/plain")

    again = bucket.get_blob("a b/ü%.txt")
    assert again.size == 5
    assert again.content_type == "text/plain"
    assert again.metadata == {"commit": "abc"}
    assert again.cache_control == "no-store"
    assert again.md5_hash == base64.b64encode(hashlib.md5(b"hello").digest()).decode()
    assert again.generation == blob.generation == server.objects("b")["a b/ü%.txt"].generation
    assert again.metageneration == 1
    assert again.time_created is not None
    assert again.download_as_bytes() == b"hello"
    again.metadata = {"commit": "def", "run": "1"}
    again.patch(if_metageneration_match=1)
    again.metadata = {"run": None}
    again.patch()
    again.reload()
    assert (again.metadata, again.metageneration) == ({"commit": "def"}, 3)
    again.content_type = "text/html"
    again.update()
    assert bucket.get_blob("a b/ü%.txt").content_type == "text/html"
    assert again.exists()
    again.delete()
    assert not again.exists()
    assert bucket.get_blob("a b/ü%.txt") is None


@pytest.mark.parametrize("size", [0, 1, 9 * KIB * KIB])
@pytest.mark.parametrize("checksum", ["md5", "crc32c", None])
def test_uploads_of_all_kinds(
    server: GcsServer, bucket: storage.Bucket, tmp_path: Path, size: int, checksum: str | None
) -> None:
    content = os.urandom(size)
    file = tmp_path / "file"
    file.write_bytes(content)
    # In one request, in one resumable chunk of known size, and of unknown size in many.
    bucket.blob("string").upload_from_string(content, checksum=checksum)
    bucket.blob("file").upload_from_filename(file, checksum=checksum)
    chunked = bucket.blob("stream", chunk_size=512 * KIB)
    chunked.upload_from_file(io.BytesIO(content), checksum=checksum)
    with bucket.blob("opened").open("wb", ignore_flush=True, chunk_size=256 * KIB) as stream:
        stream.write(content)
    for name, made in server.objects("b").items():
        assert made.data == content, name
    for blob in bucket.list_blobs():
        assert blob.download_as_bytes(checksum=checksum) == content
    expected = {"uploads.chunk"} if size else {"uploads.chunk", "objects.insert"}
    assert {logged.op for logged in server.requests if logged.method != "GET"} >= expected
    # Initiating one is what costs, not its chunks.
    assert server.count("A") == 4 + 1


def test_damaged_uploads_are_refused(server: GcsServer, bucket: storage.Bucket) -> None:
    for content in (b"x", bytes(9 * KIB * KIB)):
        server.fail("corrupt")
        with pytest.raises(answers.BadRequest, match="doesn't match calculated"):
            bucket.blob("k").upload_from_string(content, retry=None)
    assert not server.objects("b")


def test_generations_only_grow(server: GcsServer, bucket: storage.Bucket) -> None:
    generations = []
    for name in ("x", "y", "x", "x"):
        blob = bucket.blob(name)
        blob.upload_from_string(name)
        generations.append(blob.generation)
    bucket.blob("x").delete()
    blob.upload_from_string("again")
    assert sorted({*generations, blob.generation}) == [*generations, blob.generation]


def test_preconditions_on_writes(server: GcsServer, bucket: storage.Bucket) -> None:
    def upload(size: int = 1, **conditions: int) -> int:
        blob = bucket.blob("k")
        blob.upload_from_string(bytes(size), **conditions)
        return int(blob.generation)

    for size in (1, 9 * KIB * KIB):
        first = upload(size, if_generation_match=0)
        for refused in (
            {"if_generation_match": 0},
            {"if_generation_match": first - 1},
            {"if_generation_not_match": first},
            {"if_metageneration_match": 2},
        ):
            with pytest.raises(answers.PreconditionFailed):
                upload(size, **refused)
        second = upload(size, if_generation_match=first)
        third = upload(size, if_generation_not_match=first, if_metageneration_match=1)
        assert first < second < third
        bucket.blob("k").delete(if_generation_match=third)
        with pytest.raises(answers.PreconditionFailed):
            upload(size, if_generation_match=third)
        with pytest.raises(answers.PreconditionFailed):
            upload(size, if_generation_not_match=0)


def test_preconditions_on_reads(server: GcsServer, bucket: storage.Bucket) -> None:
    generation = server.put("b", "k", b"x").generation
    blob = bucket.blob("k")
    for use in (blob.download_as_bytes, blob.reload):
        fresh: Any = bucket.blob("k")
        use = getattr(fresh, use.__name__)
        use(if_generation_match=generation, if_metageneration_match=1)
        use(if_generation_not_match=generation + 1, if_metageneration_not_match=2)
        for refused in ("if_generation_match", "if_metageneration_match"):
            with pytest.raises(answers.PreconditionFailed):
                use(**{refused: 7})
        for unchanged in (
            {"if_generation_not_match": generation},
            {"if_metageneration_not_match": 1},
        ):
            with pytest.raises(answers.NotModified):
                use(**unchanged)
    with pytest.raises(answers.NotFound):
        bucket.blob("k", generation=generation - 1).download_as_bytes()
    assert bucket.blob("k", generation=generation).download_as_bytes() == b"x"


def test_preconditions_on_changes(server: GcsServer, bucket: storage.Bucket) -> None:
    def change(verb: str, name: str, **conditions: int) -> None:
        blob = bucket.blob(name)
        blob.metadata = {"a": "b"}
        getattr(blob, verb)(**conditions)

    generation = server.put("b", "k", b"x").generation
    for verb in ("patch", "update", "delete"):
        for refused in (
            {"if_generation_match": generation - 1},
            {"if_generation_not_match": generation},
            {"if_metageneration_match": 9},
        ):
            with pytest.raises(answers.PreconditionFailed):
                change(verb, "k", **refused)
        with pytest.raises(answers.NotFound):
            change(verb, "absent")
        change(verb, "k", if_generation_match=generation)


def test_of_racing_creators_one_wins(server: GcsServer) -> None:
    barrier = threading.Barrier(8)
    won = []

    def create() -> None:
        blob = storage.Client().bucket("b").blob("contested")
        barrier.wait()
        try:
            blob.upload_from_string("x", if_generation_match=0)
        except answers.PreconditionFailed:
            return
        won.append(blob.generation)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [server.objects("b")["contested"].generation]


def test_ranges(server: GcsServer, bucket: storage.Bucket) -> None:
    content = bytes(range(100))
    server.put("b", "k", content)
    blob = bucket.blob("k")
    assert blob.download_as_bytes(start=10, end=19) == content[10:20]
    assert blob.download_as_bytes(start=90) == content[90:]
    assert blob.download_as_bytes(start=90, end=1000) == content[90:]
    with pytest.raises(answers.RequestRangeNotSatisfiable):
        blob.download_as_bytes(start=100)
    chunked = bucket.blob("k", chunk_size=256 * KIB)
    assert chunked.download_as_bytes() == content


def test_gzip(server: GcsServer, bucket: storage.Bucket) -> None:
    packed = gzip.compress(b"hello" * 1000)
    blob = bucket.blob("k")
    blob.content_encoding = "gzip"
    blob.upload_from_string(packed)
    assert blob.download_as_bytes() == b"hello" * 1000
    assert blob.download_as_bytes(raw_download=True) == packed


def test_listings(server: GcsServer, bucket: storage.Bucket) -> None:
    names = ["a", "a-b", "a/1", "a/2/x", "a/2/y", "b/1", "é", "🙂"]
    for name in reversed(names):
        server.put("b", name, b"")

    def names_of(**how: Any) -> list[str]:
        return [blob.name for blob in bucket.list_blobs(**how)]

    assert names_of() == names
    assert names_of(page_size=3) == names
    assert names_of(max_results=5, page_size=2) == names[:5]
    assert names_of(prefix="a/") == ["a/1", "a/2/x", "a/2/y"]
    assert names_of(start_offset="a/2/x", end_offset="é") == ["a/2/x", "a/2/y", "b/1"]
    listing = bucket.list_blobs(delimiter="/", page_size=2)
    assert [blob.name for blob in listing] == ["a", "a-b", "é", "🙂"]
    assert listing.prefixes == {"a/", "b/"}
    listing = bucket.list_blobs(prefix="a/", delimiter="/")
    assert [blob.name for blob in listing] == ["a/1"]
    assert listing.prefixes == {"a/2/"}
    assert names_of(match_glob="a/*") == ["a/1"]
    assert names_of(match_glob="a**") == ["a", "a-b", "a/1", "a/2/x", "a/2/y"]
    assert names_of(match_glob="a/?/[x-z]") == ["a/2/x", "a/2/y"]
    assert names_of(match_glob="{a,b}/[!2]") == ["a/1", "b/1"]
    assert names_of(match_glob=r"a\/1") == ["a/1"]
    blob = next(iter(bucket.list_blobs(fields="items(name,size),nextPageToken")))
    assert (blob.name, blob.size, blob.generation) == ("a", 0, None)


def test_a_page_has_a_thousand_at_most(server: GcsServer, bucket: storage.Bucket) -> None:
    for number in range(2001):
        server.put("b", f"{number:05}", b"")
    assert len(list(bucket.list_blobs(page_size=5000))) == 2001
    assert server.count("A") == len(server.requests) == 3


def test_compositions(server: GcsServer, bucket: storage.Bucket) -> None:
    server.put("b", "one", b"1")
    server.put("b", "two", b"2")
    both = bucket.blob("both")
    both.compose([bucket.blob("one"), bucket.blob("two")], if_generation_match=0)
    assert server.objects("b")["both"].data == b"12"
    # A composition has no MD5, and can be downloaded all the same.
    assert bucket.get_blob("both").md5_hash is None
    assert bucket.get_blob("both").component_count == 2
    assert both.download_as_bytes() == b"12"
    with pytest.raises(answers.NotFound):
        both.compose([bucket.blob("absent")])


def test_buckets(server: GcsServer) -> None:
    client = storage.Client(project="project")
    assert client.bucket("b").exists()
    assert not client.bucket("absent").exists()
    assert client.get_bucket("b").location == "US-EAST1"
    client.create_bucket("made", location="US-WEST1")
    with pytest.raises(answers.Conflict):
        client.create_bucket("made")
    assert [bucket.name for bucket in client.list_buckets()] == ["b", "made"]
    with pytest.raises(answers.NotFound, match="The specified bucket does not exist"):
        client.bucket("absent").blob("k").upload_from_string("x")


def test_many_files_at_once(server: GcsServer, bucket: storage.Bucket, tmp_path: Path) -> None:
    names = [f"{number}.bin" for number in range(20)]
    (tmp_path / "up").mkdir()
    for name in names:
        (tmp_path / "up" / name).write_bytes(name.encode() * 1000)
    threads = {"worker_type": transfer_manager.THREAD, "max_workers": 8}
    uploaded = transfer_manager.upload_many_from_filenames(
        bucket, names, source_directory=str(tmp_path / "up"), **threads
    )
    assert uploaded == [None] * 20
    downloaded = transfer_manager.download_many_to_path(
        bucket, names, destination_directory=str(tmp_path / "down"), **threads
    )
    assert downloaded == [None] * 20
    for name in names:
        assert (tmp_path / "down" / name).read_bytes() == name.encode() * 1000
    large = os.urandom(5 * KIB * KIB)
    server.put("b", "large", large)
    transfer_manager.download_chunks_concurrently(
        bucket.blob("large"), str(tmp_path / "large"), chunk_size=KIB * KIB, **threads
    )
    assert (tmp_path / "large").read_bytes() == large


def test_permissions(server: GcsServer, bucket: storage.Bucket) -> None:
    server.put("b", "k", b"x")
    server.deny("b", write=True)
    assert bucket.blob("k").download_as_bytes() == b"x"
    for use in (lambda: bucket.blob("n").upload_from_string("x"), bucket.blob("k").delete):
        with pytest.raises(answers.Forbidden, match=r"not have storage\.objects\.create access"):
            use()
    server.deny("b", read=True)
    for read in (bucket.blob("k").download_as_bytes, lambda: list(bucket.list_blobs())):
        with pytest.raises(answers.Forbidden):
            read()
    server.allow("b")
    bucket.blob("k").delete()


def test_what_is_counted(server: GcsServer, bucket: storage.Bucket) -> None:
    bucket.blob("k").upload_from_string("x")
    bucket.blob("k").download_as_bytes()
    bucket.get_blob("k")
    list(bucket.list_blobs())
    bucket.exists()
    bucket.blob("k").delete()
    assert (server.count("A"), server.count("B"), server.count("free")) == (2, 3, 1)
    assert [(logged.op, logged.key) for logged in server.requests] == [
        ("objects.insert", "k"),
        ("objects.get_media", "k"),
        ("objects.get", "k"),
        ("objects.list", None),
        ("buckets.get", None),
        ("objects.delete", "k"),
    ]
    server.reset_counts()
    assert server.requests == []
