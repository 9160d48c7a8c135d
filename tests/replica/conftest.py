"""Indexes of buckets, and MLflow's stores over them."""

from collections.abc import Callable, Iterator

import pytest

from kaggleops.bucket import Bucket
from kaggleops.index import Index
from kaggleops.mlruns import EntityStore
from kaggleops.replica import writing
from kaggleops.replica.tracking import ReplicaTrackingStore


@pytest.fixture
def index_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of an index that is not there yet."""
    return f"sqlite:///{tmp_path_factory.mktemp('index')}/index.db"


@pytest.fixture
def refresh(bucket: Bucket, index_url: str) -> Callable[[str], None]:
    """Brings an index up to date with the bucket, or makes it."""

    def bring(url: str = index_url) -> None:
        index = Index(url, EntityStore(bucket))
        assert index.refresh().problems == {}
        index.close()

    return bring


@pytest.fixture
def replica(index_url: str, refresh: Callable[[], None]) -> Iterator[ReplicaTrackingStore]:
    """MLflow's tracking store over the index of an empty bucket."""
    refresh()
    yield ReplicaTrackingStore(f"kaggleops+{index_url}")
    writing.write_through.cache_clear()
