"""Each verb, used once on a bucket of Cloud Storage that holds the object `k`."""

from collections.abc import Callable
from pathlib import Path

from kaggleops.bucket import ABSENT, Bucket, open_bucket

LARGE = 9 * 1024 * 1024

USES: dict[str, Callable[[Bucket], object]] = {
    "read": lambda bucket: bucket.read("k"),
    "fetch": lambda bucket: bucket.fetch("k", Path("fetched")),
    "write": lambda bucket: bucket.write("new", b"new", expected=ABSENT),
    "write a large one": lambda bucket: bucket.write("new", bytes(LARGE), expected=ABSENT),
    "stat": lambda bucket: bucket.stat("k"),
    "delete": lambda bucket: bucket.delete("k"),
    "list": lambda bucket: list(bucket.list()),
}


def impatient(seconds: float = 0.3) -> Bucket:
    return open_bucket("gs://ours", patience=seconds)
