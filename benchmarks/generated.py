"""Generated runs, as a bucket holds them: each with 40 params, 12 tags, 8 metrics of 50 points.

Every run has its own time, values and commit, so that sorting and filtering have something to do,
and the same ones wherever it is made.
"""

import random
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kaggleops.mlruns import Entity

HOME = "1"
NAME = "generated"
_BEGUN = 1_700_000_000_000  # ms since the epoch
_APART = 600_000  # ms between two runs' starts
_BACKENDS = ("kaggle", "colab", "runpod", "local")


def run_id(number: int) -> str:
    """Return a run's id: as MLflow's, in no order."""
    return f"{random.Random(number).getrandbits(128):032x}"


def files_of(number: int, artifact_root: str) -> dict[str, bytes]:
    """Return the files of one run, as MLflow's file store has them."""
    from kaggleops.mlruns.entity import dump_yaml

    dice = random.Random(number)
    name = f"{dice.getrandbits(128):032x}"
    start = _BEGUN + number * _APART
    meta = {
        "artifact_uri": f"{artifact_root}/{HOME}/{name}/artifacts",
        "end_time": start + 500_000,
        "entry_point_name": "",
        "experiment_id": HOME,
        "lifecycle_stage": "active",
        "run_id": name,
        "run_name": f"run {number}",
        "run_uuid": name,
        "source_name": "",
        "source_type": 4,
        "source_version": "",
        "start_time": start,
        "status": 3,
        "tags": [],
        "user_id": "ada",
    }
    files = {"meta.yaml": dump_yaml(meta)}
    files |= {f"params/param_{each}": b"%.3f" % dice.random() for each in range(40)}
    files |= {f"tags/tag_{each}": b"value %d" % dice.randrange(100) for each in range(8)}
    files["tags/backend"] = dice.choice(_BACKENDS).encode()
    files["tags/git_commit"] = b"%010x" % (number // 20)
    files["tags/mlflow.source.git.commit"] = b"%010x" % (number // 20) + b"0" * 30
    files["tags/mlflow.runName"] = b"run %d" % number
    for each in range(8):
        points = [f"{start + 10_000 * at} {dice.random()} {at}\n" for at in range(50)]
        files[f"metrics/metric_{each}"] = "".join(points).encode()
    return files


def _home(artifact_root: str) -> "Entity":
    from kaggleops.mlruns import Entity, experiment
    from kaggleops.mlruns.entity import dump_yaml

    meta = {
        "artifact_location": f"{artifact_root}/{HOME}",
        "creation_time": _BEGUN,
        "experiment_id": HOME,
        "last_update_time": _BEGUN,
        "lifecycle_stage": "active",
        "name": NAME,
    }
    return Entity(experiment(HOME), {"meta.yaml": dump_yaml(meta)})


def objects(runs: int, artifact_root: str) -> Iterator[tuple[str, bytes]]:
    """Yield the objects of a bucket with so many runs: their keys and contents."""
    from kaggleops.mlruns import Entity, run
    from kaggleops.mlruns.archive import pack

    home = _home(artifact_root)
    yield home.id.key, pack(home)
    for number in range(runs):
        files = files_of(number, artifact_root)
        entity = Entity(run(HOME, run_id(number)), files, frozenset({"artifacts"}))
        yield entity.id.key, pack(entity)


_ROWS = {
    "runs": "run_uuid, name, source_type, user_id, status, start_time, end_time, lifecycle_stage, "
    "artifact_uri, experiment_id",
    "params": "run_uuid, key, value",
    "tags": "run_uuid, key, value",
    "latest_metrics": "run_uuid, key, value, timestamp, step, is_nan",
    "kaggleops_entities": "key, version, problem, waits_for, heard_ms",
}
_AT_ONCE = 1000  # runs in a transaction


def make_index(runs: int, file: Path, bucket: Path) -> None:
    """Make an index of so many runs from rows, without their objects, which would take an hour.

    It has read the change log of a bucket in which only the experiment is, so that a server over
    both takes it for complete until it lists the bucket, a day later.
    """
    from kaggleops.bucket import ABSENT, open_bucket
    from kaggleops.index.refresh import Index
    from kaggleops.mlruns import ChangeLog, EntityStore, run

    bucket.mkdir(parents=True)
    opened = open_bucket(str(bucket))
    store = EntityStore(opened, ChangeLog(opened))
    store.write(_home(store.artifact_root), expected=ABSENT)
    index = Index(f"sqlite:///{file}", store)
    index.refresh()
    index.close()
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA synchronous = OFF")
    for begun in range(0, runs, _AT_ONCE):
        rows: dict[str, list[tuple[object, ...]]] = {table: [] for table in _ROWS}
        for number in range(begun, min(runs, begun + _AT_ONCE)):
            dice, name = random.Random(number), run_id(number)
            start = _BEGUN + number * _APART
            place = f"{store.artifact_root}/{HOME}/{name}/artifacts"
            rows["runs"].append(
                (
                    *(name, f"run {number}", "LOCAL", "ada", "FINISHED", start, start + 500_000),
                    *("active", place, int(HOME)),
                )
            )
            rows["params"] += [(name, f"param_{at}", f"{dice.random():.3f}") for at in range(40)]
            commit = f"{number // 20:010x}"
            tags = {f"tag_{at}": f"value {dice.randrange(100)}" for at in range(8)} | {
                "backend": dice.choice(_BACKENDS),
                "git_commit": commit,
                "mlflow.source.git.commit": commit + "0" * 30,
                "mlflow.runName": f"run {number}",
            }
            rows["tags"] += [(name, *tag) for tag in tags.items()]
            last = start + 490_000, 49, 0
            rows["latest_metrics"] += [
                (name, f"metric_{at}", dice.random(), *last) for at in range(8)
            ]
            key = run(HOME, name).key
            rows["kaggleops_entities"].append((key, f"{number}", "", "", int(1000 * time.time())))
        for table, columns in _ROWS.items():
            places = ", ".join("?" * len(columns.split(", ")))
            insert = f"INSERT INTO {table} ({columns}) VALUES ({places})"
            connection.executemany(insert, rows[table])
        connection.commit()
    connection.execute("ANALYZE")
    connection.execute("UPDATE kaggleops_index SET analyzed = ?", (runs,))
    connection.commit()
    connection.close()
