"""What a submit finds outside: a repository on a git server, a Cloud Storage, and a Kaggle."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest

from kaggleops.backends import job_log, jobs
from kaggleops.backends.kaggle import backend
from kaggleops.platforms import http
from tests import canaries, secrets_of
from tests.fakes.gcs_server import GcsServer
from tests.fakes.git_server import Repository, git_daemon
from tests.fakes.kaggle_server import KaggleServer

# A platform on the loopback needs no time to get well: five tries would take fifteen seconds.
for _retry in (http.ASK_AGAIN, http.ASK_ONCE):
    _retry.backoff_factor = 0.02
job_log._PAUSE = jobs._LOOK = 0.1
backend._LATE = (0.0, *(4 * [0.1]))

MLPROJECT = """
name: toy
score: jaccard
entry_points:
  main:
    parameters:
      alpha: {type: float, default: 0.1}
      gate: {type: string, default: none}
      overrides: {type: string, default: ""}
    command: "python train.py {alpha} {gate} --overrides {overrides}"
  fail:
    command: "python -c 'raise SystemExit(\\"no luck\\")'"
"""

# At a gate it has sent what it logged, says so through one FIFO, and waits at another.
TRAIN = """
import os, shlex, sys
from pathlib import Path
import kaggleops, mlflow
from mlflow.tracking._tracking_service.utils import _get_store
alpha, gate = float(sys.argv[1]), sys.argv[2]
with mlflow.start_run():
    mlflow.set_tag("hours_left", (kaggleops.time_left() or 0) / 3600)
    print("the training begins")
    mlflow.log_metric("alpha", alpha, step=0)
    if gate != "none":
        _get_store().flush()
        open(gate + ".reached", "w").close()
        open(gate + ".open").read()
    print("the training goes on")
    mlflow.log_metric("alpha", 2 * alpha, step=1)
    mlflow.log_text(" ".join(shlex.split(sys.argv[4])), "overrides.txt")
    root = Path(os.environ.get("KAGGLEOPS_ROOT", "/nowhere"))
    if (root / "kaggle/working").is_dir():
        (root / "kaggle/working/predictions.csv").write_text("id,target\\n1,0\\n")
"""

BUCKET = "gs://our-bucket"
TRACKING = f"{BUCKET}/mlruns"


@dataclass(frozen=True)
class World:
    """What there is."""

    folder: Path
    gcs: GcsServer
    kaggle: KaggleServer
    repository: Repository

    @property
    def sha(self) -> str:
        """The newest commit of `main`."""
        return self.repository.git("rev-parse", "main")

    def laptop(self, name: str) -> dict[str, str]:
        """Return what a process on a machine of Ada's has in its environment."""
        home = str(self.folder / name)
        storage = {"STORAGE_EMULATOR_HOST": self.gcs.url}
        return {**self.kaggle.environment("ada"), **storage, "KAGGLEOPS_HOME": home}

    def run(self, run_id: str) -> mlflow.entities.Run:
        """Return a run as the bucket has it now."""
        return mlflow.MlflowClient(TRACKING).get_run(run_id)


@contextmanager
def world(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[World]:
    """Make one, and let this process be there; it is gone afterwards."""
    repository = Repository(folder / "git/toy")
    repository.write(MLproject=MLPROJECT, train_py=TRAIN)
    repository.commit("Train a toy")
    with GcsServer() as gcs, git_daemon(folder / "git") as address:
        gcs.create_bucket("our-bucket")
        repository.git("remote", "add", "origin", f"{address}/toy")
        # A flush each second: so soon does a machine see that its run was cancelled.
        outside = {"STORAGE_EMULATOR_HOST": gcs.url, "KAGGLEOPS_FLUSH_SECONDS": "1"}
        with KaggleServer(folder / "kaggle", outside=outside) as kaggle:
            kaggle.add_user("ada")
            key = secrets_of.SERVICE_ACCOUNT.encode()
            kaggle.add_dataset("ada/bucket-key", {"kaggleops-key.json": key})
            made = World(folder, gcs, kaggle, repository)
            kaggle.api("ada")
            for name in ("HOME", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_ENVIRONMENT"):
                patch.setenv(name, kaggle.environment("ada")[name])
            for name in ("GITHUB_TOKEN", "HF_TOKEN", "DATA_HEADER"):
                patch.setenv(name, canaries.ENVIRONMENT[name])
            patch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
            patch.setenv("KAGGLEOPS_HOME", str(folder / "home"))
            yield made


class Gate:
    """A place in a training where it waits for the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(f"{path}.reached")
        os.mkfifo(f"{path}.open")

    def wait(self) -> None:
        """Return when the training has got there."""
        Path(f"{self.path}.reached").read_text()

    def open(self) -> None:
        """Let it go on."""
        Path(f"{self.path}.open").write_text("")


class Collected(threading.Thread):
    """Lines that come while the test does something else."""

    def __init__(self, lines: Iterator[str]) -> None:
        super().__init__()
        self._source = lines
        self.lines: list[str] = []
        self.start()

    def run(self) -> None:
        self.lines += self._source
