"""What Kaggle's API can do with datasets."""

import io
import zipfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from kagglesdk.datasets.types import dataset_api_service as types
from kagglesdk.datasets.types.dataset_enums import DatasetSelectionGroup
from slugify import slugify

from tests.fakes.kaggle.behaviour import Behaviour
from tests.fakes.kaggle.paging import page_of
from tests.fakes.kaggle.store import (
    ApiError,
    Dataset,
    Store,
    User,
    bad_request,
    denied,
    timestamp,
)

Content = Mapping[str, Any]

_LICENSES = {"CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "other", "unknown", "copyright-authors"}
_WEBSITE = "https://www.kaggle.com/datasets"


class Datasets:
    """Answers requests about datasets.

    Args:
        store: what there is.
        behaviour: how it is to misbehave.
    """

    def __init__(self, store: Store, behaviour: Behaviour) -> None:
        self._store = store
        self._behaviour = behaviour

    def create(self, user: User, request: types.ApiCreateDatasetRequest) -> Content:
        owner, slug, title = request.owner_slug, request.slug, request.title or ""
        if owner != user.name:
            raise denied("datasets.create")
        if slug != slugify(slug) or not 6 <= len(slug) <= 50 or not 6 <= len(title) <= 50:
            raise bad_request(f"Invalid slug or title: {slug!r}, {title!r}")
        if request.license_name not in _LICENSES:
            raise bad_request(f"Invalid license: {request.license_name!r}")
        with self._store.lock:
            if f"{owner}/{slug}" in self._store.datasets:
                error = f'The requested title "{title}" is already in use by a dataset.'
                return {"status": "error", "error": error}
            files = self._files(request.files)
            number = self._store.next_id()
            made = Dataset(number, owner, slug, title, request.is_private, [files])
            made.unready = self._behaviour.slow_datasets
            self._store.datasets[made.ref] = made
        return _created(made)

    def create_version(self, user: User, request: types.ApiCreateDatasetVersionRequest) -> Content:
        with self._store.lock:
            dataset = self._own(user, request.owner_slug, request.dataset_slug, "update")
            if request.body.delete_old_versions:
                # Their numbers stay taken.
                dataset.versions = [{} for _ in dataset.versions]
            dataset.versions.append(self._files(request.body.files))
            dataset.unready = self._behaviour.slow_datasets
            dataset.updated = datetime.now(UTC)
        return _created(dataset)

    def status(self, user: User, request: types.ApiGetDatasetStatusRequest) -> Content:
        dataset = self._store.dataset(user, request.owner_slug, request.dataset_slug)
        status = self._behaviour.next_dataset_status()
        if not status and dataset.unready:
            dataset.unready -= 1
            status = "BLOBS_RECEIVED"
        return {"status": status or "READY"}

    def get(self, user: User, request: types.ApiGetDatasetRequest) -> Content:
        return _described(self._store.dataset(user, request.owner_slug, request.dataset_slug))

    def list(self, user: User, request: types.ApiListDatasetsRequest) -> Content:
        found = [each for each in self._store.datasets.values() if _listed(each, user, request)]
        some, token = page_of(found, request.page_size, request.page_token, request.page)
        return {"datasets": [_described(each) for each in some], "nextPageToken": token}

    def files(self, user: User, request: types.ApiListDatasetFilesRequest) -> Content:
        dataset = self._store.dataset(user, request.owner_slug, request.dataset_slug)
        number = request.dataset_version_number or len(dataset.ready)
        if not 1 <= number <= len(dataset.ready):
            raise ApiError(404, "Not found")
        content = sorted(dataset.versions[number - 1].items())
        some, token = page_of(content, request.page_size, request.page_token)
        created = timestamp(dataset.updated)
        files = [
            {"name": name, "totalBytes": len(data), "creationDate": created} for name, data in some
        ]
        return {"datasetFiles": files, "nextPageToken": token}

    def delete(self, user: User, request: types.ApiDeleteDatasetRequest) -> Content:
        with self._store.lock:
            dataset = self._own(user, request.owner_slug, request.dataset_slug, "delete")
            del self._store.datasets[dataset.ref]
        return {}

    def _own(self, user: User, owner: str, slug: str, verb: str) -> Dataset:
        dataset = self._store.dataset(user, owner, slug)
        if dataset.owner != user.name:
            raise denied(f"datasets.{verb}")
        return dataset

    def _files(self, files: Iterable[types.ApiDatasetNewFile]) -> dict[str, bytes]:
        blobs = [self._store.take_blob(file.token) for file in files]
        if not blobs:
            raise bad_request("A dataset has a file at least")
        files = {}
        for blob in blobs:
            content = blob.content or b""
            if blob.name.endswith(".zip"):  # it becomes a folder of its name
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    names = [name for name in archive.namelist() if not name.endswith("/")]
                    folder = blob.name.removesuffix(".zip")
                    files |= {f"{folder}/{name}": archive.read(name) for name in names}
            else:
                files[blob.name] = content
        return files


def _created(dataset: Dataset) -> Content:
    return {"ref": dataset.ref, "url": f"{_WEBSITE}/{dataset.ref}", "status": "ok", "error": ""}


def _described(dataset: Dataset) -> Content:
    return {
        "id": dataset.id,
        "ref": dataset.ref,
        "title": dataset.title,
        "ownerRef": dataset.owner,
        "url": f"{_WEBSITE}/{dataset.ref}",
        "isPrivate": dataset.private,
        "totalBytes": sum(map(len, (dataset.ready or [{}])[-1].values())),
        "lastUpdated": timestamp(dataset.updated),
        "currentVersionNumber": len(dataset.ready),
    }


def _listed(dataset: Dataset, user: User, request: types.ApiListDatasetsRequest) -> bool:
    if request.search not in dataset.title and request.search not in dataset.ref:
        return False
    if request.group is DatasetSelectionGroup.DATASET_SELECTION_GROUP_MY:
        return dataset.owner == user.name
    if request.user and request.user != dataset.owner:
        return False
    return not dataset.private
