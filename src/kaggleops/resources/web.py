"""One file on the web as a source. What it is, only the manifest's checksum says."""

from collections.abc import Sequence
from pathlib import Path

import requests

from kaggleops.errors import KaggleOpsError
from kaggleops.platforms.http import session
from kaggleops.resources.addresses import OnTheWeb
from kaggleops.resources.files import DamagedError, File
from kaggleops.resources.origins import GoneError, Origin, Progress, chosen
from kaggleops.resources.streams import BrokeOffError, Download


class WebOrigin(Origin):
    """The file at an address, with the checksum that the manifest gives it."""

    resumes = True

    def __init__(self, url: str, checksum: str) -> None:
        self._url = url
        self._checksum = checksum

    def list(self, patterns: Sequence[str]) -> list[File]:
        """Ask nobody: its size shows when it comes."""
        file = File(OnTheWeb(self._url).name, -1, "", self._checksum)
        return chosen([file], patterns, f"looking for {self._url}")

    def read(self, file: File, into: Path, progress: Progress) -> None:
        """Download it, or what is missing of it."""
        doing = f"fetching {self._url}"
        download = Download(doing, into, progress)

        def attempt() -> None:
            with http.get(self._url, headers=download.headers, stream=True) as answer:
                if answer.status_code in (404, 410):
                    raise GoneError(doing, f"it is gone ({answer.status_code})")
                download.receive(answer)

        try:
            with session() as http:
                download.keep_at(attempt, (BrokeOffError, DamagedError))
        except requests.RequestException as error:
            raise KaggleOpsError(doing, str(error), "Check the address and the network.") from error
