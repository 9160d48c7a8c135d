"""The campaign as one HTML page: what runs where, what waits and why, what came of it.

1. It is one object, and asks nobody for anything (reports/html.py).
2. What others wrote (names, tags, params, errors) is shown as text, without secrets.
3. However many trials there are, it stays below about a megabyte: rows and points are left out, and
   it says how many.
4. The same campaign gives the same page but for the time, so that it is written again only if
   something changed. What passes by itself ("3 min ago") is worked out in the browser.
"""

import hashlib
from pathlib import Path

from kaggleops.bucket import ABSENT, Bucket, ConflictError, Version
from kaggleops.campaign.view import EVERY, View
from kaggleops.layout import PAGE_KEY
from kaggleops.reports import html

_SCRIPT = Path(__file__).with_name("campaign.js")


def page(view: View) -> bytes:
    """Return the page: the same bytes for the same view."""
    data = {"now": int(view.now.timestamp() * 1000), **view.content}
    return html.page("KaggleOps", _SCRIPT, data).encode()


def digest_of(view: View) -> str:
    """Return what changes with what a page shows, and not with the time."""
    return hashlib.sha256(html.json_in_html(view.content).encode()).hexdigest()


class PageObject:
    """The page in a bucket, for whoever keeps it."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._version: Version = ABSENT
        self._digest = ""
        self._written = 0.0

    def update(self, view: View) -> bool:
        """Write the page if it shows something new, or would look old; return whether it did.

        Raises BucketError.
        """
        now, digest = view.now.timestamp(), digest_of(view)
        old = view.live and now - self._written >= EVERY
        if digest == self._digest and not old:
            return False
        content = page(view)
        try:
            self._version = self._bucket.write(PAGE_KEY, content, expected=self._version)
        except ConflictError:
            # Another watcher's, or of an earlier process: this one is as true, and newer.
            there = self._bucket.stat(PAGE_KEY)
            version = there.version if there else ABSENT
            self._version = self._bucket.write(PAGE_KEY, content, expected=version)
        self._digest, self._written = digest, now
        return True
