"""What a key may be, and which keys a glob means: the same for every kind of bucket.

A key that one kind takes and another refuses would surface only when somebody moves a bucket, so
the rules are those that all kinds can keep: Cloud Storage's 1,024 bytes for the bucket's own prefix
and the key and its ban on line ends, a file system's 255 bytes a part and its ban on NUL, and no
part to climb out of the bucket with.
"""

import re

from kaggleops.bucket.base import InvalidKeyError

HIDDEN_FOLDER = ".kaggleops"
"""Where a `bucket+file` bucket keeps its locks and unfinished writes; no key may start with it."""

MAX_PREFIX_BYTES = 123
"""How long the prefix in a bucket's address may be."""

_MAX_KEY_BYTES = 1024 - MAX_PREFIX_BYTES - 1  # a slash between them
_MAX_PART_BYTES = 255


def check_key(key: str, doing: str) -> None:
    """Raise `InvalidKeyError` if `key` cannot be the key of an object in every kind of bucket."""
    problem = _problem_with(key)
    if problem:
        raise InvalidKeyError(doing, problem, _HINT)


def check_prefix(prefix: str, doing: str) -> None:
    """Raise `InvalidKeyError` if no valid key could start with `prefix`."""
    # A letter completes a part that was cut off anywhere, also after "." or "..".
    problem = _problem_with(prefix + "x")
    if problem:
        raise InvalidKeyError(doing, problem, _HINT)


def is_key(key: str) -> bool:
    """Tell whether `key` is one that this project could have written.

    Listings leave out the others (a console's "folder/" placeholder, a file name that is not
    UTF-8), because nothing could be done with them: reading them is refused.
    """
    return _problem_with(key) is None


def compile_glob(glob: str, doing: str) -> re.Pattern[str]:
    """Return the pattern whose `fullmatch` accepts the keys that `glob` means.

    `*` and `?` stop at "/", `**` does not. Brackets, braces and backslashes are refused, because
    their finer points differ between implementations.
    """
    if re.search(r"[\[\]{}\\]", glob):
        raise InvalidKeyError(doing, f"the glob {glob!r} uses more than *, ** and ?", "")
    parts = re.split(r"(\*\*|\*|\?)", glob)
    wild = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(wild.get(part) or re.escape(part) for part in parts), re.DOTALL)


_HINT = "A key is a relative path such as mlruns/0123/meta.tar.gz."


def _problem_with(key: str) -> str | None:
    if not key:
        return "the key is empty"
    if re.search(r"[\0\r\n\ud800-\udfff]", key):
        return f"the key {key!r} contains a line end, a NUL or half of a surrogate pair"
    parts = key.split("/")
    if "" in parts:
        return f"the key {key!r} starts or ends with a slash, or has two in a row"
    if "." in parts or ".." in parts:
        return f"the key {key!r} contains the part '.' or '..'"
    if parts[0] == HIDDEN_FOLDER:
        return f"the folder {HIDDEN_FOLDER} is not for objects"
    if len(key.encode()) > _MAX_KEY_BYTES:
        return f"the key {key[:40]!r}… is longer than {_MAX_KEY_BYTES} bytes"
    if any(len(part.encode()) > _MAX_PART_BYTES for part in parts):
        return f"a part of the key {key[:40]!r}… is longer than {_MAX_PART_BYTES} bytes"
    return None
