"""MLflow's artifact repository on Cloud Storage, with uploads that do not end the training.

MLflow's own repository lists, downloads and deletes; only its uploads are replaced. They retry for
two minutes a file (a folder's files twice) and then raise in the training process (MLflow issues
#3478, #4543).
"""

import os
import posixpath
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import FileInfo
from mlflow.store.artifact.gcs_artifact_repo import GCSArtifactRepository

from kaggleops.bucket.gcs_client import connect
from kaggleops.bucket.location import bucket_uri
from kaggleops.tracking.artifact_uploads import Uploads, uploads
from kaggleops.tracking.base import mlflow_errors
from kaggleops.tracking.spool import Place

_OURS = ("gs://", "bucket+file://")
_INDEX = "kaggleops+"  # the index of a bucket, which only a server tracks in
_IN_SERVER = "_MLFLOW_SERVER_FILE_STORE"  # set by `mlflow server` for its own processes


def repository(
    artifact_uri: str, tracking_uri: str | None, registry_uri: str | None
) -> GCSArtifactRepository:
    """Return the repository for a `gs://` address: MLflow's own unless a run of ours writes there.

    In a server MLflow's own, too: who uploads through one has to hear that it did not work.
    """
    uris = {"tracking_uri": tracking_uri, "registry_uri": registry_uri}
    tracked_in = tracking_uri or mlflow.get_tracking_uri()
    if not tracked_in.startswith((*_OURS, _INDEX)):
        return GCSArtifactRepository(artifact_uri, **uris)
    if _IN_SERVER in os.environ or tracked_in.startswith(_INDEX):
        return GCSArtifactRepository(artifact_uri, client=connect(), **uris)
    return BucketArtifactRepository(artifact_uri, bucket_uri(tracked_in), **uris)


class BucketArtifactRepository(GCSArtifactRepository):
    """Artifacts under a `gs://` address. What still waits to be sent is listed and read as well.

    Args:
        artifact_uri: the address.
        bucket_uri: the bucket that the runs of this process are tracked in.
    """

    def __init__(self, artifact_uri: str, bucket_uri: str, **uris: str | None) -> None:
        # A client that it never uses: connecting raises where there are no credentials, and that
        # must not end the training either.
        super().__init__(artifact_uri, client=connect, **uris)
        self._bucket_uri = bucket_uri
        self._bucket, self._root = self.parse_gcs_uri(artifact_uri)

    def _get_bucket(self, bucket: str) -> Any:
        # Never one that was made before a fork, which a repository may have lived through.
        return self._uploads.client.bucket(bucket)

    @property
    def _uploads(self) -> Uploads:
        return uploads(self._bucket_uri)

    # -- writing ------------------------------------------------------------------------------

    def log_artifact(self, local_file: str | Path, artifact_path: str | None = None) -> None:
        """Upload a file; where that has to wait, return as if it had been done."""
        key = posixpath.join(self._root, artifact_path or "", Path(local_file).name)
        with mlflow_errors():
            self._uploads.upload(Path(local_file), Place(self._bucket, key))

    def log_artifacts(self, local_dir: str | Path, artifact_path: str | None = None) -> None:
        """Upload a folder; where that has to wait, return as if it had been done."""
        top = Path(local_dir)
        for folder, _, names in os.walk(top):
            inside = Path(folder).relative_to(top).as_posix()
            target = posixpath.normpath(posixpath.join(artifact_path or "", inside))
            for name in names:
                self.log_artifact(Path(folder, name), "" if target == "." else target)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Delete a file or a folder, and what still waits to be sent there."""
        super().delete_artifacts(artifact_path)
        key = posixpath.join(self._root, artifact_path or "").rstrip("/")
        for kept in self._uploads.waiting(self._bucket, key):
            if f"{kept.place.key}/".startswith(f"{key}/"):
                self._uploads.forget(kept)

    # -- reading ------------------------------------------------------------------------------

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        waiting = self._waiting_in(path)  # first: what is sent meanwhile is then in the bucket
        found = {info.path: info for info in super().list_artifacts(path)}
        return sorted({**found, **waiting}.values(), key=lambda info: info.path)

    def _waiting_in(self, path: str | None) -> dict[str, FileInfo]:
        found = {}
        start = posixpath.join(self._root, path or "", "")
        for kept in self._uploads.waiting(self._bucket, start):
            child, _, deeper = kept.place.key.removeprefix(start).partition("/")
            shown = posixpath.join(path or "", child)
            with suppress(FileNotFoundError):  # it has just been sent
                size = None if deeper else kept.content.stat().st_size
                found[shown] = FileInfo(shown, bool(deeper), size)
        return found

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        key = posixpath.join(self._root, remote_file_path)
        for kept in self._uploads.waiting(self._bucket, key):
            if kept.place.key == key:
                with suppress(FileNotFoundError):  # it has just been sent
                    shutil.copyfile(kept.content, local_path)
                    return
        super()._download_file(remote_file_path, local_path)
