"""MLflow's artifact repository over a bucket of any kind, with uploads that do not end a training.

MLflow's own repositories raise in the training process what goes wrong with an upload, that for
Cloud Storage after two minutes a file (MLflow issues #3478, #4543). Here what the bucket cannot
take now is kept on this machine, sent later, and meanwhile listed and read as if it were there. In
a server, the client is told that its upload failed.
"""

import logging
import os
import posixpath
import shutil
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import FileInfo, TraceData
from mlflow.exceptions import (
    MlflowException,
    MlflowTraceDataCorrupted,
    MlflowTraceDataException,
)
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    INVALID_PARAMETER_VALUE,
    RESOURCE_DOES_NOT_EXIST,
)
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.gcs_artifact_repo import GCSArtifactRepository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository
from mlflow.utils.file_utils import local_file_uri_to_path

from kaggleops.bucket import Bucket, Entry, ObjectNotFoundError
from kaggleops.bucket.location import (
    artifact_uri_of,
    at_its_service,
    bucket_uri,
    is_bucket,
    is_remote,
    is_s3,
)
from kaggleops.tracking import ranks
from kaggleops.tracking.artifact_uploads import Uploads, uploads
from kaggleops.tracking.base import mlflow_errors
from kaggleops.tracking.outbox import Kept, Place

_log = logging.getLogger("kaggleops")

_INDEX = "kaggleops+"  # the index of a bucket, which only a server tracks in
_IN_SERVER = "_MLFLOW_SERVER_FILE_STORE"  # set by `mlflow server` for its own processes
_ARCHIVE = "traces.pb"  # as MLflow calls it, in a part that not every installation has
_LARGEST_ARCHIVE = 32 << 20  # bytes; ten times as many in memory
SERVED = "_KAGGLEOPS_SERVED_BUCKET"
"""The variable that names the bucket whose index a server's process serves."""


def repository(
    artifact_uri: str, tracking_uri: str | None, registry_uri: str | None
) -> ArtifactRepository:
    """Return the repository for an address: MLflow's own unless it is in a bucket of runs."""
    uris = {"tracking_uri": tracking_uri, "registry_uri": registry_uri}
    tracked_in = tracking_uri or mlflow.get_tracking_uri()
    own: type[ArtifactRepository] = LocalArtifactRepository
    if is_remote(artifact_uri):
        own = S3ArtifactRepository if is_s3(artifact_uri) else GCSArtifactRepository
    if not (is_bucket(tracked_in) or tracked_in.startswith(_INDEX)):
        return own(artifact_uri, **uris)
    indexed = tracked_in.startswith(_INDEX)
    root = os.environ.get(SERVED, "") if indexed else bucket_uri(tracked_in)
    place = _place(artifact_uri, root)
    if place is None:
        return own(artifact_uri, **uris)
    later = not indexed and _IN_SERVER not in os.environ
    with mlflow_errors():
        silent = later and ranks.is_silent()
    kind = _SilentRepository if silent else BucketArtifactRepository
    return kind(artifact_uri, place, root, later=later, **uris)


def _place(artifact_uri: str, root: str) -> Place | None:
    """Return the bucket that an address is in and the key that it means; None for any folder."""
    inside = f"{artifact_uri_of(root)}/"
    if is_remote(artifact_uri):
        if root and artifact_uri.startswith(inside):
            return Place(root, artifact_uri.removeprefix(inside))
        parsed = urllib.parse.urlparse(at_its_service(artifact_uri, *filter(is_remote, [root])))
        return Place(f"{parsed.scheme}://{parsed.netloc}", parsed.path.strip("/"))
    if not root or is_remote(root):
        return None
    folder = local_file_uri_to_path(artifact_uri_of(root))
    path = Path(local_file_uri_to_path(artifact_uri.removeprefix("bucket+")))
    return Place(root, path.relative_to(folder).as_posix()) if path.is_relative_to(folder) else None


class BucketArtifactRepository(ArtifactRepository):
    """Artifacts below a key of a bucket, by a process whose runs are tracked in `tracked_in`.

    What cannot be uploaded now is sent `later`, or is an error.
    """

    def __init__(
        self, artifact_uri: str, place: Place, tracked_in: str, *, later: bool, **uris: str | None
    ) -> None:
        super().__init__(artifact_uri, **uris)
        self._place = place
        self._tracked_in = tracked_in
        self._later = later

    # Looked up each time: a repository may live through a fork.
    @property
    def _uploads(self) -> Uploads:
        return uploads(self._tracked_in)

    @property
    def _bucket(self) -> Bucket:
        return self._uploads.bucket(self._place.bucket)

    def _key(self, path: str | Path | None) -> str:
        key = posixpath.normpath(posixpath.join(self._place.key, path or "."))
        if path and not key.startswith(f"{self._place.key}/" if self._place.key else ""):
            raise MlflowException(f"Invalid artifact path: {path!r}", INVALID_PARAMETER_VALUE)
        return "" if key == "." else key

    # -- writing ------------------------------------------------------------------------------

    def log_artifact(self, local_file: str | Path, artifact_path: str | None = None) -> None:
        """Upload a file; where that has to wait, return as if it had been done."""
        key = posixpath.join(self._key(artifact_path), Path(local_file).name)
        with mlflow_errors():
            self._uploads.upload(Path(local_file), Place(self._place.bucket, key), self._later)

    def log_artifacts(self, local_dir: str | Path, artifact_path: str | None = None) -> None:
        """Upload a folder; where that has to wait, return as if it had been done.

        Raises OSError for a file that cannot be read, MlflowException for one that no bucket could
        hold; the others are uploaded all the same.
        """
        failed: list[Exception] = []
        top = Path(local_dir)
        for folder, folders, names in os.walk(top, onerror=failed.append):
            inside = Path(folder).relative_to(top).as_posix()
            target = posixpath.normpath(posixpath.join(artifact_path or "", inside))
            for name in names:
                try:
                    self.log_artifact(Path(folder, name), "" if target == "." else target)
                except (OSError, MlflowException) as error:
                    failed.append(error)
            for name in folders:
                if Path(folder, name).is_symlink():
                    _log.warning("Not logged: %s is a link to a folder.", Path(folder, name))
        for other in failed[1:]:
            _log.warning("Not logged: %s", other)
        if failed:
            raise failed[0]

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Delete a file or a folder, and what still waits to be sent there."""
        key = self._key(artifact_path)
        with mlflow_errors():
            for entry in [*self._below(key), Entry(key, "", 0)]:
                if entry.key:
                    self._bucket.delete(entry.key)
        for kept in self._waiting(key):
            self._uploads.forget(kept)

    # -- reading ------------------------------------------------------------------------------

    def _below(self, key: str) -> Iterator[Entry]:
        return self._bucket.list(f"{key}/" if key else "")

    def _waiting(self, key: str) -> list[Kept]:
        """Return what waits to be sent to a key or below it."""
        every = self._uploads.waiting(self._place.bucket, key)
        return [kept for kept in every if not key or f"{kept.place.key}/".startswith(f"{key}/")]

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        key = self._key(path)
        found: dict[str, FileInfo] = {}
        waiting = self._waiting(key)  # first: what is sent meanwhile is then in the bucket
        with mlflow_errors():
            sizes = {entry.key: entry.size for entry in self._below(key)}
        for kept in waiting:
            with suppress(FileNotFoundError):  # it has just been sent
                sizes[kept.place.key] = kept.content.stat().st_size
        start = f"{key}/" if key else ""
        for each, size in sizes.items():
            child, _, deeper = each.removeprefix(start).partition("/")
            if each != key:
                shown = posixpath.join(path or "", child)
                found[shown] = FileInfo(shown, bool(deeper), None if deeper else size)
        return sorted(found.values(), key=lambda info: str(info.path))

    def get_local_path(self, artifact_path: str) -> str | None:
        """Return where an artifact in a folder lies; None for any other bucket."""
        with mlflow_errors():
            path = self._bucket.local_path(self._key(artifact_path))
        if path is not None and not path.exists():
            raise _missing(artifact_path)
        return None if path is None else str(path)

    def download_artifacts(self, artifact_path: str, dst_path: str | None = None) -> str:
        """Bring artifacts to this disk, and return where they are; those in a folder are there."""
        if dst_path is None and not self._waiting(self._key(artifact_path)):
            there = self.get_local_path(artifact_path)
            if there is not None:
                return there
        return str(super().download_artifacts(artifact_path, dst_path))

    def download_trace_data(self) -> dict[str, Any]:
        """Return a trace's spans; MlflowTraceDataException if they are missing or unreadable.

        MLflow skips the traces for which it gets this, and ends a search with any other error.
        """
        try:
            data: dict[str, Any] = super().download_trace_data()
            TraceData.from_dict(data)
        except MlflowTraceDataException:
            raise
        except (MlflowException, ValueError, TypeError, LookupError, RecursionError) as error:
            raise MlflowTraceDataCorrupted(artifact_path=self.artifact_uri) from error
        return data

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        key = self._key(remote_file_path)
        for kept in self._waiting(key):
            if kept.place.key == key:
                with suppress(FileNotFoundError):  # it has just been sent
                    shutil.copyfile(kept.content, local_path)
                    return
        with mlflow_errors():
            try:
                self._bucket.fetch(key, Path(local_path))
            except ObjectNotFoundError:
                raise _missing(remote_file_path) from None

    def download_archived_trace_data(self) -> Any:
        """Read a trace's spans that MLflow has archived, unless they would fill the memory."""
        with mlflow_errors():
            there = self._bucket.stat(self._key(_ARCHIVE))
        if there and there.size > _LARGEST_ARCHIVE:
            problem = f"{_ARCHIVE} has {there.size:,} bytes"
            most = f"{_LARGEST_ARCHIVE:,} are the most"
            raise MlflowException(f"reading {self.artifact_uri}: {problem}, {most}", BAD_REQUEST)
        return super().download_archived_trace_data()


class _SilentRepository(BucketArtifactRepository):
    """Artifacts for a rank that logs nothing: it reads those that there are."""

    def log_artifact(self, local_file: str | Path, artifact_path: str | None = None) -> None:
        """Upload nothing."""

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Delete nothing."""


def _missing(path: str) -> MlflowException:
    return MlflowException(f"No such artifact: {path!r}", RESOURCE_DOES_NOT_EXIST)
