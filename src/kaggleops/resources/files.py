"""A file at its source or in the lock, and the checksums that tell it from a look-alike."""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaggleops.errors import KaggleOpsError, UsageError

CRC32C = "crc32c"
"""What Cloud Storage knows of every object, and what is computed where a source knows nothing."""

_CHUNK = 1 << 20


@dataclass(frozen=True, order=True)
class File:
    """One file of a resource.

    Args:
        name: its path below the resource's destination, with "/".
        size: in bytes; -1 where the source does not say.
        version: what the source calls this state of it (Cloud Storage: its generation; Kaggle: the
            dataset's version), "" where it knows none.
        checksum: "crc32c:…" as Cloud Storage writes it (base64), "md5:…" or "sha256:…" in
            hexadecimal digits; "" where the source does not say.
    """

    name: str
    size: int = -1
    version: str = ""
    checksum: str = ""

    @property
    def known(self) -> bool:
        """Whether a copy can be told from any other file."""
        return self.size >= 0 and bool(self.checksum)

    def same_content(self, other: "File") -> bool:
        """Tell whether both are known to hold the same bytes, whatever their versions."""
        return self.known and (self.size, self.checksum) == (other.size, other.checksum)


def checksum_of(path: Path, kind: str = CRC32C) -> str:
    """Return a file's checksum, written as in `File.checksum`.

    Args:
        path: the file.
        kind: "crc32c", "md5" or "sha256".
    """
    state = _START[kind]()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as opened:
        while size := opened.readinto(buffer):
            state.update(view[:size] if kind != CRC32C else bytes(view[:size]))
    digest = base64.b64encode(state.digest()).decode() if kind == CRC32C else state.hexdigest()
    return f"{kind}:{digest}"


def kind_of(checksum: str) -> str:
    """Return which kind a checksum is of."""
    return checksum.partition(":")[0]


def check_checksum(text: str, doing: str) -> str:
    """Return a checksum as the manifest has it, in lower case.

    Raises:
        UsageError: it is none that could be checked.
    """
    kind, _, digits = text.strip().lower().partition(":")
    length = {"sha256": 64, "md5": 32}.get(kind)
    if length is None or len(digits) != length or set(digits) - set("0123456789abcdef"):
        hint = "Write sha256:… or md5:… with the digits that `sha256sum FILE` prints."
        raise UsageError(doing, f"{text!r} is no checksum", hint)
    return f"{kind}:{digits}"


def verify(path: Path, expected: File, doing: str) -> None:
    """Make sure that a copy is what it should be.

    Raises:
        KaggleOpsError: it has another size or another checksum.
    """
    size = path.stat().st_size
    if size != expected.size:
        raise DamagedError(doing, f"it has {size:,} bytes instead of {expected.size:,}")
    found = checksum_of(path, kind_of(expected.checksum))
    if found != expected.checksum:
        raise DamagedError(doing, f"its checksum is {found} instead of {expected.checksum}")


class DamagedError(KaggleOpsError):
    """What came is not what was asked for."""


def _crc32c() -> Any:
    import google_crc32c

    return google_crc32c.Checksum()


_START: dict[str, Callable[[], Any]] = {
    CRC32C: _crc32c,
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "sha256": hashlib.sha256,
}

KINDS = frozenset(_START)
"""Of the checksums that can be computed."""
