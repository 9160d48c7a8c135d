"""Files on their way out: each behind a signed address of Cloud Storage that the API leads to."""

import base64
import hashlib
import io
import secrets
import zipfile
from collections.abc import Mapping
from typing import Any

import google_crc32c
from kagglesdk.competitions.types import competition_api_service as competition_types
from kagglesdk.datasets.types import dataset_api_service as dataset_types
from kagglesdk.models.types import model_api_service as model_types

from tests.fakes.kaggle.behaviour import Behaviour
from tests.fakes.kaggle.paging import page_of
from tests.fakes.kaggle.store import ApiError, Store, User, denied, timestamp
from tests.fakes.wire import Response

Content = Mapping[str, Any]


class Downloads:
    """Lists the files of competitions and models, and leads to each file of all kinds.

    Args:
        store: what there is.
        behaviour: how it is to misbehave.
    """

    def __init__(self, store: Store, behaviour: Behaviour) -> None:
        self._store = store
        self._behaviour = behaviour

    # -- competitions -------------------------------------------------------------------------

    def list_data_files(
        self, user: User, request: competition_types.ApiListDataFilesRequest
    ) -> Content:
        competition = self._store.competition(request.competition_name)
        listed = sorted(competition.files.items())
        some, token = page_of(listed, request.page_size, request.page_token)
        created = timestamp(competition.begun)
        files = [
            {"name": name, "totalBytes": len(data), "creationDate": created} for name, data in some
        ]
        return {"files": files, "nextPageToken": token}

    def data_file(
        self, user: User, request: competition_types.ApiDownloadDataFileRequest
    ) -> Response:
        competition = self._store.competition(request.competition_name)
        if user.name in competition.not_accepted_by:
            message = "You must accept this competition's rules before you'll be able to download"
            raise ApiError(403, f"{message} files.")
        return self._to(request.file_name, competition.files)

    # -- datasets -----------------------------------------------------------------------------

    def dataset(self, user: User, request: dataset_types.ApiDownloadDatasetRequest) -> Response:
        dataset = self._store.dataset(user, request.owner_slug, request.dataset_slug)
        number = request.dataset_version_number or len(dataset.versions)
        if not 1 <= number <= len(dataset.versions):
            raise ApiError(404, "Not found")
        return self._to(request.file_name, dataset.versions[number - 1])

    # -- models -------------------------------------------------------------------------------

    def list_model_files(
        self, user: User, request: model_types.ApiListModelInstanceVersionFilesRequest
    ) -> Content:
        listed = sorted(self._model(request).items())
        some, token = page_of(listed, request.page_size, request.page_token)
        files = [{"name": name, "size": len(data)} for name, data in some]
        return {"files": files, "nextPageToken": token}

    def model_file(
        self, user: User, request: model_types.ApiDownloadModelInstanceVersionRequest
    ) -> Response:
        return self._to(request.path, self._model(request))

    def _model(self, request: Any) -> Mapping[str, bytes]:
        framework = request.framework.name.removeprefix("MODEL_FRAMEWORK_").replace("_", "").lower()
        wanted = (request.owner_slug, request.model_slug, framework, request.instance_slug)
        for ref, files in self._store.models.items():
            owner, model, of, instance, number = ref.split("/")
            if (owner, model, of.lower(), instance) == wanted and int(number) == (
                request.version_number
            ):
                return files
        raise denied("models.get")

    # -- all ----------------------------------------------------------------------------------

    def _to(self, name: str, files: Mapping[str, bytes]) -> Response:
        if name not in files:
            raise ApiError(404, f"No file {name!r}")
        data, shown = files[name], name
        if self._behaviour.zipped_downloads:
            data, shown = _zipped(name, data), f"{name}.zip"
        token = secrets.token_hex(8)
        self._store.downloads[token] = data
        address = f"{self._store.url}/output/{token}/{shown}"
        return Response(302, [("Location", address)])


def hashes(data: bytes) -> tuple[str, str]:
    """Return the header by which Cloud Storage tells what it sends."""
    crc32c = google_crc32c.value(data).to_bytes(4, "big")
    md5 = hashlib.md5(data, usedforsecurity=False).digest()
    shown = f"crc32c={base64.b64encode(crc32c).decode()},md5={base64.b64encode(md5).decode()}"
    return "x-goog-hash", shown


def _zipped(name: str, data: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        # Of a fixed date: at Kaggle the archive is one object, the same each time it is asked for.
        entry = zipfile.ZipInfo(name.rpartition("/")[2])
        archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return content.getvalue()
