"""What a notebook shows of the last runs."""

from mlflow import MlflowClient

from kaggleops.bucket import ABSENT, open_bucket
from kaggleops.mlruns import Entity, EntityStore, experiment, run
from kaggleops.mlruns.entity import META, dump_yaml
from kaggleops.reports.charts import headline, last_runs
from tests.fakes.gcs_server import GcsServer
from tests.mlruns.entities import run_meta


def test_results_are_told_from_what_only_accompanies_them() -> None:
    logged = {"loss": 0.3, "jaccard": 0.7, "system/cpu": 1.0, "epoch": 2.0}
    assert headline(logged) == [("jaccard", 0.7)]
    assert headline({"loss": 0.3, "epoch": 2.0}) == [("loss", 0.3)]
    assert headline({}) == []


def test_the_last_runs_are_read_and_no_others(gcs_server: GcsServer) -> None:
    gcs_server.create_bucket("our-bucket")
    store = EntityStore(open_bucket("gs://our-bucket", patience=5))
    home = {"name": "e", "experiment_id": "1", "lifecycle_stage": "active"}
    home["artifact_location"] = "gs://our-bucket/artifacts/1"
    store.write(Entity(experiment("1"), {META: dump_yaml(home)}), expected=ABSENT)
    ids = [run("1", f"{number:032x}") for number in range(12)]
    for number, each in enumerate(ids):
        meta = run_meta(
            artifact_uri=f"gs://our-bucket/artifacts/1/{each.name}/artifacts",
            run_id=each.name,
            run_uuid=each.name,
            start_time=1_700_000_000_000 + number,
            lifecycle_stage="deleted" if number == 10 else "active",
        )
        store.write(Entity(each, {META: dump_yaml(meta)}), expected=ABSENT)
        gcs_server.age("our-bucket", each.key, hours=12 - number)
    store.bucket.write(run("1", "f" * 32).key, b"no archive", expected=ABSENT)
    gcs_server.reset_counts()
    client = MlflowClient("gs://our-bucket/mlruns")
    shown = [each.info.run_id for each in last_runs(client, store, "1", count=4)]
    assert shown == [ids[11].name, ids[9].name]
    read = {each.key for each in gcs_server.requests}
    assert read.isdisjoint({each.key for each in ids[:9]})
