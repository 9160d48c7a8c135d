"""What a notebook finds outside: a repository on a git server, and a Cloud Storage."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow

from tests.fakes.gcs_server import GcsServer
from tests.fakes.git_server import Repository, git_daemon

MLPROJECT = """
name: toy
entry_points:
  main:
    parameters:
      steps: {type: float, default: 5}
      overrides: {type: string, default: ""}
    command: "python train.py {steps} --overrides {overrides}"
"""

# Goes on where the run stands; leaves off before its session ends; fails at `steps=-1`; with
# `wait=FIFO` it waits in the middle until it is killed, having sent what it logged and said so
# through the FIFO.
TRAIN = """
import shlex, sys
import kaggleops, mlflow
from mlflow.tracking._tracking_service.utils import _get_store
steps = int(float(sys.argv[1]))
options = dict(each.split("=", 1) for each in shlex.split(sys.argv[3]))
with mlflow.start_run() as run:
    points = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    begin = max((point.step for point in points), default=-1) + 1
    print(f"training from step {begin}")
    if steps < 0:
        mlflow.log_metric("loss", 9.0)
        sys.exit("the loss is not a number")
    for step in range(begin, steps):
        for done in range(0, 101, 10):
            print(f"\\rstep {step}: {done}%|#####", end="", file=sys.stderr)
        print(file=sys.stderr)
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
        if step == 2 and begin == 0 and "wait" in options:
            _get_store().flush()
            open(options["wait"], "w").close()
            open(options["wait"] + ".never").read()
        if kaggleops.time_left() == 0 and step == 2:
            sys.exit(kaggleops.TO_BE_CONTINUED)
    mlflow.log_metric("score", 0.75)
    mlflow.log_text(options.get("note", ""), "note.txt")
"""


@dataclass(frozen=True)
class World:
    """What a notebook finds outside."""

    server: GcsServer
    repository: Repository
    address: str
    """The repository's, on a real git server."""

    @property
    def sha(self) -> str:
        """The newest commit of `main`."""
        return self.repository.git("rev-parse", "main")

    @property
    def variables(self) -> dict[str, str]:
        """What leads a process there instead of to the real Cloud Storage."""
        return {"STORAGE_EMULATOR_HOST": self.server.url}

    def client(self, bucket: str) -> mlflow.MlflowClient:
        """A client of the bucket's runs, for a process that goes to this world's server."""
        return mlflow.MlflowClient(f"gs://{bucket}/mlruns")


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Make one; it is gone afterwards."""
    repository = Repository(folder / "toy")
    repository.write(MLproject=MLPROJECT, train_py=TRAIN)
    repository.commit("Train a toy")
    with GcsServer() as server, git_daemon(folder) as address:
        yield World(server, repository, f"{address}/toy")
