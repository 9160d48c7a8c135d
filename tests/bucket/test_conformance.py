"""What `kaggleops.bucket.base` promises, of every kind of bucket."""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kaggleops.bucket import (
    ABSENT,
    Bucket,
    BucketError,
    ConflictError,
    Entry,
    InvalidKeyError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    open_bucket,
)
from kaggleops.bucket.base import HIDDEN_FOLDER
from tests.buckets import EVERY_DIALECT, server_of

pytestmark = EVERY_DIALECT

AWKWARD = [
    "images\\1.png",
    "tab\tbell\a/ leading and trailing /%2F%5C",
    "a b/c d.txt",
    "Übung/Ärger 数据/🙂.bin",
    "100%/50%25.txt",
    "~/x~",
    "a+b&c=d?e#f;g,h@i:j",
    "'quoted' \"twice\"",
    "[x]{y}*",
    ".hidden/.gitignore",
    "...",
    "x" * 255,
    "/".join(["y" * 255] * 3) + "/" + "z" * 132,
]


def test_a_write_can_be_read(bucket: Bucket) -> None:
    version = bucket.write("runs/1/meta", b"content", expected=ABSENT)

    stored = bucket.read("runs/1/meta")

    assert stored is not None
    assert (stored.key, stored.version, stored.data) == ("runs/1/meta", version, b"content")
    assert bucket.stat("runs/1/meta") == Entry("runs/1/meta", version, 7)
    assert list(bucket.list()) == [Entry("runs/1/meta", version, 7)]


def test_a_part_is_read_of_what_was_listed_and_of_nothing_else(bucket: Bucket) -> None:
    version = bucket.write("k", b"0123456789", expected=ABSENT)
    listed = Entry("k", version, 10)
    into = io.BytesIO()
    bucket.read_span(listed, into, 2, 5)
    bucket.read_span(listed, into, 8)
    assert into.getvalue() == b"23489"
    whole = io.BytesIO()
    bucket.read_span(listed, whole)
    assert whole.getvalue() == b"0123456789"
    bucket.write("k", b"0123456789, and more", expected=version)
    late = io.BytesIO()
    with suppress(ObjectNotFoundError):  # where old versions are kept, that one comes
        bucket.read_span(listed, late)
    assert late.getvalue() in (b"", b"0123456789")


def test_many_are_handed_out_as_they_were_listed(bucket: Bucket) -> None:
    for key in ("a", "deep/b c", "gone", "other"):
        bucket.write(key, key.encode(), expected=ABSENT)
    listed = list(bucket.list(checksums=True))
    bucket.delete("gone")
    bucket.write("other", b"anew", expected=listed[3].version)
    came: dict[str, bytes] = {}
    bucket.read_many(listed, lambda entry, content: came.update({entry.key: content}))
    assert {"a", "deep/b c"} <= came.keys()
    assert all(content == key.encode() for key, content in came.items())


def test_an_object_can_tell_its_checksum(bucket: Bucket) -> None:
    known = {
        "crc32c:4waSgw==",  # the CRC catalogue's check value of CRC-32C: E3069283
        "md5:25f9e794323b453885f5181f1b624d0b",
    }
    version = bucket.write("k", b"123456789", expected=ABSENT)
    told = bucket.stat("k", checksum=True)
    assert told is not None
    assert told.checksum in known
    assert told.version == version
    (listed,) = bucket.list(checksums=True)
    assert listed.checksum in {told.checksum, ""}
    assert next(bucket.list()).checksum == ""
    assert bucket.stat("nothing", checksum=True) is None


def test_an_unchanged_object_is_not_read_again(bucket: Bucket) -> None:
    first = bucket.write("k", b"one", expected=ABSENT)

    assert bucket.read("k", unless=first) is None

    second = bucket.write("k", b"two", expected=first)
    changed = bucket.read("k", unless=first)
    assert changed is not None
    assert (changed.data, changed.version) == (b"two", second)


def test_what_is_too_large_is_not_read(bucket: Bucket) -> None:
    version = bucket.write("k", b"0123456789", expected=ABSENT)
    whole = bucket.read("k", at_most=10)
    assert whole is not None
    assert whole.data == b"0123456789"
    with pytest.raises(ObjectTooLargeError, match=r"reading .*k: it has 10 bytes, and 9 are") as no:
        bucket.read("k", at_most=9, unless=ABSENT)
    assert no.value.version == version
    assert bucket.read("k", at_most=9, unless=version) is None


def test_the_version_of_another_kind_of_bucket_is_no_version(bucket: Bucket) -> None:
    version = bucket.write("k", b"one", expected=ABSENT)
    for foreign in ("1700000000000000", "18b4-2f-3", ""):
        stored = bucket.read("k", unless=foreign)
        assert stored is not None
        with pytest.raises(ConflictError):
            bucket.write("k", b"two", expected=foreign)
        with pytest.raises(ConflictError):
            bucket.delete("k", expected=foreign)
    assert bucket.stat("k") == Entry("k", version, 3)


def test_what_is_absent(bucket: Bucket) -> None:
    bucket.write("folder/k", b"", expected=ABSENT)
    for key in ("nothing", "folder", "folder/k/below"):
        with pytest.raises(ObjectNotFoundError, match=f"reading .*{key}: there is no such object"):
            bucket.read(key)
        assert bucket.read(key, unless=ABSENT) is None
        assert bucket.stat(key) is None
        bucket.delete(key)
        bucket.delete(key, expected="1700000000000000")
    assert bucket.stat("folder/k") is not None
    stored = bucket.read("folder/k", unless=ABSENT)
    assert stored is not None


def test_a_write_names_what_it_replaces(bucket: Bucket) -> None:
    first = bucket.write("k", b"one", expected=ABSENT)
    with pytest.raises(ConflictError, match=r"writing .*k: it is at version"):
        bucket.write("k", b"another", expected=ABSENT)
    second = bucket.write("k", b"two", expected=first)
    with pytest.raises(ConflictError):
        bucket.write("k", b"three", expected=first)
    with pytest.raises(ConflictError):
        bucket.write("never there", b"x", expected=first)

    stored = bucket.read("k")
    assert stored is not None
    assert (stored.data, stored.version) == (b"two", second)
    assert [entry.key for entry in bucket.list()] == ["k"]


def _by_content(bucket: Bucket) -> bool:
    """Tell whether a version is that of a content, not of a write."""
    return bucket.uri.startswith("s3")


def test_every_write_has_a_version_of_its_own(bucket: Bucket) -> None:
    versions, version = [], ABSENT
    for number in range(200):
        # Contents that come again, of one size, and now and then after a deletion.
        version = bucket.write("k", b"%d" % (number % 2), expected=version)
        versions.append(version)
        if number % 10 == 9:
            bucket.delete("k")
            version = ABSENT
    assert len(set(versions)) == (2 if _by_content(bucket) else 200)
    assert ABSENT not in versions


def test_the_same_content_is_no_conflict(bucket: Bucket, tmp_path: Path) -> None:
    version = bucket.write("k", b"the same", expected=ABSENT)
    file = tmp_path / "file"
    file.write_bytes(b"the same")

    assert bucket.write("k", b"the same", expected=ABSENT) == version
    assert bucket.write("k", file, expected="1700000000000000") == version
    with pytest.raises(ConflictError):
        bucket.write("k", b"the sAme", expected=ABSENT)
    with pytest.raises(ConflictError):
        bucket.write("k", b"the same and more", expected=ABSENT)


def test_a_deletion_may_name_what_it_deletes(bucket: Bucket) -> None:
    first = bucket.write("k", b"one", expected=ABSENT)
    second = bucket.write("k", b"two", expected=first)
    with pytest.raises(ConflictError, match=r"deleting .*k: it is at version"):
        bucket.delete("k", expected=first)
    with pytest.raises(ConflictError):
        bucket.delete("k", expected=ABSENT)
    assert bucket.stat("k") is not None
    bucket.delete("k", expected=second)
    assert bucket.stat("k") is None
    bucket.delete("k", expected=second)
    assert list(bucket.list()) == []


def test_what_was_deleted_can_be_made_again(bucket: Bucket) -> None:
    first = bucket.write("k", b"same", expected=ABSENT)
    bucket.delete("k")
    second = bucket.write("k", b"same", expected=ABSENT)
    assert (second == first) == _by_content(bucket)
    bucket.write("folder/k", b"", expected=ABSENT)
    bucket.delete("folder/k")
    bucket.write("folder", b"now an object", expected=ABSENT)


@pytest.mark.parametrize("size", [0, 1, 9_000_000])
def test_bytes_and_files_of_any_size(bucket: Bucket, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    file = tmp_path / "content"
    file.write_bytes(content)

    for key, data in (("bytes", content), ("file", file)):
        version = bucket.write(key, data, expected=ABSENT)
        stored = bucket.read(key)
        assert stored is not None
        assert stored.data == content
        assert stored.version == version
        assert bucket.stat(key) == Entry(key, version, size)


def test_a_file_of_several_chunks(bucket: Bucket, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(os.urandom(1_000_003) * 34)
    version = bucket.write("large", file, expected=ABSENT)
    stored = bucket.read("large")
    assert stored is not None
    assert stored.data == file.read_bytes()
    with pytest.raises(ConflictError):
        bucket.write("large", file.read_bytes()[:-1], expected=ABSENT)
    assert bucket.write("large", file, expected=ABSENT) == version


@pytest.mark.parametrize("size", [0, 1, 9_000_000])
def test_a_fetched_file_is_the_object(bucket: Bucket, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    version = bucket.write("a/k", content, expected=ABSENT)
    (listed,) = bucket.list(checksums=True)
    file = tmp_path / "fetched"
    for how in (None, listed):
        assert bucket.fetch("a/k", file, listed=how) == version
        assert file.read_bytes() == content
    newer = bucket.write("a/k", content + b"!", expected=version)
    assert bucket.fetch("a/k", file, listed=listed) == newer  # it is another object by now
    assert file.read_bytes() == content + b"!"
    for key in ("nothing", "a", "a/k/below"):
        with pytest.raises(ObjectNotFoundError, match=f"fetching .*{key}: there is no such object"):
            bucket.fetch(key, file)
    with pytest.raises(FileNotFoundError):
        bucket.fetch("a/k", tmp_path / "no folder" / "file")
    assert file.read_bytes() == content + b"!"
    assert not [each for each in tmp_path.iterdir() if each.name.endswith(".part")]


def test_a_file_that_is_not_what_was_listed_is_not_kept(bucket: Bucket, tmp_path: Path) -> None:
    bucket.write("k", b"content", expected=ABSENT)
    listed = bucket.stat("k", checksum=True)
    assert listed is not None
    wrong = listed.checksum[:-4] + "AAAA"
    # That it was damaged on its way is tried again, as long as there is patience.
    impatient = open_bucket(bucket.uri, patience=0.3)
    with pytest.raises(BucketError, match=r"fetching .*k: "):
        impatient.fetch("k", tmp_path / "file", listed=replace(listed, checksum=wrong))
    assert not [each for each in tmp_path.iterdir() if each.is_file()]


def test_a_file_that_cannot_be_read(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(BucketError, match=r"cannot read the file to send, .*missing: No such file"):
        bucket.write("k", tmp_path / "missing", expected=ABSENT)
    assert list(bucket.list()) == []


def test_awkward_keys(bucket: Bucket) -> None:
    for key in AWKWARD:
        version = bucket.write(key, key.encode(), expected=ABSENT)
        stored = bucket.read(key)
        assert stored is not None
        assert stored.data == key.encode()
        assert list(bucket.list()) == [Entry(key, version, len(key.encode()))]
        assert list(bucket.list(key[:-1])) == list(bucket.list())
        bucket.delete(key)
        assert bucket.stat(key) is None


def test_keys_that_no_bucket_holds(bucket: Bucket) -> None:
    for key, problem in (
        ("", "empty"),
        ("/etc/passwd", "slash"),
        ("a/", "slash"),
        ("a//b", "slash"),
        ("..", r"'\.\.'"),
        ("../escaped", r"'\.\.'"),
        ("a/../../escaped", r"'\.\.'"),
        ("a/./b", r"'\.'"),
        ("a\0b", "NUL"),
        ("a\nb", "line end"),
        ("a\rb", "line end"),
        ("a\udc80", "surrogate"),
        ("ü" * 128, "longer than 255 bytes"),
        ("/".join(["y" * 255] * 3) + "/" + "z" * 133, "longer than 900 bytes"),
        (".kaggleops/locks/1", "not for objects"),
    ):
        for use in (
            bucket.read,
            lambda key: bucket.write(key, b"", expected=ABSENT),
            bucket.stat,
            bucket.delete,
        ):
            with pytest.raises(InvalidKeyError, match=problem):
                use(key)
    assert list(bucket.list()) == []


def test_prefixes_that_no_key_starts_with(bucket: Bucket) -> None:
    for prefix in ("/", "../", "a//", "a/../b", ".kaggleops/", "a\n"):
        with pytest.raises(InvalidKeyError):
            bucket.list(prefix)


def test_listings(bucket: Bucket) -> None:
    keys = ["a", "a-b/c", "ab", "b/1", "b/10", "b/2/x", "b/2/y/z", "b!", "c", "é", "z", "🙂"]
    for key in reversed(keys):
        bucket.write(key, key.encode(), expected=ABSENT)

    def listed(prefix: str = "", **how: object) -> list[str]:
        return [entry.key for entry in bucket.list(prefix, **how)]  # type: ignore[arg-type]

    assert listed() == sorted(keys, key=str.encode)
    assert listed("b/") == ["b/1", "b/10", "b/2/x", "b/2/y/z"]
    assert listed("b") == ["b!", "b/1", "b/10", "b/2/x", "b/2/y/z"]
    assert listed("b/1") == ["b/1", "b/10"]
    assert listed("nothing/") == listed("b/1/") == listed("a/") == []
    assert listed(recursive=False) == ["a", "ab", "b!", "c", "z", "é", "🙂"]
    assert listed("b/", recursive=False) == ["b/1", "b/10"]
    assert listed("b/2", recursive=False) == []
    assert listed("a", recursive=False) == ["a", "ab"]


def test_globs(bucket: Bucket) -> None:
    keys = ["r/1/meta", "r/1/x/meta", "r/2/meta", "r/22/meta", "r/2/data", "meta", "r/{a}/meta"]
    for key in keys:
        bucket.write(key, b"", expected=ABSENT)

    def found(glob: str, prefix: str = "", **how: object) -> list[str]:
        return [entry.key for entry in bucket.list(prefix, glob=glob, **how)]  # type: ignore[arg-type]

    assert found("r/*/meta") == ["r/1/meta", "r/2/meta", "r/22/meta", "r/{a}/meta"]
    assert found("r/?/meta") == ["r/1/meta", "r/2/meta"]
    assert found("r/*") == []
    assert found("*") == ["meta"]
    assert found("**") == sorted(keys)
    assert found("**meta") == sorted(set(keys) - {"r/2/data"})
    assert found("r/**/meta") == sorted(set(keys) - {"r/2/data", "meta"})
    assert found("r/2/*", "r/2/") == ["r/2/data", "r/2/meta"]
    assert found("**meta", "r/1/") == ["r/1/meta", "r/1/x/meta"]
    assert found("**meta", "r/1/", recursive=False) == ["r/1/meta"]
    assert found("r/2*/me.a") == []
    with pytest.raises(InvalidKeyError, match="more than"):
        found("r/[12]/meta")


def test_more_objects_than_a_page_of_a_listing_holds(
    bucket: Bucket, request: pytest.FixtureRequest
) -> None:
    keys = [f"runs/{number:04}" for number in range(1100)]
    if request.node.callspec.params["bucket"] in ("gcs", "testbench", "s3", "s3-versioned"):
        server = server_of(bucket, request)  # past which they lie there at once
        assert server
        made = [server.put("our-bucket", f"some/prefix/{key}", b"x").version for key in keys]
    else:
        with ThreadPoolExecutor(8) as threads:
            made = list(threads.map(lambda key: bucket.write(key, b"x", expected=ABSENT), keys))
    assert list(bucket.list("runs/")) == [
        Entry(key, version, 1) for key, version in zip(keys, made, strict=True)
    ]
    assert len(list(bucket.list("runs/", recursive=False))) == 1100
    assert next(bucket.list()).key == "runs/0000"


def test_the_address_opens_the_same_bucket(bucket: Bucket) -> None:
    version = bucket.write("a b/k", b"", expected=ABSENT)
    for uri in (bucket.uri, f"{bucket.uri}/", f"{bucket.uri}/mlruns"):
        again = open_bucket(uri)
        assert again.uri == bucket.uri
        assert list(again.list()) == [Entry("a b/k", version, 0)]
    assert bucket.object_uri("a b/k") == f"{bucket.uri}/a b/k"
    assert bucket.object_uri("") == bucket.uri


_PARTS = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="/\0\r\n"),
    min_size=1,
    max_size=20,
).filter(lambda part: part not in (".", "..", HIDDEN_FOLDER))


@settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(parts=st.lists(_PARTS, min_size=1, max_size=4), data=st.binary(max_size=100))
def test_any_key_comes_back(bucket: Bucket, parts: list[str], data: bytes) -> None:
    key = "/".join(parts)
    version = bucket.write(key, data, expected=ABSENT)
    stored = bucket.read(key)
    assert stored is not None
    assert (stored.key, stored.version, stored.data) == (key, version, data)
    assert list(bucket.list(key)) == [Entry(key, version, len(data))]
    bucket.delete(key, expected=version)
    assert list(bucket.list()) == []
