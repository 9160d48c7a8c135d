"""One file on the web as a source. What it is, only the manifest's checksum says.

No secret has to stand in the manifest: `${NAME}` in the address is an environment variable, `token`
names one that is sent as `Authorization: Bearer`, and ~/.netrc is read for users and passwords.

A stream that breaks off is gone on with where it did.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import requests

from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.http import session
from kaggleops.redaction import keep
from kaggleops.resources.files import DamagedError, File
from kaggleops.resources.manifest import VARIABLE, OnTheWeb
from kaggleops.resources.origins import GoneError, Origin, Progress, chosen

_GONE = (requests.codes.not_found, requests.codes.gone)
_SILENCE = 10.0  # seconds that somebody waits for a site
_HINT = "Check the address and the network."

_CHUNK = 1 << 16  # what is lost of it where a stream breaks off
_FRUITLESS = 3  # attempts that bring nothing new, after which a file is given up


class BrokeOffError(requests.RequestException):
    """A stream ended before its end."""


class Download:
    """A file on its way to a path, in as many streams as it takes.

    What the path holds already counts as its beginning, and is told to `progress`, too; `doing` is
    for the error.
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

        Raises BrokeOffError if it broke off (what had come stays), requests.HTTPError if it is an
        error, DamagedError if what is there was no beginning of it, and is gone.
        """
        there = self.there
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            size = re.fullmatch(r"bytes \*/(\d+)", answer.headers.get("Content-Range", ""))
            if size and int(size[1]) == there:  # nothing was missing
                self._tell(there)
                return
            self.forget()
            raise DamagedError(self._doing, "what had been fetched belongs to another file")
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
        """Attempt it again after errors that may be `passing`, as long as it brings more."""
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


class WebOrigin(Origin):
    """The file at an address, with the checksum that the manifest gives it.

    `token` is the environment variable with what it is asked for with, or "".
    """

    resumes = True

    def __init__(self, url: str, checksum: str, token: str = "") -> None:
        self._url = url
        self._checksum = checksum
        self._token = token

    def look(self, patterns: Sequence[str]) -> list[File]:
        """Ask for its size, which is -1 where the site does not say it; no file if it is gone."""
        headers = {"Accept-Encoding": "identity"}  # compressed, it would have another size
        try:
            with (
                self._signed_in(session(_SILENCE, tries=1)) as http,
                http.get(self._asked(), headers=headers, stream=True) as answer,  # and not read
            ):
                if answer.status_code in _GONE:
                    return []
                answer.raise_for_status()
                said = answer.headers.get("Content-Length", "")
                plain = said.isdecimal() and "Content-Encoding" not in answer.headers
        except requests.RequestException as error:
            # Not `from error`: that has the address.
            raise KaggleOpsError(f"looking for {self._url}", str(error), _HINT) from None
        size = int(said) if plain else -1
        return [replace(file, size=size) for file in self.list(patterns)]

    def list(self, patterns: Sequence[str]) -> list[File]:
        """Ask nobody: its size shows when it comes."""
        file = File(OnTheWeb(self._url).name, -1, "", self._checksum)
        return chosen([file], patterns, f"looking for {self._url}")

    def _asked(self) -> str:
        """Return the address to ask, with what the environment has for `${NAME}` in it."""
        return VARIABLE.sub(lambda found: quote(self._variable(found[1]), safe=""), self._url)

    def _signed_in(self, http: requests.Session) -> requests.Session:
        if self._token:
            token = self._variable(self._token)

            def sign_in(request: requests.PreparedRequest) -> requests.PreparedRequest:
                request.headers["Authorization"] = f"Bearer {token}"
                return request

            http.auth = sign_in  # a header alone would give way to ~/.netrc
        return http

    def _variable(self, name: str) -> str:
        value = os.environ.get(name, "").strip()
        if not value:
            hint = f"Set it to what {self._url} asks for."
            raise UsageError(f"fetching {self._url}", f"the variable {name} is not set", hint)
        keep(quote(value, safe=""))
        return keep(value)

    def read(self, file: File, into: Path, progress: Progress) -> None:
        """Download it, or what is missing of it."""
        doing = f"fetching {self._url}"
        download = Download(doing, into, progress)

        def attempt() -> None:
            with http.get(self._asked(), headers=download.headers, stream=True) as answer:
                if answer.status_code in _GONE:
                    raise GoneError(doing, f"it is gone ({answer.status_code})")
                download.receive(answer)

        try:
            with self._signed_in(session()) as http:
                download.keep_at(attempt, (BrokeOffError, DamagedError))
        except requests.RequestException as error:
            raise KaggleOpsError(doing, str(error), _HINT) from None  # that has the address
