"""MLflow's SQL stores over an index answer as they do elsewhere, and the bucket has it all."""

from pathlib import Path

import pytest
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as StockRegistry
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as StockTracking

from kaggleops.index import stores
from kaggleops.index.stores import ReplicaRegistryStore, ReplicaTrackingStore
from kaggleops.tracking.unsupported import NotInABucketError
from tests.index.conftest import Replicated
from tests.index.corpus import tables
from tests.tracking import scenario, test_registry


@pytest.fixture
def stock(stock_url: str, tmp_path: Path) -> tuple[StockTracking, StockRegistry]:
    """MLflow's own stores over a database of their own."""
    return StockTracking(stock_url, str(tmp_path / "artifacts")), StockRegistry(stock_url)


@pytest.fixture
def on_postgresql(replicated: Replicated, postgresql_index: str) -> Replicated:
    """The index in PostgreSQL."""
    replicated.index_url = postgresql_index
    replicated.uri = f"kaggleops+{postgresql_index}"
    replicated.refresh()
    return replicated


def judge(replicated: Replicated, stock: tuple[StockTracking, StockRegistry]) -> None:
    """Play on both, and compare; then delete the index, and compare again."""
    ours = ReplicaTrackingStore(replicated.uri), ReplicaRegistryStore(replicated.uri)
    for runs, models in (stock, ours):
        scenario.play(runs)
        test_registry.play(models)
    expected = scenario.picture(stock[0])
    # MLflow's own makes an experiment that nobody asked for.
    expected["experiments"] = [each for each in expected["experiments"] if "Default" not in each]
    got = scenario.picture(ours[0])
    for section in expected:
        # SQLite does not keep the sign of a zero, PostgreSQL does.
        shown = [each.replace("value=-0.0>", "value=0.0>") for each in got[section]]
        assert shown == expected[section], section
    assert test_registry.picture(ours[1]) == test_registry.picture(stock[1])
    before = tables(replicated.index_url)
    assert tables(replicated.anew()) == before


def test_they_answer_as_mlflows_own_do_and_the_bucket_has_it_all(
    replicated: Replicated, stock: tuple[StockTracking, StockRegistry]
) -> None:
    judge(replicated, stock)


@pytest.mark.parametrize("bucket", ["directory"], indirect=True)
def test_on_postgresql(
    on_postgresql: Replicated, stock: tuple[StockTracking, StockRegistry]
) -> None:
    judge(on_postgresql, stock)


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_artifacts_lie_at_the_service_that_the_index_knows(
    replicated: Replicated, tmp_path: Path
) -> None:
    """So for any stock `mlflow server` over an index: an artifact's location names no host."""
    runs = ReplicaTrackingStore(replicated.uri)
    run = runs.create_run(runs.create_experiment("e"), "ada", 1, [], "r")
    assert run.info.artifact_uri.startswith("s3://our-bucket/some/prefix/artifacts/")
    (tmp_path / "report.txt").write_text("what it says")
    place = get_artifact_repository(run.info.artifact_uri, tracking_uri=replicated.uri)
    place.log_artifact(str(tmp_path / "report.txt"))
    (there,) = replicated.bucket.list("artifacts/")
    assert there.key.endswith(f"/{run.info.run_id}/artifacts/report.txt")


_WRITING = (
    "add_",
    "archive_",
    "attach_",
    "create_",
    "delete_",
    "detach_",
    "finalize_",
    "link_",
    "log_",
    "record_",
    "register_",
    "remove_",
    "rename_",
    "restore_",
    "set_",
    "start_",
    "unlink_",
    "update_",
    "upsert_",
)


@pytest.mark.parametrize("bucket", ["directory"], indirect=True)
def test_what_no_bucket_can_keep_is_refused_and_not_kept_on_the_disk_alone(
    replicated: Replicated,
) -> None:
    before = tables(replicated.index_url)
    composed = {"log_batch_async", "log_metric_async", "log_param_async", "set_tag_async"}
    composed |= {"log_spans_async", "set_model_versions_tags", "create_experiment"}
    for store, stock_class, delegated in (
        (ReplicaTrackingStore(replicated.uri), StockTracking, stores._WRITES.split()),
        (ReplicaRegistryStore(replicated.uri), StockRegistry, stores._REGISTRY_WRITES.split()),
    ):
        refused = set()
        for name in dir(stock_class):
            writes = name.startswith(_WRITING) or name.startswith("get_or_create")
            if writes and name not in composed.union(delegated) and "prompt" not in name:
                with pytest.raises(NotInABucketError, match=name):
                    getattr(store, name)()
                refused.add(name)
        assert refused
    assert tables(replicated.index_url) == before
