"""Files of a competition, a dataset or a model on Kaggle, through Kaggle's own client.

Kaggle's listings tell no checksums, so what a file is shows only once it has come; then Cloud
Storage, which Kaggle leads to, says in its answer what it sent.
"""

import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import requests

from kaggleops.bucket.base import is_key
from kaggleops.bucket.checksums import CRC32C, checksum_of
from kaggleops.errors import KaggleOpsError
from kaggleops.platforms.http import NoAnswerError, NotThereError, session
from kaggleops.platforms.kaggle import sign_in
from kaggleops.platforms.kaggle.http import explained, quiet
from kaggleops.resources.files import DamagedError, File
from kaggleops.resources.manifest import OnKaggle
from kaggleops.resources.origins import GoneError, Origin, Progress, chosen
from kaggleops.resources.web import Download

if TYPE_CHECKING:
    from kaggleops.platforms.kaggle.client import Client

_T = TypeVar("_T")

_PAGE = 100  # files in one answer
_CHUNK = 1 << 20


class KaggleOrigin(Origin):
    """One competition, dataset or model, as the user of this machine, or of a client, may see it.

    Raises UsageError if nobody is signed in to Kaggle.
    """

    resumes = True

    def __init__(self, address: OnKaggle, client: "Client | None" = None) -> None:
        self._address = address
        self._client = client or sign_in()

    def list(self, patterns: Sequence[str]) -> list[File]:
        """Ask once for every 100 files, and once for the version of a dataset."""
        doing = f"listing {self._address.page}"
        files = list(self._files(doing))
        if out := next((file.name for file in files if not is_key(file.name)), None):
            raise KaggleOpsError(doing, f"{out!r} leads out of the folder")
        return chosen(files, patterns, doing)

    def read(self, file: File, into: Path, progress: Progress) -> None:
        """Download it, or what is missing of it; where it comes zipped, unzip it."""
        doing = f"fetching {file.name} of {self._address.page}"
        download = Download(doing, into, progress)

        def attempt() -> None:
            try:
                self._ask(doing, lambda: self._download(file, into, download))
            except DamagedError:
                download.forget()
                raise

        download.keep_at(attempt, (NoAnswerError, DamagedError))

    def _files(self, doing: str) -> Iterator[File]:
        client, ref = self._client, self._address.ref
        match self._address.kind:
            case "competitions":
                for each in self._listed(doing, client.competition_list_files, ref):
                    made = each.creation_date
                    yield File(each.name, each.total_bytes, made.isoformat() if made else "")
            case "datasets":
                version = self._address.version or self._ask(doing, self._newest)
                for each in self._listed(doing, client.dataset_list_files, f"{ref}/{version}"):
                    yield File(each.name, each.total_bytes, str(version))
            case "models":
                for each in self._listed(doing, client.model_instance_version_files, ref):
                    yield File(each.name, each.size, ref.rpartition("/")[2])

    def _newest(self) -> int:
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest

        request = ApiGetDatasetRequest()
        request.owner_slug, request.dataset_slug = self._address.ref.split("/")
        with self._client.build_kaggle_client() as kaggle:
            found = kaggle.datasets.dataset_api_client.get_dataset(request)
        return int(found.current_version_number)

    def _listed(self, doing: str, page: Callable[..., Any], ref: str) -> Iterator[Any]:
        """Yield the files of all pages."""
        token = None
        while True:
            with quiet():
                answer = self._ask(doing, partial(page, ref, token, _PAGE))
            files = answer.dataset_files if self._address.kind == "datasets" else answer.files
            yield from files or ()
            if not (token := answer.next_page_token):
                return

    def _download(self, file: File, into: Path, download: Download) -> None:
        with self._client.build_kaggle_client() as kaggle, self._opened(kaggle, file) as answer:
            # Only where what has come can be told from something else is it gone on with.
            if download.there and CRC32C in _hashes(answer):
                with (
                    session() as http,
                    http.get(answer.url, headers=download.headers, stream=True) as rest,
                ):
                    download.receive(rest)
            else:
                download.receive(answer)
            said = _hashes(answer).get(CRC32C)
            if said and checksum_of(into) != f"{CRC32C}:{said}":
                raise DamagedError(
                    f"fetching {file.name}", "it was damaged on the way", "Try again."
                )
            came_as = PurePosixPath(urlsplit(answer.url).path).suffix
        if came_as == ".zip" and not file.name.endswith(".zip"):
            _unzip(into)

    def _opened(self, kaggle: Any, file: File) -> Any:
        """Return the answer that Kaggle leads to, whose content has yet to come."""
        if self._address.kind == "competitions":
            from kagglesdk.competitions.types import competition_api_service as competitions

            asked = competitions.ApiDownloadDataFileRequest()
            asked.competition_name, asked.file_name = self._address.ref, file.name
            return kaggle.competitions.competition_api_client.download_data_file(asked)
        if self._address.kind == "datasets":
            from kagglesdk.datasets.types import dataset_api_service as datasets

            request = datasets.ApiDownloadDatasetRequest()
            request.owner_slug, request.dataset_slug = self._address.ref.split("/")
            request.dataset_version_number = int(file.version)
            request.file_name = file.name
            return kaggle.datasets.dataset_api_client.download_dataset(request)
        from kagglesdk.models.types import model_api_service as models
        from kagglesdk.models.types.model_enums import ModelFramework

        about = models.ApiDownloadModelInstanceVersionRequest()
        owner, model, framework, variation, version = self._address.ref.split("/")
        about.owner_slug, about.model_slug = owner, model
        about.framework = self._client.lookup_enum(ModelFramework, None, framework)
        about.instance_slug, about.version_number = variation, int(version)
        about.path = file.name
        return kaggle.models.model_api_client.download_model_instance_version(about)

    def _ask(self, doing: str, call: Callable[[], _T]) -> _T:
        try:
            with explained(doing):
                return call()
        except NotThereError as error:
            raise GoneError(doing, error.problem, self._hint()) from error

    def _hint(self) -> str:
        page = self._address.page
        match self._address.kind:
            case "competitions":
                return f"Accept its rules: {page}/rules (or check its name)."
            case "datasets":
                return f"If it is private, its owner has to share it with you: {page}"
        page = page.rpartition("/")[0]  # without the version
        return f"It may ask for your consent: {page}"


def _hashes(answer: requests.Response) -> dict[str, str]:
    """Return what Cloud Storage says of what it sends, where it says so."""
    said = answer.headers.get("x-goog-hash", "").split(",")
    return dict(part.strip().split("=", 1) for part in said if "=" in part)


def _unzip(path: Path) -> None:
    """Put the one file that an archive holds in the archive's place."""
    unzipped = path.with_suffix(".unzipped")
    with zipfile.ZipFile(path) as archive:
        (member,) = archive.namelist()
        with archive.open(member) as source, unzipped.open("wb") as target:
            shutil.copyfileobj(source, target, _CHUNK)
    unzipped.replace(path)
