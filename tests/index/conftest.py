"""Indexes of buckets, and MLflow's stores over them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from mlflow.store.db.utils import _initialize_tables

from kaggleops.bucket import Bucket, open_bucket
from kaggleops.index import write_through
from kaggleops.index.refresh import Index
from kaggleops.mlruns import EntityStore
from tests.fakes.object_server import ObjectServer

_OTHERS = (pytest.param(kind, marks=pytest.mark.slow) for kind in ("gcs", "s3"))


@pytest.fixture(params=["directory", *_OTHERS])
def bucket(bucket: Bucket) -> Bucket:
    """A folder; another kind for a test that says so, and for each among the slow ones.

    What an index asks of a bucket is the same on all kinds, and tests/bucket looks at that.
    """
    return bucket


@pytest.fixture(scope="session")
def stock_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's own tables, to be copied: its migrations take two seconds."""
    database = tmp_path_factory.mktemp("stock") / "stock.db"
    engine = sa.create_engine(f"sqlite:///{database}")
    _initialize_tables(engine)
    engine.dispose()
    return database


@pytest.fixture
def stock_url(stock_database: Path, tmp_path: Path) -> str:
    """The address of a copy."""
    return f"sqlite:///{shutil.copyfile(stock_database, tmp_path / 'stock.db')}"


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
    service: ObjectServer, tmp_path_factory: pytest.TempPathFactory, empty_index: Path
) -> Iterator[Replicated]:
    """On a service: Cloud Storage's, unless the test says otherwise."""
    service.create_bucket("our-bucket")
    folder = tmp_path_factory.mktemp("indexes")
    yield Replicated(open_bucket(service.address("our-bucket")), folder, empty_index)
    write_through.write_through.cache_clear()
