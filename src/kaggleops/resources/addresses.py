"""Where the files of a resource come from, as the manifest writes it."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, cast
from urllib.parse import urlsplit

from kaggleops.bucket.base import is_key
from kaggleops.bucket.location import SCHEMES, bucket_uri
from kaggleops.errors import UsageError

KNOWN = (
    "Use gs://BUCKET/PREFIX, s3://BUCKET[@HOST]/PREFIX, kaggle://competitions/NAME, "
    "kaggle://datasets/USER/NAME, kaggle://models/USER/MODEL/FRAMEWORK/VARIATION/VERSION, "
    "runs:/RUN_ID/PATH, runs:/best/PATH or https://… with a checksum."
)

VARIABLE = re.compile(r"\$\{(\w+)\}")
"""An environment variable in the address of a file on the web."""

KaggleKind = Literal["competitions", "datasets", "models"]

_PART = r"[\w.-]+"
_KAGGLE = {
    "competitions": re.compile(_PART),
    "datasets": re.compile(rf"{_PART}/{_PART}(/versions/\d+)?"),
    "models": re.compile(rf"{_PART}/{_PART}/{_PART}/{_PART}/\d+"),
}
_PAGE = re.compile(r"https?://(?:www\.)?kaggle\.com/(?:c/|(competitions|datasets|models)/)(.+)")


@dataclass(frozen=True)
class InBucket:
    """Objects of a bucket: `gs://BUCKET/PREFIX`, `s3://…`, or a folder, `bucket+file:///…`."""

    uri: str


@dataclass(frozen=True)
class OnKaggle:
    """A competition (`titanic`), dataset (`owner/name`) or model (`owner/…/1`) on Kaggle.

    Args:
        kind: which of them.
        ref: what Kaggle calls it.
        version: of a dataset; 0 for the newest.
    """

    kind: KaggleKind
    ref: str
    version: int = 0

    @property
    def page(self) -> str:
        """Its page on Kaggle."""
        return f"https://www.kaggle.com/{self.kind}/{self.ref}"


@dataclass(frozen=True)
class OfRun:
    """Artifacts of a run: `runs:/RUN_ID/PATH`, or of the best one: `runs:/best/PATH`."""

    run: str
    path: str

    BEST = "best"


@dataclass(frozen=True)
class OnTheWeb:
    """One file at an address of its own."""

    url: str

    @property
    def name(self) -> str:
        """What the file is called."""
        return PurePosixPath(urlsplit(self.url).path).name


Address = InBucket | OnKaggle | OfRun | OnTheWeb


def parse_address(text: str, doing: str) -> Address:
    """Return what the manifest's `source` means.

    Raises:
        UsageError: nothing, or nothing that can be fetched.
    """
    text = text.strip()
    if page := _PAGE.match(text):
        meant = f"kaggle://{page[1] or 'competitions'}/{page[2].rstrip('/')}"
        raise UsageError(doing, f"{text} is a page, not a file", f"Did you mean {meant}?")
    scheme = text.partition(":")[0].lower()
    match scheme:
        case _ if scheme in SCHEMES:
            return _in_bucket(text, doing)
        case "kaggle":
            return _on_kaggle(text, doing)
        case "runs":
            return _of_run(text, doing)
        case "http" | "https":
            return _on_the_web(text, doing)
    raise UsageError(doing, f"{text!r} is not a source", KNOWN)


def _in_bucket(text: str, doing: str) -> InBucket:
    try:
        return InBucket(bucket_uri(text))
    except UsageError as error:
        raise UsageError(doing, f"{text}: {error.problem}", error.hint) from error


def _on_the_web(text: str, doing: str) -> OnTheWeb:
    try:
        found = OnTheWeb(text)
        valid = urlsplit(text).hostname and is_key(found.name)
    except ValueError:  # a bracket that nothing closes
        valid = False
    if not valid:
        raise UsageError(doing, f"{text} does not name a file", KNOWN)
    return found


def _on_kaggle(text: str, doing: str) -> OnKaggle:
    kind, _, ref = text.partition("://")[2].strip("/").partition("/")
    pattern = _KAGGLE.get(kind)
    if pattern is None or not pattern.fullmatch(ref):
        raise UsageError(doing, f"{text!r} is not an address on Kaggle", KNOWN)
    ref, _, version = ref.partition("/versions/")
    return OnKaggle(cast("KaggleKind", kind), ref, int(version or 0))


def _of_run(text: str, doing: str) -> OfRun:
    run, _, path = text.partition(":")[2].strip("/").partition("/")
    if not run or ".." in path.split("/"):
        raise UsageError(doing, f"{text!r} is not the address of a run's artifacts", KNOWN)
    return OfRun(run, path)
