"""Where an import reads files: a folder on this machine, or a prefix of a remote bucket.

Only plain files are seen: a link could lead anywhere, and what lies behind it would be copied into
a bucket that others may read.
"""

import io
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from kaggleops.bucket import Bucket, Entry, ObjectNotFoundError, open_bucket
from kaggleops.bucket.base import crc32c
from kaggleops.bucket.directory import DirectoryBucket
from kaggleops.bucket.location import is_remote, name_and_prefix
from kaggleops.errors import KaggleOpsError, UsageError

_AT_ONCE = 16
_MANY = 100  # files for which gcsfs is worth the second that importing it takes


class Place:
    """Where files lie.

    Args:
        address: the folder's path, or an address in a bucket.

    Raises:
        UsageError: it is in a kind of bucket that an import does not read.
        KaggleOpsError: the folder is a link.
    """

    def __init__(self, address: str | Path) -> None:
        self.uri = str(address).rstrip("/")
        self.problems: list[str] = []
        """What `files` left out, each with the reason."""
        self._prefix = ""
        path = address if isinstance(address, Path) else local_path(address)
        if path is not None:
            if path.is_symlink():
                hint = "Put the files themselves there."
                raise KaggleOpsError(f"reading {path}", "it is a symbolic link", hint)
            self.bucket: Bucket = DirectoryBucket(path.absolute())
        elif is_remote(self.uri):
            name, prefix = name_and_prefix(self.uri)
            self._prefix = f"{prefix}/" if prefix else ""
            self.bucket = open_bucket(f"{self.uri.partition('://')[0]}://{name}")
        else:
            hint = "Copy it into a folder (aws s3 sync, rclone copy), and import that."
            problem = "an import reads folders and gs:// addresses"
            raise UsageError(f"reading {self.uri[:200]}", problem, hint)

    def files(self) -> Iterator[tuple[str, Entry]]:
        """Yield the files below it: their paths, and the bucket's entries."""

        def left_out(where: str, why: str) -> None:
            self.problems.append(f"importing {where}: {why}. It was skipped.")

        checksums = self.bucket.lists_checksums
        for entry in self.bucket.list(self._prefix, checksums=checksums, left_out=left_out):
            yield entry.key.removeprefix(self._prefix), entry

    def read(self, entries: Sequence[Entry]) -> Iterator[tuple[str, bytes]]:
        """Yield the paths and contents of (small) files; those that are gone are left out."""
        found: dict[Entry, bytes] = {}

        def take(entry: Entry, content: bytes) -> None:
            if crc32c(io.BytesIO(content)) == entry.crc32c:
                found[entry] = content

        # All at once; then one by one what did not come right.
        if len(entries) >= _MANY:
            self.bucket.read_many(entries, take)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            left = [entry for entry in entries if entry not in found]
            found.update(each for each in pool.map(self._read, left) if each)
        yield from ((entry.key.removeprefix(self._prefix), found[entry]) for entry in found)

    def _read(self, entry: Entry) -> tuple[Entry, bytes] | None:
        with suppress(ObjectNotFoundError):
            if stored := self.bucket.read(entry.key):
                return entry, stored.data
        return None


def local_path(uri: str) -> Path | None:
    """Return the path on this machine that a path or a `file:` URI names; None for any other."""
    scheme, separator, _ = uri.partition("://")
    if separator and scheme.lower() != "file":
        return None
    if uri[:5].lower() == "file:":
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(uri).path))
    return Path(uri).expanduser()
