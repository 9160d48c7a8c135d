"""Contents that are streamed: of a write, bytes or a file; of a fetch, a file that is made."""

import base64
import io
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kaggleops.bucket.base import BucketError


@contextmanager
def opened(data: bytes | Path, doing: str) -> Iterator[io.BytesIO | io.BufferedReader]:
    """Yield a stream at the start of `data`.

    Raises:
        BucketError: the file cannot be opened. (Not an OSError: those speak of the bucket's side.)
    """
    if isinstance(data, bytes):
        yield io.BytesIO(data)
        return
    try:
        stream = data.open("rb")
    except OSError as error:
        problem = f"cannot read the file to send, {data}: {error.strerror}"
        raise BucketError(doing, problem) from error
    with stream:
        yield stream


@contextmanager
def made(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that gets the name `path` in the end; after an error, nothing is left."""
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("x+b") as stream:
            yield stream
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def crc32c(content: BinaryIO) -> str:
    """Return the checksum of the rest of a stream as Cloud Storage writes it."""
    import google_crc32c  # only whoever compares contents needs it

    checksum = google_crc32c.Checksum()
    while block := content.read(1 << 20):
        checksum.update(block)
    return base64.b64encode(checksum.digest()).decode()
