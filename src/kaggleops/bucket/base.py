"""The narrow interface to a bucket, and what it promises whatever the kind.

1. An object is read whole, with its version; nobody ever sees half of one. One that is too large
   for the memory is refused before its content comes.
2. A write names the version it replaces (`ABSENT` to create) and fails with `ConflictError` if
   the object has changed meanwhile. So two writers can never overwrite each other unseen.
3. A write whose answer was lost and that is sent again does not conflict with itself: where the
   object already holds exactly the content to be written, the write has succeeded.
4. Reads, lists and stats see every write that returned before they began.
5. A passing fault (a reset, 408, 429, 5xx, a proxy's page in an answer's place) is retried with
   backoff for the bucket's `patience`; what remains is a `BucketUnavailableError`. A lasting one
   (no such bucket, no permission) is raised at once. Each error says what was being done, to which
   object, why it failed and what to do.
6. A file that is fetched gets its name only once it is whole and has the object's checksum.

Keys are relative, "/"-separated, without empty, "." or ".." parts (`check_key` knows all). A
folder cannot hold both `a` and `a/b` as a bucket of Google's can, so nobody should write both.

A key that one kind takes and another refuses would surface only when somebody moves a bucket, so
the rules are those that all kinds can keep: Cloud Storage's 1,024 bytes for the bucket's own prefix
and the key and its ban on line ends, a file system's 255 bytes a part and its ban on NUL, and no
part to climb out of the bucket with.
"""

import io
import mimetypes
import re
import secrets
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from kaggleops.errors import KaggleOpsError, UsageError

HIDDEN_FOLDER = ".kaggleops"
"""Where a bucket keeps what is its own (a folder its locks and unfinished writes, one of s3:// what
its service was proven to do); no key may start with it."""

MAX_PREFIX_BYTES = 123
"""How long the prefix in a bucket's address may be."""

_MAX_KEY_BYTES = 1024 - MAX_PREFIX_BYTES - 1  # a slash between them
_MAX_PART_BYTES = 255


def check_key(key: str, doing: str) -> None:
    """Raise `InvalidKeyError` if `key` cannot be the key of an object in every kind of bucket."""
    if problem := _problem_with(key):
        hint = "A key is a relative path such as mlruns/0123/meta.tar.gz."
        raise InvalidKeyError(doing, problem, hint)


def check_prefix(prefix: str, doing: str) -> None:
    """Raise `InvalidKeyError` if no valid key could start with `prefix`."""
    # A letter completes a part that was cut off anywhere, also after "." or "..".
    check_key(prefix + "x", doing)


def is_key(key: str) -> bool:
    """Tell whether `key` is one that this project could have written.

    Listings leave out the others (a console's "folder/" placeholder, a file name that is not
    UTF-8), because nothing could be done with them: reading them is refused.
    """
    return _problem_with(key) is None


def compile_glob(glob: str, doing: str) -> re.Pattern[str]:
    """Return the pattern whose `fullmatch` accepts the keys that `glob` means.

    `*` and `?` stop at "/", `**` does not. Brackets, braces and backslashes are refused, because
    their finer points differ between implementations. Raises InvalidKeyError, which says `doing`,
    if it has any.
    """
    if re.search(r"[\[\]{}\\]", glob):
        raise InvalidKeyError(doing, f"the glob {glob!r} uses more than *, ** and ?", "")
    parts = re.split(r"(\*\*|\*|\?)", glob)
    wild = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(wild.get(part) or re.escape(part) for part in parts), re.DOTALL)


def _problem_with(key: str) -> str | None:
    parts = key.split("/")
    if not key:
        return "the key is empty"
    if re.search(r"[\0\r\n\ud800-\udfff]", key):
        return f"the key {key!r} contains a line end, a NUL or half of a surrogate pair"
    if "" in parts:
        return f"the key {key!r} starts or ends with a slash, or has two in a row"
    if {".", ".."} & set(parts):
        return f"the key {key!r} contains the part '.' or '..'"
    if parts[0] == HIDDEN_FOLDER:
        return f"the folder {HIDDEN_FOLDER} is not for objects"
    if len(key.encode()) > _MAX_KEY_BYTES:
        return f"the key {key[:40]!r}… is longer than {_MAX_KEY_BYTES} bytes"
    if any(len(part.encode()) > _MAX_PART_BYTES for part in parts):
        return f"a part of the key {key[:40]!r}… is longer than {_MAX_PART_BYTES} bytes"
    return None


LeftOut = Callable[[str, str], object]

Version = str
"""Changes with an object's content, and nearly everywhere with every write (on s3:// it is the
content's). Opaque: compare for equality only."""

ABSENT: Version = "0"
"""The version of an object that does not exist (as GCS has it: ifGenerationMatch=0)."""

AT_MOST = 256 << 20
"""How many bytes of an object are read into memory: whoever can write to a bucket can make one of
terabytes."""


class BucketError(KaggleOpsError):
    """Anything that went wrong between us and a bucket."""


class BucketNotFoundError(BucketError):
    """The bucket itself does not exist.

    A `bucket+file` bucket is made by the first write, so there only the other verbs raise this.
    """


class AccessDeniedError(BucketError):
    """No credentials, expired ones, or ones without the permission."""


class BucketUnavailableError(BucketError):
    """A passing fault that outlasted the bucket's patience: the same call may work later.

    A full disk is one too, although nobody waits for it: it can be mended without us.
    """


class ObjectNotFoundError(BucketError):
    """No object has that key."""


class ObjectTooLargeError(BucketError):
    """The object has more bytes than are wanted in memory; none of them has come."""

    def __init__(self, doing: str, size: int, at_most: int, version: Version) -> None:
        super().__init__(doing, f"it has {size:,} bytes, and {at_most:,} are the most for it")
        self.version = version


class ConflictError(BucketError):
    """The object is not at the version the caller expected."""


def conflict(doing: str, expected: Version, now: Version) -> ConflictError:
    """Return the error that an object is at another version than the one it had to be at."""
    problem = f"it is at version {now}, not {expected}: somebody else has written it"
    return ConflictError(doing, problem, "Read it again first.")


class InvalidKeyError(BucketError, UsageError):
    """No kind of bucket could hold an object with that key."""


@dataclass(frozen=True)
class Entry:
    """One object as a listing shows it."""

    key: str
    version: Version
    size: int  # bytes
    updated_ms: int = field(default=0, compare=False)
    """When it was last written, in milliseconds since the epoch, by the bucket's own clock: it
    tells of one object's age, and says nothing about which of two is newer."""
    checksum: str = field(default="", compare=False)
    """The content's (checksums.py); "" unless it was asked for and is known."""


@dataclass(frozen=True)
class StoredObject:
    """One object's whole content at one version."""

    key: str
    version: Version
    data: bytes


class Listing(NamedTuple):
    """What `Bucket.list` is asked for, and what is being done, for errors."""

    prefix: str = ""
    recursive: bool = True
    glob: str | None = None
    checksums: bool = False
    left_out: LeftOut = lambda where, why: None
    doing: str = ""


class Bucket(ABC):
    """A place for objects. Safe to use from several threads and from forked processes."""

    uri: str
    """The address of key "" without a trailing slash, e.g. `gs://my-bucket/prefix`."""

    artifact_uri: str
    """The same place as MLflow's own artifact repositories address it
    (`gs://my-bucket/prefix`, `file:///home/me/bucket`)."""

    keeps_deleted = ""
    """What people should know of objects that are deleted with all their versions, if anything."""

    def prepare(self) -> None:  # noqa: B027 - most kinds have nothing to make
        """Make the bucket where that is ours to do (a folder); called before a run logs there.

        Reading never makes one, so that a mistyped address is an error and not an empty bucket.
        """

    def expect(self) -> None:  # noqa: B027 - most kinds cannot be taken for an empty one
        """Note that somebody has prepared it before: it is not made once more, if it is away."""

    @abstractmethod
    def read(
        self, key: str, *, unless: Version | None = None, at_most: int = AT_MOST
    ) -> StoredObject | None:
        """Return the object, or None if it is still at version `unless` (a cheap request).

        `unless=ABSENT` asks for the object if there is one by now, and gets None as long as there
        is none. Raises ObjectNotFoundError if there is none, ObjectTooLargeError if it has more
        than `at_most` bytes.
        """

    @abstractmethod
    def fetch(self, key: str, into: Path, *, listed: Entry | None = None) -> Version:
        """Write the object's content into a file and return its version, a large one in pieces.

        A file that is there is replaced once the content has come. If the object is still at the
        version that was `listed`, it has to have the checksum that the listing told. Raises
        ObjectNotFoundError if there is no such object, OSError if the file cannot be written.
        """

    def read_span(
        self, entry: Entry, into: BinaryIO, start: int = 0, end: int | None = None
    ) -> None:
        """Write a listed object's bytes from `start` until before `end` to where a stream stands.

        Nothing is verified: whoever has all parts has a checksum, too. Raises ObjectNotFoundError
        if it is not there at that version any more.
        """
        there = self.read(entry.key)
        if there is None or there.version != entry.version:
            doing = f"fetching {self.object_uri(entry.key)}"
            raise ObjectNotFoundError(doing, "it is not at that version any more")
        into.write(there.data[start:end])

    def read_many(self, entries: Sequence[Entry], take: Callable[[Entry, bytes], None]) -> None:
        """Hand out the contents of small listed objects, in any order, as fast as they come.

        One that does not come is left out, as is one that is not sure to be what was listed:
        `fetch` may have more patience, or says what is wrong. One thread calls `take`; what that
        raises ends this. Where a listing tells checksums, the entries have to have them.
        """
        for entry in entries:
            content = io.BytesIO()
            try:
                self.read_span(entry, content)
            except BucketError:
                continue
            take(entry, content.getvalue())

    @abstractmethod
    def write(self, key: str, data: bytes | Path, *, expected: Version) -> Version:
        """Write the object whole if it is still at version `expected`; return its version.

        `data` is the content, or a file that holds it (for large ones: it is streamed). Where the
        object is at another version but holds exactly that, that version is returned; where it
        holds another content, ConflictError is raised.
        """

    @abstractmethod
    def stat(self, key: str, *, checksum: bool = False) -> Entry | None:
        """Return the object's version and size, or None if there is none.

        With `checksum`, its checksum, too ("" where nothing but the content tells it): a folder
        reads the file for it, S3 may take a second request.
        """

    @abstractmethod
    def delete(self, key: str, *, expected: Version | None = None) -> None:
        """Delete the object; that it is gone already is no error.

        Raises ConflictError if it is at another version than `expected`.
        """

    def list(
        self,
        prefix: str = "",
        *,
        recursive: bool = True,
        glob: str | None = None,
        checksums: bool = False,
        left_out: LeftOut = lambda where, why: None,
    ) -> Iterator[Entry]:
        """Yield the objects whose keys start with `prefix`, in the order of their keys.

        Args:
            prefix: the start of the keys, "/" included where a folder is meant.
            recursive: False leaves out keys that have a "/" after the prefix.
            glob: only keys that match as a whole; `*` and `?` stop at "/", `**` does not.
            checksums: whether to say `checksum`, where a listing knows it (Cloud Storage's).
            left_out: called with the address of each object that lies there and is not listed,
                and with the reason.
        """
        doing = f"listing {self.object_uri(prefix)}"
        check_prefix(prefix, doing)
        pattern = compile_glob(glob, doing) if glob is not None else None

        def wanted() -> Iterator[Entry]:
            # A kind may have left out what does not match; what matches is decided here, so that
            # all kinds agree.
            asked = Listing(prefix, recursive, glob, checksums, left_out, doing)
            for entry in self.listed(asked):
                key = entry.key
                deeper = not recursive and "/" in key[len(prefix) :]
                if not is_key(key):
                    # A placeholder for a folder, or what a copy of another kind has brought.
                    if not key.endswith("/") and not key.startswith(f"{HIDDEN_FOLDER}/"):
                        left_out(self.object_uri(key), "no object can have that name")
                elif not deeper and (pattern is None or pattern.fullmatch(key)):
                    yield entry

        return wanted()

    @abstractmethod
    def listed(self, asked: Listing) -> Iterator[Entry]:
        """Yield what `list` is asked for, or more: all that starts with the prefix, in order."""

    def old_versions(self, keys: Sequence[str]) -> Sequence[str]:
        """Return the commands that delete what versioning may keep of deleted objects.

        A key that ends in a slash is for all that were below it.
        """
        return []

    @contextmanager
    def on_disk(self, entry: Entry) -> Iterator[Path]:
        """Yield a file on this disk with a listed object's content; it is not to be changed.

        Raises ObjectNotFoundError if the object is gone, OSError if this disk does not take it.
        """
        with tempfile.TemporaryDirectory(prefix="kaggleops-") as folder:
            file = Path(folder, "content")
            self.fetch(entry.key, file, listed=entry)
            yield file

    def local_path(self, key: str) -> Path | None:
        """Return where a folder holds what has a key or is below it; None for other buckets."""
        return None

    def object_uri(self, key: str) -> str:
        """Return the address to show to people, e.g. `gs://my-bucket/prefix/key`."""
        return f"{self.uri}/{key}" if key else self.uri


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


def start_of(glob: str | None, prefix: str) -> str:
    """Return with what all keys start that have the prefix and match the glob."""
    literal = re.split(r"[*?]", glob or "")[0]
    return literal if literal.startswith(prefix) else prefix


def content_type(name: str) -> str:
    """Return what an object's content is served as."""
    # So that a browser shows a plot instead of saving it.
    kind, encoding = mimetypes.guess_type(name)
    return kind if kind and not encoding else "application/octet-stream"
