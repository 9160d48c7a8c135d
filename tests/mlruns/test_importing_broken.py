"""What cannot be taken into a bucket as it is: it is named, and the others come."""

import time
from pathlib import Path

import pytest
from mlflow.store.model_registry.file_store import FileStore as FileRegistry
from mlflow.store.tracking.file_store import FileStore

from kaggleops.errors import UsageError
from kaggleops.mlruns import EntityId, EntityStore, Kind, experiment, run
from kaggleops.mlruns.import_sources import opened
from kaggleops.tracking.registry import BucketRegistryStore
from tests.mlruns.corpus import (
    allowed,
    bring,
)
from tests.mlruns.importing import break_run, ended, mlruns, small_mlruns, store, versions

__all__ = ["allowed", "mlruns", "store"]

pytestmark = pytest.mark.usefixtures("allowed")


def test_two_experiments_of_one_id_are_not_mixed(store: EntityStore, tmp_path: Path) -> None:
    bring(store, small_mlruns(tmp_path / "a", "1", "tweets", created=5))
    result = bring(store, small_mlruns(tmp_path / "b", "1", "houses", created=6))
    assert result.new == []
    assert "'tweets'" in result.problems[0]
    assert "'houses'" in result.problems[0]
    assert store.read(experiment("1")).entity.meta["name"] == "tweets"
    renamed = bring(store, small_mlruns(tmp_path / "c", "1", "tweets 2020", created=5))
    assert renamed.changed == [experiment("1")]
    long = bring(store, small_mlruns(tmp_path / "d", "1", "n" * 10_000, created=7))
    assert len(long.problems[0]) < 400


def test_bad_sources_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for source, reason in (
        ("nowhere", "does not exist"),
        ("empty", "is empty"),
        ("other", "no file-store mlruns"),
        ("file", "is a file"),
        ("gs://ours/mlruns", "an import reads a folder"),
        ("hdfs://x/mlruns", "an import reads a folder"),
    ):
        text = source if "://" in source else str(tmp_path / source)
        with pytest.raises(UsageError, match=reason), opened(text):
            pass


def test_what_is_broken_is_named_and_the_others_come(
    store: EntityStore, mlruns: Path, tmp_path: Path
) -> None:
    broken = break_run(mlruns)
    source = FileStore(str(mlruns))
    home = source.get_experiment_by_name("first").experiment_id
    torn = source.create_run(home, "ada", 1, [], "torn").info.run_id
    (mlruns / home / torn / "meta.yaml").unlink()
    headless = mlruns / source.create_experiment("headless") / "meta.yaml"
    source.create_run(headless.parent.name, "ada", 1, [], "x")
    headless.unlink()
    result = bring(store, mlruns)
    assert len(result.new) == 15
    assert len(result.problems) == 3
    for name in (broken, torn, headless.parent.name):
        assert sum(name in problem for problem in result.problems) == 1


def test_what_is_broken_in_the_bucket_is_named_and_the_others_come(
    store: EntityStore, mlruns: Path
) -> None:
    bring(store, mlruns)
    before = versions(store)
    victim = next(
        key for key in sorted(before) if key.startswith("mlruns/") and key.count("/") == 2
    )
    store.bucket.write(victim, b"no archive", expected=before[victim])
    result = bring(store, mlruns)
    assert len(result.problems) == 1
    assert store.bucket.object_uri(victim) in result.problems[0]
    assert store.bucket.read(victim).data == b"no archive"


def test_another_value_of_a_param_is_named_and_the_bucket_keeps_its_own(
    store: EntityStore, mlruns: Path
) -> None:
    bring(store, mlruns)
    param = next(iter(sorted(mlruns.glob("*/*/params/lr"))))
    param.write_text("0.2")
    result = bring(store, mlruns)
    assert len(result.problems) == 1
    assert "'lr'" in result.problems[0]
    entity = store.read(run(param.parts[-4], param.parts[-3])).entity
    assert entity.files["params/lr"] == b"0.1"


def test_a_version_number_given_twice_is_named(store: EntityStore, mlruns: Path) -> None:
    bring(store, mlruns)
    registry = BucketRegistryStore(f"{store.bucket.uri}/mlruns")
    registry.create_model_version("tweets", "gs://ours/4")
    ended(registry)
    time.sleep(0.002)  # the registry's times are milliseconds
    FileRegistry(str(mlruns)).create_model_version("tweets", "gs://theirs/4")
    result = bring(store, mlruns)
    assert len(result.problems) == 1
    assert "version-4" in result.problems[0]
    tweets = store.read(EntityId(Kind.REGISTERED_MODEL, "", "tweets")).entity
    assert b"gs://ours/4" in tweets.files["version-4/meta.yaml"]
