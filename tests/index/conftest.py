"""Indexes of buckets, and MLflow's stores over them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaggleops.bucket import Bucket, open_bucket
from kaggleops.index import write_through
from kaggleops.index.refresh import Index
from kaggleops.mlruns import EntityStore
from tests.fakes.gcs_server import GcsServer


class Replicated:
    """A bucket, and a folder with indexes of it."""

    def __init__(self, bucket: Bucket, folder: Path, empty: Path) -> None:
        bucket.prepare()
        self.bucket = bucket
        self.tracking_uri = f"{bucket.uri}/mlruns"
        self._folder = folder
        self._empty = empty
        self.index_url = self.anew()
        self.uri = f"kaggleops+{self.index_url}"

    def anew(self) -> str:
        """Return the address of a new index of the bucket."""
        database = self._folder / f"{len(list(self._folder.iterdir()))}.db"
        shutil.copyfile(self._empty, database)
        self.refresh(f"sqlite:///{database}")
        return f"sqlite:///{database}"

    def refresh(self, url: str | None = None) -> None:
        """Bring an index up to date with the bucket."""
        index = Index(url or self.index_url, EntityStore(self.bucket))
        assert index.refresh(full=True).problems == {}
        index.close()


@pytest.fixture
def replicated(
    bucket: Bucket, tmp_path_factory: pytest.TempPathFactory, empty_index: Path
) -> Iterator[Replicated]:
    yield Replicated(bucket, tmp_path_factory.mktemp("indexes"), empty_index)
    write_through.write_through.cache_clear()


@pytest.fixture
def in_cloud(
    gcs_server: GcsServer, tmp_path_factory: pytest.TempPathFactory, empty_index: Path
) -> Iterator[Replicated]:
    """On Cloud Storage only."""
    gcs_server.create_bucket("our-bucket")
    folder = tmp_path_factory.mktemp("indexes")
    yield Replicated(open_bucket("gs://our-bucket"), folder, empty_index)
    write_through.write_through.cache_clear()
