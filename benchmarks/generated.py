"""Generated runs, as a bucket holds them: each with 40 params, 12 tags, 8 metrics of 50 points.

Every run has its own time, values and commit, so that sorting and filtering have something to do,
and the same ones wherever it is made.
"""

import random
from collections.abc import Iterator

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


def objects(runs: int, artifact_root: str) -> Iterator[tuple[str, bytes]]:
    """Yield the objects of a bucket with so many runs: their keys and contents."""
    from kaggleops.mlruns import Entity, experiment, run
    from kaggleops.mlruns.archive import pack
    from kaggleops.mlruns.entity import dump_yaml

    meta = {
        "artifact_location": f"{artifact_root}/{HOME}",
        "creation_time": _BEGUN,
        "experiment_id": HOME,
        "last_update_time": _BEGUN,
        "lifecycle_stage": "active",
        "name": NAME,
    }
    home = Entity(experiment(HOME), {"meta.yaml": dump_yaml(meta)})
    yield home.id.key, pack(home)
    for number in range(runs):
        files = files_of(number, artifact_root)
        entity = Entity(run(HOME, run_id(number)), files, frozenset({"artifacts"}))
        yield entity.id.key, pack(entity)
