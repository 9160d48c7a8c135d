"""The main job, whole: a commit of this project, fetched by MLflow over real git, into a bucket."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from kaggleops.bucket import Bucket
from tests.buckets import ON_SERVICES
from tests.fakes import platforms
from tests.fakes.git_server import Repository, git_daemon
from tests.notebooks.execution import execute, parametrised, until
from tests.warm import stand_in

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """This project as it stands, as a repository on a git server: its address and its commit."""
    folder = tmp_path_factory.mktemp("git")
    listed = [
        "git",
        "-C",
        str(ROOT),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0")
    repository = Repository(folder / "kaggleops")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            copy = repository.folder / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy)
    sha = repository.commit("As it stands")
    with git_daemon(folder) as address:
        yield f"{address}/kaggleops", sha


@ON_SERVICES
def test_mlflow_run_of_a_commit_logs_to_the_bucket(
    served: tuple[str, str], bucket: Bucket, tmp_path: Path
) -> None:
    address, sha = served
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mlflow", "run", address, "--version", sha),
            *("--env-manager", "local", "--experiment-name", "by hand"),
            *("-P", "trainer=fast", "-P", "overrides=data.rows=60 seed=7"),
        ],
        cwd=tmp_path,
        # As `mlflow run` finds `python` on a machine whose environment is activated.
        env=os.environ
        | stand_in("training")
        | {
            "MLFLOW_TRACKING_URI": f"{bucket.uri}/mlruns",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    client = mlflow.MlflowClient(f"{bucket.uri}/mlruns")
    experiment = client.get_experiment_by_name("by hand")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.source.git.commit"] == sha
    assert run.data.params["trainer"] == "fast"
    assert run.data.params["seed"] == "7"
    assert 0 < run.data.metrics["jaccard"] <= 1
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 4

    root = f"artifacts/{experiment.experiment_id}/{run.info.run_id}/artifacts"
    assert run.info.artifact_uri == f"{bucket.artifact_uri}/{root}"
    artifacts = {entry.key.removeprefix(f"{root}/") for entry in bucket.list("artifacts/")}
    assert {"config.yaml", "oof.csv", "model/model.safetensors", "model/config.yaml"} <= artifacts
    assert any(name.endswith(".png") for name in artifacts)
    stored = bucket.read(f"{root}/oof.csv")
    assert stored is not None
    assert len(pd.read_csv(io.BytesIO(stored.data))) == 12


@pytest.mark.slow
def test_the_notebook_says_that_the_gpu_is_missing(served: tuple[str, str], tmp_path: Path) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("there is a GPU")
    address, sha = served
    notebook = parametrised(
        "run.ipynb",
        repository=address,
        version=sha,
        bucket=str(tmp_path / "bucket"),
        overrides="model=tiny trainer=fast trainer.precision=fp16",
    )
    train = next(each.id for each in notebook.cells if "notebook.train(" in each.source)
    *_, shown = execute(until(train, notebook), tmp_path, platforms.plain(tmp_path), go_on=True)
    assert "error: " in shown
    assert "trainer.precision=fp16 needs a GPU" in shown
    assert "Traceback" not in shown
