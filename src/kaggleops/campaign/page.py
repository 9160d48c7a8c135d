"""The campaign as one HTML page: what runs where, what waits and why, what came of it.

1. It is one object, and asks nobody for anything (reports/html.py).
2. What others wrote (names, tags, params, errors) is shown as text, without secrets.
3. However many trials there are, it stays below about a megabyte: rows and points are left out, and
   it says how many.
4. The same campaign gives the same page but for the time, so that it is written again only if
   something changed. What passes by itself ("3 min ago") is worked out in the browser.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kaggleops.bucket import ABSENT, Bucket, ConflictError, Version
from kaggleops.campaign.view import EVERY
from kaggleops.layout import PAGE_KEY
from kaggleops.reports import html

_SCRIPT = Path(__file__).with_name("campaign.js")


def page(view: Mapping[str, Any]) -> bytes:
    """Return the page: the same bytes for the same view."""
    return html.page("KaggleOps", _SCRIPT, view).encode()


class PageObject:
    """The page in a bucket, for whoever keeps it."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._version: Version = ABSENT
        self._shown: Mapping[str, Any] = {}  # that was written last

    def update(self, view: Mapping[str, Any]) -> bool:
        """Write the page if it shows something new, or would look old; return whether it did.

        Raises BucketError.
        """
        written = self._shown.get("now", 0)
        old = view["live"] and view["now"] - written >= 1000 * EVERY
        if {**view, "now": written} == self._shown and not old:
            return False
        content = page(view)
        try:
            self._version = self._bucket.write(PAGE_KEY, content, expected=self._version)
        except ConflictError:
            # Another watcher's, or of an earlier process: this one is as true, and newer.
            there = self._bucket.stat(PAGE_KEY)
            version = there.version if there else ABSENT
            self._version = self._bucket.write(PAGE_KEY, content, expected=version)
        self._shown = view
        return True
