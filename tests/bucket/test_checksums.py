"""Checksums as services tell them."""

import hashlib
import io
from pathlib import Path

import pytest

from kaggleops.bucket.checksums import checksum_of, is_kind, kind_of, of_parts


def as_uploaded(content: bytes, size: int) -> str:
    """Return the ETag of an upload in parts, as S3 makes it."""
    parts = [content[at : at + size] for at in range(0, len(content), size)] or [b""]
    digests = b"".join(hashlib.md5(part).digest() for part in parts)
    return f"{hashlib.md5(digests).hexdigest()}-{len(parts)}"


@pytest.mark.parametrize("length", [0, 1, 5_000_000, 5_000_001, 10_000_000, 12_345_678])
@pytest.mark.parametrize("size", [5_000_000, 1 << 23])
def test_the_etag_of_an_upload_in_parts(tmp_path: Path, length: int, size: int) -> None:
    content = (b"0123456789abcde" * (length // 15 + 1))[:length]
    file = tmp_path / "file"
    file.write_bytes(content)
    told = of_parts(as_uploaded(content, size), size)
    assert checksum_of(file, kind_of(told)) == told
    assert checksum_of(io.BytesIO(content + b"!"), kind_of(told)) != told


def test_which_kinds_there_are() -> None:
    known = ("crc32c", "md5", "sha256", "etag-8388608")
    assert all(map(is_kind, known))
    for kind in known:
        assert kind_of(checksum_of(io.BytesIO(b"x"), kind)) == kind
    assert not any(map(is_kind, ("", "crc64", "etag", "etag-0", "etag-x", "etag-5:")))
