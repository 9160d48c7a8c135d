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
from typing import NamedTuple

from kaggleops.bucket.base import MAX_PREFIX_BYTES, Bucket, is_key
from kaggleops.errors import UsageError
from kaggleops.layout import MLRUNS

_FOLDER = "bucket+file"
CLOUD_STORAGE = "gs://"
_REMOTE = ("gs", "s3", "s3+http")
S3_KEY = "s3"
"""The `type` of an access key, in what platforms keep of one."""
SCHEMES = (*_REMOTE, _FOLDER)
"""What an address of a bucket starts with."""

_KNOWN = (
    "Use gs://BUCKET[/PREFIX], s3://BUCKET[@HOST][/PREFIX], bucket+file:///FOLDER, or the path of "
    "a folder."
)

_HOST = re.compile(r"(?:[a-z0-9-]+(?:\.[a-z0-9-]+)*|\[[0-9a-f:]+\])(?::\d+)?")
_WITH_KEY = re.compile(
    r"(?i)(?!(?:bucket\+)?file:)(?:(?:gcs|gs|s3[an]?):/*|[a-z][a-z0-9+.-]*://)"
    r"(?:[^/@]*:.*@|[^/]*@[^/]*@|(?:[^/@]*@)?[^/@\[]*:(?!\d+(?:/|$)))"
)
"""An address with a user and a password, wherever people put them."""
_R2 = re.compile(r"([0-9a-f]{32})(?:\.(eu|fedramp))?\.r2\.cloudflarestorage\.com")
_ENDPOINT_OPTIONS = ("endpoint", "endpoint_url", "endpoint_override")  # as others spell it
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL")

# https://cloud.google.com/storage/docs/buckets#naming; 222 characters only where there are dots.
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_IP_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")
_SERVICE_HOST = re.compile(
    r"(?:.+\.)?(?:s3[.-].*amazonaws\.com|r2\.cloudflarestorage\.com|digitaloceanspaces\.com"
    r"|s3\.[\w-]+\.scw\.cloud|wasabisys\.com|your-objectstorage\.com|s3\.hf\.co)|[^@]+:\d{1,5}"
)


def bucket_uri(text: str, *, endpoint: str | None = None, region: str | None = None) -> str:
    """Return the address of a bucket's root, such as `gs://bucket/prefix`.

    `s3://bucket@host/prefix` is a bucket of the service at that host, `s3://bucket` one of
    Amazon's; `s3+http://` does without TLS.

    Args:
        text: such an address, with or without a slash or `/mlruns` behind it, or a plain path
            (relative to the working directory; `~` is the home directory). One of s3:// may name
            its endpoint as `?endpoint=URL`.
        endpoint: the URL of the service that has an s3:// bucket, which its address does not name.
        region: where Amazon has one, if neither of them says which service it is.

    Raises UsageError if it is no address of a bucket.
    """
    place = _parse(text, endpoint, region)
    if isinstance(place, Path):
        return "bucket+" + place.as_uri()
    path = f"/{place.prefix}" if place.prefix else ""
    return f"{place.scheme}://{place.name}{'@' if place.host else ''}{place.host}{path}"


def root_and_prefix(uri: str) -> tuple[str, str]:
    """Return the address of the whole remote bucket that an address is in, and the path in it.

    The path may be longer than a bucket's own prefix, and end in `mlruns`.
    """
    address, question, options = uri.partition("?endpoint")
    scheme, _, rest = address.partition("://")
    authority, _, path = rest.partition("/")
    return f"{scheme}://{authority}{question}{options}", path.strip("/")


def tracking_uri(text: str) -> str:
    """Return what to set as MLflow's tracking URI for the bucket that `text` names.

    Raises UsageError if it names none.
    """
    return f"{bucket_uri(text)}/{MLRUNS}"


def is_bucket(uri: str) -> bool:
    """Tell whether that is an address of a bucket, as `bucket_uri` or `tracking_uri` returns it."""
    return uri.partition(":")[0].lower() in SCHEMES


def is_remote(uri: str) -> bool:
    """Tell whether other machines reach the bucket, or what lies in one: it is no folder here."""
    return is_bucket(uri) and uri.partition(":")[0].lower() != _FOLDER


SERVICES = {"gcs": "gs://BUCKET", "s3": "s3://BUCKET@HOST"}
"""The names of the services that remote buckets lie on, and what an address there looks like."""


def service_name(uri: str) -> str:
    """Return the name of the service that a remote bucket lies on."""
    return "s3" if is_s3(uri) else "gcs"


def is_s3(uri: str) -> bool:
    """Tell whether the bucket is one of a service of S3's protocol."""
    return uri.partition(":")[0].lower() in {"s3", "s3+http"}


def service_url(uri: str) -> str:
    """Return where the service answers that has a bucket; Cloud Storage for a folder."""
    if not is_s3(uri):
        url = os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com"
        return url if "://" in url else f"http://{url}"
    scheme, _, rest = uri.partition("://")
    host = rest.partition("/")[0].partition("@")[2] or "s3.amazonaws.com"
    return f"{'http' if scheme.lower() == 's3+http' else 'https'}://{host}"


def name_and_prefix(uri: str) -> tuple[str, str]:
    """Return the name of a remote bucket, and the prefix in it ("" for none)."""
    authority, _, prefix = uri.partition("://")[2].partition("/")
    return authority.partition("@")[0], prefix


def artifact_uri_of(uri: str) -> str:
    """Return the address of a bucket as MLflow's own artifact repositories know it."""
    name, prefix = name_and_prefix(uri)
    plain = f"s3://{name}/{prefix}".removesuffix("/")
    return plain if is_s3(uri) else uri.removeprefix("bucket+")


def local_path(uri: str) -> Path | None:
    """Return the path on this machine that a path or a `file:` URI names; None for any other."""
    scheme, separator, _ = uri.partition("://")
    if separator and scheme.lower() != "file":
        return None
    if uri[:5].lower() == "file:":
        return Path(urllib.parse.unquote(urllib.parse.urlsplit(uri).path))
    return Path(uri).expanduser()


def at_its_service(location: str, *buckets: str) -> str:
    """Return an address in one of these buckets with the host of its service, if it says none.

    `location` is what stands in a run, as `artifact_uri_of` has it.
    """
    for bucket in buckets:
        root, named = (root_and_prefix(uri)[0] for uri in (bucket, artifact_uri_of(bucket)))
        if location.startswith(f"{named}/"):
            return root + location.removeprefix(named)
    return location


def console_url(uri: str) -> str:
    """Return the page on which a service shows what lies at an address; "" where there is none."""
    scheme, _, path = uri.partition("://")
    if scheme.lower() == "gs":
        return f"https://console.cloud.google.com/storage/browser/{urllib.parse.quote(path)}"
    authority, _, key = path.partition("/")
    name, _, host = authority.partition("@")
    if of_r2 := _R2.fullmatch(host):
        page = f"https://dash.cloudflare.com/{of_r2[1]}/r2/{of_r2[2] or 'default'}/buckets/{name}"
    elif scheme == "s3" and (not host or host.endswith(".amazonaws.com")):
        page = f"https://console.aws.amazon.com/s3/buckets/{name}"
    else:
        return ""
    return f"{page}?prefix={urllib.parse.quote(f'{key}/', safe='')}" if key else page


def open_bucket(uri: str, *, patience: float = 120.0) -> Bucket:
    """Return the bucket that `uri` names, as `bucket_uri` reads it; UsageError if it names none.

    Nothing is contacted yet, so a bucket that does not exist shows at its first use. An operation
    retries a passing fault for `patience` seconds. (An attempt that began in time is let finish,
    so a call may last up to twice as long.)
    """
    place = _parse(uri)
    # Each kind is imported only where it is used: neither needs what the other does.
    if isinstance(place, Path):
        from kaggleops.bucket.directory import DirectoryBucket

        return DirectoryBucket(place, patience=patience)
    if place.scheme == "gs":
        from kaggleops.bucket.gcs import GcsBucket

        return GcsBucket(place.name, place.prefix, patience=patience)
    from kaggleops.bucket.s3 import S3Bucket
    from kaggleops.bucket.s3_client import Endpoint

    endpoint = Endpoint("http" if place.scheme == "s3+http" else "https", place.host)
    return S3Bucket(endpoint, place.name, place.prefix, patience=patience)


class _Remote(NamedTuple):
    """What an address of a remote bucket says."""

    scheme: str
    name: str
    host: str
    prefix: str


def _parse(text: str, endpoint: str | None = None, region: str | None = None) -> Path | _Remote:
    text = text.strip()
    doing = f"opening the bucket {text!r}"
    if not text:
        raise UsageError("opening a bucket", "its address is empty", _KNOWN)
    if _WITH_KEY.match(text.partition("?")[0]):  # which no message repeats
        hint = "Put the key into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile."
        problem = "its address has a colon, as if it held an access key"
        raise UsageError("opening a bucket", problem, hint)
    scheme, separator, rest = text.partition("://")
    if not separator:
        _refuse_lost_slashes(text, doing)
        return _folder_typed(text, doing)
    if scheme.lower() == "gs":
        name, prefix = _remote(rest, doing)
        return _Remote("gs", name, "", prefix)
    if scheme.lower() in {"s3", "s3+http"}:
        return _s3(scheme.lower(), rest, endpoint, region)
    if scheme.lower() == "bucket+file":
        return _folder_of_uri(rest, doing)
    raise UsageError(doing, f"unsupported bucket scheme {scheme}://", _did_you_mean(text))


def _s3(scheme: str, rest: str, endpoint: str | None, region: str | None) -> _Remote:
    """Parse what follows `s3://`."""
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    name, at, host = authority.partition("@")
    doing = f"opening the bucket '{scheme}://{rest}'"
    if not at and _SERVICE_HOST.fullmatch(name.lower()):
        problem = f"{name!r} is the host of a service, not a bucket"
        bucket = path.partition("/")[0] or "BUCKET"
        raise UsageError(doing, problem, f"Did you mean {scheme}://{bucket}@{name}? {_KNOWN}")
    name, prefix = _remote(f"{name}/{path}", doing)
    options = urllib.parse.parse_qs(query, keep_blank_values=True)
    if not options.keys() <= set(_ENDPOINT_OPTIONS):
        other = next(iter(options.keys() - set(_ENDPOINT_OPTIONS)))
        raise UsageError(doing, f"it has the option {other!r}", "The only one is ?endpoint=URL.")
    named = next((value[-1] for value in options.values()), None) or endpoint
    if not at and not named:
        named = next(filter(None, map(os.environ.get, _ENDPOINT_VARIABLES)), None) or _of_profile()
        named = named or (f"https://s3.{region}.amazonaws.com" if region else None)
    if named:  # R2 shows it with the bucket behind it
        named = named.strip().rstrip("/").removesuffix(f"/{name}")
    if named and not at:
        scheme, host = _endpoint(named, doing)
    elif named and _endpoint(named, doing) != (scheme, host.lower()):
        raise UsageError(doing, f"it names the host {host}, and the endpoint is {named}", _KNOWN)
    if (at or scheme == "s3+http") and not _HOST.fullmatch(host.lower()):
        problem = f"{host!r} cannot be the host of a service" if host else "its host is missing"
        raise UsageError(doing, problem, _KNOWN)
    return _Remote(scheme, name, host.lower(), prefix)


def _of_profile() -> str | None:
    """Return the endpoint in the profile of this machine that is meant, for all to know it."""
    file = os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"
    try:
        if "endpoint_url" not in Path(file).expanduser().read_text(errors="replace"):
            return None  # without the client, and its tenth of a second
        from botocore.configprovider import ConfiguredEndpointProvider
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session
    except (OSError, RuntimeError, ImportError):  # no home, no client: said by who opens the bucket
        return None

    session = Session()
    try:
        settings = session.full_config, session.get_scoped_config(), "s3"
    except BotoCoreError:  # said by who opens the bucket
        return None
    return str(ConfiguredEndpointProvider(*settings).provide() or "") or None


def _endpoint(url: str, doing: str) -> tuple[str, str]:
    """Return the scheme and the host of the address of a bucket of the service at a URL."""
    scheme, _, rest = url.strip().rstrip("/").lower().rpartition("://")
    if not _HOST.fullmatch(rest) or (scheme or "https") not in {"http", "https"}:
        problem = f"{'the endpoint' if '@' in rest else repr(url)} is no URL of a service"
        hint = "It looks like https://ACCOUNT.r2.cloudflarestorage.com, without a path."
        raise UsageError(doing, problem, hint)
    return "s3+http" if scheme == "http" else "s3", rest


def _remote(rest: str, doing: str) -> tuple[str, str]:
    """Return the name of a bucket, and the prefix."""
    name, _, path = rest.partition("/")
    valid = _BUCKET_NAME.fullmatch(name) and not _IP_ADDRESS.fullmatch(name)
    if not valid or any(not 0 < len(part) <= 63 for part in name.split(".")):
        problem = f"{name!r} cannot be the name of a bucket"
        hint = "Names are 3 to 63 lower-case letters, digits, dashes, underscores and dots."
        raise UsageError(doing, problem, f"{hint} {_KNOWN}")
    parts = _without_mlruns([part for part in path.split("/") if part])
    prefix = "/".join(parts)
    # MLflow cuts an artifact URI off at "?" and "#".
    if prefix and (re.search("[?#]", prefix) or not is_key(prefix)):
        raise UsageError(doing, f"the prefix {prefix!r} cannot be part of an object's name", _KNOWN)
    if len(prefix.encode()) > MAX_PREFIX_BYTES:
        raise UsageError(doing, f"its prefix is longer than {MAX_PREFIX_BYTES} bytes", _KNOWN)
    return name, prefix


def _folder_of_uri(rest: str, doing: str) -> Path:
    path = os.fsdecode(urllib.parse.unquote_to_bytes(rest))
    if not rest.startswith("/") or ".." in path.split("/"):
        problem = f"{path!r} is not the path of a folder: it begins with a slash and has no '..'"
        raise UsageError(doing, problem, _KNOWN)
    return _folder(path, doing)


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
    match = re.match(r"(gs|gcs|s3|s3a|bucket\+file|file):(/*)(.*)", text, re.IGNORECASE)
    if match:
        scheme, _, rest = match.groups()
        slashes = "///" if scheme.lower().endswith("file") else "//"
        raise UsageError(doing, "it lacks slashes", _did_you_mean(f"{scheme}:{slashes}{rest}"))


def _did_you_mean(text: str) -> str:
    scheme, _, rest = text.partition("://")
    same = {each: each for each in SCHEMES} | {"gcs": "gs", "file": _FOLDER, "s3a": "s3"}
    close = difflib.get_close_matches(scheme.lower(), same, n=1, cutoff=0.75)
    return f"Did you mean {same[close[0]]}://{rest}? {_KNOWN}" if close else _KNOWN
