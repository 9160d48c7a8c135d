"""Where an import reads artifacts: a folder on this machine, or a prefix of a remote bucket.

Only plain files are seen: a link could lead anywhere, and what lies behind it would be copied into
a bucket that others may read.
"""

import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from kaggleops.bucket import Bucket, Entry, open_bucket
from kaggleops.bucket.directory import DirectoryBucket
from kaggleops.bucket.location import is_remote, root_and_prefix
from kaggleops.errors import KaggleOpsError, UsageError


class Place:
    """Where files lie.

    Args:
        address: the folder's path, or an address in a bucket.
        patience: as `open_bucket` has it.

    Raises:
        UsageError: it is in a kind of bucket that an import does not read.
        KaggleOpsError: the folder is a link.
    """

    def __init__(self, address: str | Path, *, patience: float = 120.0) -> None:
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
            root, prefix = root_and_prefix(self.uri)
            self._prefix = f"{prefix}/" if prefix else ""
            self.bucket = open_bucket(root, patience=patience)
            self.uri = self.bucket.object_uri(prefix)
        else:
            hint = "Copy it into a folder (rclone copy), and import that."
            problem = "an import reads artifacts from folders and buckets at gs:// and s3://"
            raise UsageError(f"reading {self.uri[:200]}", problem, hint)

    def files(self) -> Iterator[tuple[str, Entry]]:
        """Yield the files below it: their paths, and the bucket's entries."""

        def left_out(where: str, why: str) -> None:
            self.problems.append(f"importing {where}: {why}. It was skipped.")

        for entry in self.bucket.list(self._prefix, checksums=True, left_out=left_out):
            yield entry.key.removeprefix(self._prefix), entry


def local_path(uri: str) -> Path | None:
    """Return the path on this machine that a path or a `file:` URI names; None for any other."""
    scheme, separator, _ = uri.partition("://")
    if separator and scheme.lower() != "file":
        return None
    if uri[:5].lower() == "file:":
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(uri).path))
    return Path(uri).expanduser()
