"""The content of a write: bytes, or a file that is streamed."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
