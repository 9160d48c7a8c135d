"""One file on the web as a source. What it is, only the manifest's checksum says."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import requests

from kaggleops.errors import KaggleOpsError
from kaggleops.platforms.http import session
from kaggleops.resources.addresses import OnTheWeb
from kaggleops.resources.files import DamagedError, File
from kaggleops.resources.origins import GoneError, Origin, Progress, chosen
from kaggleops.resources.streams import BrokeOffError, Download

_GONE = (requests.codes.not_found, requests.codes.gone)
_SILENCE = 10.0  # seconds that somebody waits for a site
_HINT = "Check the address and the network."


class WebOrigin(Origin):
    """The file at an address, with the checksum that the manifest gives it."""

    resumes = True

    def __init__(self, url: str, checksum: str) -> None:
        self._url = url
        self._checksum = checksum

    def look(self, patterns: Sequence[str]) -> list[File]:
        """Ask for its size, which is -1 where the site does not say it."""
        doing = f"looking for {self._url}"
        try:
            with session(_SILENCE, tries=1) as http:
                answer = self._ask(http, "HEAD")
                if not answer.ok:  # there are sites that only know GET
                    answer = self._ask(http, "GET")
            if answer.status_code in _GONE:
                return []
            answer.raise_for_status()
        except requests.RequestException as error:
            raise KaggleOpsError(doing, str(error), _HINT) from error
        said = answer.headers.get("Content-Length", "")
        plain = said.isdecimal() and "Content-Encoding" not in answer.headers
        size = int(said) if plain else -1
        return [replace(file, size=size) for file in self.list(patterns)]

    def list(self, patterns: Sequence[str]) -> list[File]:
        """Ask nobody: its size shows when it comes."""
        file = File(OnTheWeb(self._url).name, -1, "", self._checksum)
        return chosen([file], patterns, f"looking for {self._url}")

    def _ask(self, http: requests.Session, method: str) -> requests.Response:
        headers = {"Accept-Encoding": "identity"}  # compressed, it would have another size
        with http.request(
            method, self._url, headers=headers, stream=True, allow_redirects=True
        ) as answer:
            return answer

    def read(self, file: File, into: Path, progress: Progress) -> None:
        """Download it, or what is missing of it."""
        doing = f"fetching {self._url}"
        download = Download(doing, into, progress)

        def attempt() -> None:
            with http.get(self._url, headers=download.headers, stream=True) as answer:
                if answer.status_code in _GONE:
                    raise GoneError(doing, f"it is gone ({answer.status_code})")
                download.receive(answer)

        try:
            with session() as http:
                download.keep_at(attempt, (BrokeOffError, DamagedError))
        except requests.RequestException as error:
            raise KaggleOpsError(doing, str(error), _HINT) from error
