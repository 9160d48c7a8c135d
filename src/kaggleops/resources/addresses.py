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
    """A competition (`titanic`), dataset (`owner/name`) or model (`owner/…/1`) on Kaggle."""

    kind: KaggleKind
    ref: str  # what Kaggle calls it
    version: int = 0  # of a dataset; 0 for the newest

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
    """Return what the manifest's `source` means; UsageError if that cannot be fetched."""
    text = text.strip()
    if page := _PAGE.match(text):
        meant = f"kaggle://{page[1] or 'competitions'}/{page[2].rstrip('/')}"
        raise UsageError(doing, f"{text} is a page, not a file", f"Did you mean {meant}?")
    scheme, _, rest = text.partition(":")
    first, _, path = rest.strip("/").partition("/")
    match scheme.lower():
        case known if known in SCHEMES:
            try:
                return InBucket(bucket_uri(text))
            except UsageError as error:
                raise UsageError(doing, f"{text}: {error.problem}", error.hint) from error
        case "kaggle":
            if first in _KAGGLE and _KAGGLE[first].fullmatch(path):
                ref, _, version = path.partition("/versions/")
                return OnKaggle(cast("KaggleKind", first), ref, int(version or 0))
            raise UsageError(doing, f"{text!r} is not an address on Kaggle", KNOWN)
        case "runs":
            if first and ".." not in rest.split("/"):
                return OfRun(first, path)
            raise UsageError(doing, f"{text!r} is not the address of a run's artifacts", KNOWN)
        case "http" | "https":
            try:
                if urlsplit(text).hostname and is_key(OnTheWeb(text).name):
                    return OnTheWeb(text)
            except ValueError:  # a bracket that nothing closes
                pass
            raise UsageError(doing, f"{text} does not name a file", KNOWN)
    raise UsageError(doing, f"{text!r} is not a source", KNOWN)
