"""Checksums of contents, each with its kind before it: `KIND:DIGEST`.

The kinds are those that services tell: `crc32c` (in base64, as Cloud Storage writes it), `md5` and
`sha256` in hexadecimal digits, and `etag-SIZE`, the ETag that an object of S3 has when it was
uploaded in parts of SIZE bytes: the MD5 of the parts' MD5s, and how many there were.
"""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any, BinaryIO

CRC32C = "crc32c"
MD5 = "md5"
SHA256 = "sha256"

_OF_PARTS = re.compile(r"etag-([1-9]\d{0,12})")
_CHUNK = 1 << 20


def checksum_of(content: BinaryIO | Path, kind: str = CRC32C) -> str:
    """Return the checksum, of a kind for which `is_kind` holds, of a file or a stream's rest."""
    if isinstance(content, Path):
        with content.open("rb", buffering=0) as opened:
            return checksum_of(opened, kind)
    state = _state(kind)
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    while size := content.readinto(buffer):  # type: ignore[attr-defined]
        state.update(view[:size] if kind != CRC32C else bytes(view[:size]))
    digest = base64.b64encode(state.digest()).decode() if kind == CRC32C else state.hexdigest()
    return f"{kind}:{digest}"


def kind_of(checksum: str) -> str:
    """Return which kind a checksum is of."""
    return checksum.partition(":")[0]


def is_kind(kind: str) -> bool:
    """Tell whether checksums of a kind can be computed."""
    return kind in (CRC32C, MD5, SHA256) or bool(_OF_PARTS.fullmatch(kind))


def of_parts(etag: str, part_size: int) -> str:
    """Return the checksum that an ETag is, of an object uploaded in parts of `part_size` bytes."""
    return f"etag-{part_size}:{etag}"


def is_of_parts(checksum: str) -> bool:
    """Tell whether it is such an ETag's."""
    return bool(_OF_PARTS.fullmatch(kind_of(checksum)))


def new_md5() -> Any:
    """Return an empty MD5: it tells damage, and protects nothing."""
    return hashlib.md5(usedforsecurity=False)


def _state(kind: str) -> Any:
    if kind == CRC32C:
        import google_crc32c  # only whoever needs this kind has it

        return google_crc32c.Checksum()
    if parts := _OF_PARTS.fullmatch(kind):
        return _Parts(int(parts[1]))
    return hashlib.sha256() if kind == SHA256 else new_md5()


class _Parts:
    """The state of an ETag of parts of `size` bytes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._part, self._left = new_md5(), size
        self._digests: list[bytes] = []

    def update(self, content: memoryview) -> None:
        while content:
            if not self._left:
                self._digests.append(self._part.digest())
                self._part, self._left = new_md5(), self._size
            some = content[: self._left]
            self._part.update(some)
            self._left -= len(some)
            content = content[len(some) :]

    def hexdigest(self) -> str:
        digests = [*self._digests, self._part.digest()]
        whole = new_md5()
        whole.update(b"".join(digests))
        return f"{whole.hexdigest()}-{len(digests)}"
