"""Each verb, used once on a bucket that holds the object `k`."""

from collections.abc import Callable
from pathlib import Path

from kaggleops.bucket import ABSENT, Bucket, open_bucket
from tests.fakes.object_server import ObjectServer


def large(uri: str) -> int:
    """Return a size, in bytes, that goes up in more than one request."""
    return 9 << 20 if uri.startswith("gs:") else (17 << 20) + 1


USES: dict[str, Callable[[Bucket], object]] = {
    "read": lambda bucket: bucket.read("k"),
    "fetch": lambda bucket: bucket.fetch("k", Path("fetched")),
    "write": lambda bucket: bucket.write("new", b"new", expected=ABSENT),
    "write a large one": lambda bucket: bucket.write(
        "new", bytes(large(bucket.uri)), expected=ABSENT
    ),
    "stat": lambda bucket: bucket.stat("k"),
    "delete": lambda bucket: bucket.delete("k"),
    "list": lambda bucket: list(bucket.list()),
}


def impatient(server: ObjectServer, seconds: float = 0.1) -> Bucket:
    """Return the bucket `ours` of a service."""
    return open_bucket(server.address("ours"), patience=seconds)
