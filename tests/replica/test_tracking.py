"""MLflow's SQL store over an index: reads from it, writes to the bucket first."""

from collections.abc import Callable
from pathlib import Path

from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from kaggleops.bucket import Bucket
from kaggleops.replica.tracking import ReplicaTrackingStore
from kaggleops.tracking.store import BucketTrackingStore
from tests.index.corpus import tables
from tests.tracking.scenario import picture, play

Refresh = Callable[..., None]


def test_it_answers_as_mlflows_own_store_does(
    replica: ReplicaTrackingStore, tmp_path: Path
) -> None:
    stock = SqlAlchemyStore(f"sqlite:///{tmp_path}/stock.db", str(tmp_path / "artifacts"))
    play(stock)
    play(replica)
    expected, got = picture(stock), picture(replica)
    # MLflow's own makes an experiment that nobody asked for.
    expected["experiments"] = [each for each in expected["experiments"] if "Default" not in each]
    for section in expected:
        assert got[section] == expected[section], section


def test_the_bucket_has_it_all(
    replica: ReplicaTrackingStore, index_url: str, refresh: Refresh, tmp_path: Path, bucket: Bucket
) -> None:
    play(replica)
    anew = f"sqlite:///{tmp_path}/anew.db"
    refresh(anew)
    assert tables(index_url) == tables(anew)
    assert picture(BucketTrackingStore(f"{bucket.uri}/mlruns"))["runs"]
