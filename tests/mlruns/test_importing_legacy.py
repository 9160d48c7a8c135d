"""What other writers leave of an `mlruns`: what MLflow's file store reads of it, we import."""

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.entities import Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.file_store import FileStore

from kaggleops.bucket.directory import DirectoryBucket
from kaggleops.bucket.location import tracking_uri
from kaggleops.mlruns.store import EntityStore
from kaggleops.tracking.store import BucketTrackingStore
from tests.command import kaggleops
from tests.mlruns.corpus import bring
from tests.mlruns.importing import ended

POINTS = ("1700000000000 0.5 1", "1700000000001 -1e-05 2", "1700000000002 nan 3", "1 inf 4")
OLD_POINTS = ("1700000000000 0.25", "1700000000000 .5 2", "5 Infinity 0")
ENDS = ("\n", "\r\n", "\n\n", " \n")
META_WRITERS = (
    lambda text: text.encode(),
    lambda text: text.replace("\n", "\r\n").encode(),
    lambda text: b"\xef\xbb\xbf" + text.encode(),
    lambda text: text.rstrip("\n").encode(),
    lambda text: b"# copied by hand\n---\n" + text.encode() + b"...\n",
)


def make(folder: Path, rng: random.Random) -> None:
    """Make an `mlruns` with a run as an older MLflow, or another system, may leave it."""
    home = rng.choice(["1", "123456789012345678"])
    experiment: dict[str, Any] = {
        "experiment_id": rng.choice([home, int(home)]),
        "name": "old",
        "artifact_location": rng.choice([f"file:///gone/mlruns/{home}", f"C:\\mlruns\\{home}"]),
        "lifecycle_stage": "active",
    }
    top = folder / rng.choice(["", "", ".trash"]) / home
    if top.parent.name == ".trash":
        experiment["lifecycle_stage"] = "deleted"
    write_meta(top, experiment, rng)
    for number in range(rng.randint(1, 3)):
        run_id = f"{rng.getrandbits(128):032x}"
        run: dict[str, Any] = {
            "run_id": run_id,
            "run_uuid": run_id,
            "experiment_id": rng.choice([home, int(home)]),
            "user_id": "ada",
            "start_time": 1_500_000_000_000 + number,
            "end_time": rng.choice([None, 1_500_000_009_000]),
            "artifact_uri": f"{experiment['artifact_location']}/{run_id}/artifacts",
            "status": rng.randint(1, 5),
            "lifecycle_stage": rng.choice(["active", "deleted"]),
            "run_name": "",
            "name": "",
            "source_type": rng.choice([1, 3, 4, 5]),
            "source_version": "",
            "entry_point_name": "",
            "tags": [],
        }
        for field in rng.sample(
            ["status", "lifecycle_stage", "run_name", "artifact_uri", "name"], 2
        ):
            del run[field]
        write_meta(top / run_id, run, rng)
        for name in ("loss", "val/loss", "f1 x-y.z"):
            end = rng.choice(ENDS)
            points = rng.choices(POINTS + OLD_POINTS, k=rng.randint(1, 4))
            text = end.join(points) + rng.choice([end.strip(" ").replace("\n\n", "\n"), ""])
            write(top / run_id / "metrics" / name, text.replace("\n\n", "\n").encode())
        for kind in rng.sample(["params", "tags"], rng.randint(0, 2)):
            for name in ("lr", "a/b"):
                write(
                    top / run_id / kind / name,
                    rng.choice([b"1", b"1\r\n", "\ufeffé".encode(), b""]),
                )
        for kind in ("params", "artifacts"):  # what was empty may not have been carried along
            if rng.random() < 0.7:
                (top / run_id / kind).mkdir(exist_ok=True)


def write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def write_meta(folder: Path, meta: dict[str, Any], rng: random.Random) -> None:
    write(folder / "meta.yaml", rng.choice(META_WRITERS)(yaml.safe_dump(meta)))


def shown(store: Any) -> dict[str, Any]:
    """Return all that a store tells of its runs, but where their artifacts lie."""
    found = {}
    for experiment in store.search_experiments(ViewType.ALL):
        page = store.search_runs([experiment.experiment_id], "", ViewType.ALL)
        found[experiment.name] = {
            "stage": experiment.lifecycle_stage,
            **{run.info.run_id: plain(store, run) for run in page},
        }
    found.pop("Default", None)
    return found


def plain(store: Any, run: Run) -> dict[str, Any]:
    return {
        "info": {**dict(run.info), "artifact_uri": None},
        "params": run.data.params,
        "tags": run.data.tags,
        "metrics": {
            # An equal point is one point, as in MLflow's SQL store.
            name: {
                (point.timestamp, repr(float(point.value)), point.step)
                for point in store.get_metric_history(run.info.run_id, name)
            }
            for name in run.data.metrics
        },
    }


SHA = "0123456789abcdef0123456789abcdef01234567"


def test_a_run_of_stock_mlflow_says_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    source = FileStore(str(tmp_path / "mlruns"))
    home = source.create_experiment("old")
    told = {
        "mlflow.source.git.commit": SHA,
        "mlflow.source.git.branch": "main",
        "mlflow.source.git.repoURL": "https://ada:" + "horse-battery@github.com/ada/toy.git",
        "mlflow.source.name": "https://" + "horse-battery@github.com/ada/toy.git",
        "mlflow.note.content": "my note",
    }
    new = source.create_run(home, "ada", 1, [RunTag(*tag) for tag in told.items()], "new")
    old = source.create_run(home, "ada", 2, [], "0.x").info.run_id
    meta = tmp_path / "mlruns" / home / old / "meta.yaml"
    meta.write_text(meta.read_text().replace("source_version: ''", f"source_version: {SHA}"))
    none = source.create_run(home, "ada", 3, [RunTag("mlflow.source.name", "x.py")], "none")
    bucket = DirectoryBucket(tmp_path / "bucket")
    bring(EntityStore(bucket), tmp_path / "mlruns")
    assert bring(EntityStore(bucket), tmp_path / "mlruns").changed == []

    store = BucketTrackingStore(tracking_uri(bucket.uri))
    page = store.search_runs([home], "tags.git_commit = '0123456789'", ViewType.ALL)
    assert {run.info.run_id for run in page} == {new.info.run_id, old}
    tags = store.get_run(new.info.run_id).data.tags
    link = f"Commit [`0123456789`](https://github.com/ada/toy/commit/{SHA}) on `main`"
    assert tags["mlflow.note.content"].startswith(link)
    assert tags["mlflow.note.content"].endswith("\n\nmy note")
    assert tags["git_branch"] == "main"
    assert "horse" not in str(tags)
    assert store.get_run(old).data.tags["mlflow.source.git.commit"] == SHA
    assert "git_commit" not in store.get_run(none.info.run_id).data.tags
    # Through a server, whoever logs may have no plugin of ours either.
    logged = store.create_run(home, "ada", 4, [RunTag(*tag) for tag in told.items()], "rest")
    assert logged.data.tags["git_commit"] == "0123456789"
    assert "horse" not in str(logged.data.tags)
    ended(store)
    rows = kaggleops(
        "status",
        new.info.run_id,
        logged.info.run_id,
        "--bucket",
        bucket.uri,
        "--json",
        cwd=tmp_path,
    )
    assert [row["commit"] for row in rows.json["runs"]] == ["0123456789"] * 2


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 8))]
)
def test_what_mlflow_reads_is_imported_as_mlflow_reads_it(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    rng = random.Random(seed)
    compared = 0
    for number in range(10):
        mlruns = tmp_path / f"{number}" / "mlruns"
        make(mlruns, rng)
        bucket = DirectoryBucket(tmp_path / f"{number}" / "bucket")
        imported = bring(EntityStore(bucket), mlruns)
        for meta in mlruns.glob("**/meta.yaml"):  # MLflow wants them, whoever lost them
            for name in ("metrics", "params", "artifacts") if len(meta.parent.name) == 32 else ():
                (meta.parent / name).mkdir(exist_ok=True)
        try:
            expected = shown(FileStore(str(mlruns)))
        except MlflowException:
            continue
        compared += 1
        assert [each for each in imported.problems if "artifacts" not in each] == []
        store = BucketTrackingStore(tracking_uri(bucket.uri))
        assert shown(store) == expected
        ended(store)
        assert bring(EntityStore(bucket), mlruns).changed == []
    assert compared >= 5
