"""Content that comes as one stream over HTTP, and is gone on with where one broke off."""

import re
from collections.abc import Callable
from pathlib import Path

import requests

from kaggleops.resources.files import DamagedError
from kaggleops.resources.origins import Progress

_CHUNK = 1 << 16  # what is lost of it where a stream breaks off
_FRUITLESS = 3  # attempts that bring nothing new, after which a file is given up


class BrokeOffError(requests.RequestException):
    """A stream ended before its end."""


class Download:
    """A file on its way to a path, in as many streams as it takes.

    Args:
        doing: what is being done, for the error.
        into: the path; what it holds already counts as the beginning.
        progress: is called with the bytes that have come, what was there among them.
    """

    def __init__(self, doing: str, into: Path, progress: Progress) -> None:
        self._doing = doing
        self._into = into
        self._progress = progress
        self._told = 0

    @property
    def there(self) -> int:
        """How many bytes have come."""
        return self._into.stat().st_size if self._into.exists() else 0

    @property
    def headers(self) -> dict[str, str]:
        """What to ask with for the rest, or for all of it."""
        # A compressed stream would have its breaks elsewhere than the file.
        whole = {"Accept-Encoding": "identity"}
        return {**whole, "Range": f"bytes={self.there}-"} if self.there else whole

    def receive(self, answer: requests.Response) -> None:
        """Write what an answer brings: the rest if it says that it is that, else all anew.

        Raises:
            BrokeOffError: it broke off; what had come stays.
            requests.HTTPError: it is an error.
            DamagedError: what is there was no beginning of it, and is gone.
        """
        there = self.there
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            size = re.fullmatch(r"bytes \*/(\d+)", answer.headers.get("Content-Range", ""))
            if size and int(size[1]) == there:  # nothing was missing
                self._tell(there)
                return
            self.forget()
            raise DamagedError(self._doing, "what had come of it was of something else")
        answer.raise_for_status()
        begin = there if answer.status_code == requests.codes.partial_content else 0
        with self._into.open("ab") as content:
            content.truncate(begin)
            self._tell(begin)
            try:
                for chunk in answer.iter_content(_CHUNK):
                    content.write(chunk)
                    self._tell(content.tell())
            except requests.RequestException as error:
                raise BrokeOffError(*error.args) from error

    def forget(self) -> None:
        """Begin anew."""
        self._into.unlink(missing_ok=True)

    def _tell(self, size: int) -> None:
        if size > self._told:  # not twice what comes twice
            self._progress(size - self._told)
            self._told = size

    def keep_at(self, attempt: Callable[[], None], passing: tuple[type[Exception], ...]) -> None:
        """Attempt it again after what may pass, as long as that brings more of the file.

        Args:
            attempt: receives an answer.
            passing: what it raises where another attempt may help.
        """
        most, fruitless = self.there, 0
        while True:
            try:
                attempt()
            except passing:
                fruitless = 0 if self.there > most else fruitless + 1
                most = max(most, self.there)
                if fruitless == _FRUITLESS:
                    raise
            else:
                return
