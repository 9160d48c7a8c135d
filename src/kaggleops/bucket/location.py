"""What people type for a bucket, and the one address that each way of typing it comes to.

`bucket_uri` is idempotent, and every address it returns opens the same place again. An address
never ends in `/mlruns`: that is the tracking URI's part, so both can be given wherever one is asked
for.
"""

import difflib
import os
import re
import urllib.parse
from pathlib import Path, PurePosixPath

from kaggleops.bucket.base import MAX_PREFIX_BYTES, Bucket, is_key
from kaggleops.errors import UsageError
from kaggleops.layout import MLRUNS

_FOLDER = "bucket+file"
CLOUD_STORAGE = "gs://"
SCHEMES = ("gs", _FOLDER)
"""What an address of a bucket starts with."""

_KNOWN = "Use gs://BUCKET[/PREFIX], bucket+file:///FOLDER, or the path of a folder."

# https://cloud.google.com/storage/docs/buckets#naming; 222 characters only where there are dots.
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_IP_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")
_WEB_ADDRESSES = re.compile(
    r"https?://(?:storage\.googleapis\.com|storage\.cloud\.google\.com"
    r"|console\.cloud\.google\.com/storage/browser)/+([^?#;]+)"
)


def bucket_uri(text: str) -> str:
    """Return the address of a bucket's root: `gs://bucket/prefix` or `bucket+file:///folder`.

    Args:
        text: such an address, with or without a slash or `/mlruns` behind it, or a plain path
            (relative to the working directory; `~` is the home directory).

    Raises:
        UsageError: it is no address of a bucket.
    """
    place = _parse(text)
    if isinstance(place, Path):
        return "bucket+" + place.as_uri()
    name, prefix = place
    return f"gs://{name}/{prefix}" if prefix else f"gs://{name}"


def tracking_uri(text: str) -> str:
    """Return what to set as MLflow's tracking URI for the bucket that `text` names."""
    return f"{bucket_uri(text)}/{MLRUNS}"


def is_bucket(uri: str) -> bool:
    """Tell whether that is an address of a bucket, as `bucket_uri` or `tracking_uri` returns it."""
    return uri.partition(":")[0].lower() in SCHEMES


def is_remote(uri: str) -> bool:
    """Tell whether other machines reach the bucket, or what lies in one: it is no folder here."""
    return is_bucket(uri) and uri.partition(":")[0].lower() != _FOLDER


def name_and_prefix(uri: str) -> tuple[str, str]:
    """Return the name of a remote bucket, and the prefix in it ("" for none)."""
    name, _, prefix = uri.partition("://")[2].partition("/")
    return name, prefix


def console_url(uri: str) -> str:
    """Return the page on which a service shows what lies at an address; "" where there is none."""
    path = urllib.parse.quote(uri.partition("://")[2])
    return f"https://console.cloud.google.com/storage/browser/{path}" if is_remote(uri) else ""


def open_bucket(uri: str, *, patience: float = 120.0) -> Bucket:
    """Return the bucket that `uri` names, in any form that `bucket_uri` understands.

    Nothing is contacted yet, so a bucket that does not exist shows at its first use.

    Args:
        uri: which bucket.
        patience: for how many seconds one operation goes on retrying a passing fault. (An attempt
            that began in time is let finish, so a call may last up to twice as long.)

    Raises:
        UsageError: it is no address of a bucket.
    """
    place = _parse(uri)
    # Each kind is imported only where it is used: neither needs what the other does.
    if isinstance(place, Path):
        from kaggleops.bucket.directory import DirectoryBucket

        return DirectoryBucket(place, patience=patience)
    from kaggleops.bucket.gcs import GcsBucket

    return GcsBucket(*place, patience=patience)


def _parse(text: str) -> Path | tuple[str, str]:
    """Return the folder, or the name and the prefix of a bucket on Cloud Storage."""
    text = text.strip()
    doing = f"opening the bucket {text!r}"
    if not text:
        raise UsageError("opening a bucket", "its address is empty", _KNOWN)
    scheme, separator, rest = text.partition("://")
    if not separator:
        _refuse_lost_slashes(text, doing)
        return _folder_typed(text, doing)
    if scheme.lower() == "gs":
        return _cloud_storage(rest, doing)
    if scheme.lower() == "bucket+file":
        return _folder_of_uri(rest, doing)
    raise UsageError(doing, f"unsupported bucket scheme {scheme}://", _did_you_mean(text))


def _cloud_storage(rest: str, doing: str) -> tuple[str, str]:
    name, _, path = rest.partition("/")
    if not name:
        raise UsageError(doing, "the name of the bucket is missing", _KNOWN)
    valid = _BUCKET_NAME.fullmatch(name) and not _IP_ADDRESS.fullmatch(name)
    if not valid or any(not 0 < len(part) <= 63 for part in name.split(".")):
        problem = f"{name!r} cannot be the name of a bucket"
        hint = "Names are 3 to 63 lower-case letters, digits, dashes, underscores and dots."
        raise UsageError(doing, problem, f"{hint} {_KNOWN}")
    parts = _without_mlruns([part for part in path.split("/") if part])
    prefix = "/".join(parts)
    # MLflow cuts an artifact URI off at "?" and "#".
    if (prefix and not is_key(prefix)) or "?" in prefix or "#" in prefix:
        raise UsageError(doing, f"the prefix {prefix!r} cannot be part of an object's name", _KNOWN)
    if len(prefix.encode()) > MAX_PREFIX_BYTES:
        raise UsageError(doing, f"its prefix is longer than {MAX_PREFIX_BYTES} bytes", _KNOWN)
    return name, prefix


def _folder_of_uri(rest: str, doing: str) -> Path:
    host, slash, path = rest.partition("/")
    if host:
        meant = Path(rest).expanduser().as_uri() if host == "~" else f"file:///{rest}"
        problem = f"{host!r} looks like a host, and a folder has none"
        raise UsageError(doing, problem, f"Did you mean bucket+{meant}? {_KNOWN}")
    if not slash:
        raise UsageError(doing, "the folder is missing", _KNOWN)
    decoded = os.fsdecode(urllib.parse.unquote_to_bytes(path))
    if ".." in decoded.split("/"):
        raise UsageError(doing, "the address contains '..'", _KNOWN)
    return _folder(f"/{decoded}", doing)


def _folder_typed(text: str, doing: str) -> Path:
    try:
        expanded = Path(text).expanduser()
    except RuntimeError as error:  # ~nobody-of-that-name
        raise UsageError(doing, str(error), _KNOWN) from error
    # Not `resolve`: a link stays what people call the place, wherever it leads.
    return _folder(os.path.abspath(expanded), doing)  # noqa: PTH100


def _folder(path: str, doing: str) -> Path:
    if "\0" in path:
        raise UsageError(doing, "the path contains a NUL character", _KNOWN)
    # POSIX gives a leading "//" a meaning of its own, and a URI would take what follows for a host.
    parts = _without_mlruns(list(PurePosixPath("/" + path.lstrip("/")).parts[1:]))
    if not parts:
        raise UsageError(doing, "that is the root of the file system, not a folder in it", _KNOWN)
    return Path("/", *parts)


def _without_mlruns(parts: list[str]) -> list[str]:
    # All of them, lest parsing an address a second time lead somewhere else.
    while parts and parts[-1] == MLRUNS:
        parts = parts[:-1]
    return parts


def _refuse_lost_slashes(text: str, doing: str) -> None:
    """Refuse `gs:/bucket` and the like, which would make a folder of that name."""
    match = re.match(r"(gs|gcs|bucket\+file|file):(/*)(.*)", text, re.IGNORECASE)
    if match:
        scheme, _, rest = match.groups()
        slashes = "//" if scheme.lower() in {"gs", "gcs"} else "///"
        raise UsageError(doing, "it lacks slashes", _did_you_mean(f"{scheme}:{slashes}{rest}"))


def _did_you_mean(text: str) -> str:
    web = _WEB_ADDRESSES.match(text)
    scheme, _, rest = text.partition("://")
    same = {"gcs": "gs", "file": "bucket+file", "gs": "gs", "bucket+file": "bucket+file"}
    close = difflib.get_close_matches(scheme.lower(), same, n=1, cutoff=0.75)
    if web:
        return f"Did you mean gs://{web.group(1).rstrip('/')}? {_KNOWN}"
    if close:
        return f"Did you mean {same[close[0]]}://{rest}? {_KNOWN}"
    return _KNOWN
