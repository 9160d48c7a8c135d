"""A small project in a repository, a bucket in a folder, and sweeps of the one into the other."""

import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaggleops.bucket import Bucket, open_bucket
from kaggleops.bucket.location import tracking_uri
from kaggleops.campaign import children
from kaggleops.campaign.sweep import Sweep
from kaggleops.campaign.watch import Watcher
from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import Launch
from kaggleops.server.settings import default_index
from tests.fakes.git_server import Repository

MLPROJECT = """
name: toy
entry_points:
  main:
    parameters:
      alpha: {type: float, default: 0.1}
      fold: {type: string, default: none}
      overrides: {type: string, default: ""}
    command: "python train.py {alpha} {fold}"
  fail:
    parameters:
      alpha: {type: float, default: 0.1}
    command: "python train.py {alpha} fail"
"""

# Each job leaves a line of its own, so that what ran twice is seen.
TRAIN = """
import os, sys
import mlflow
alpha, fold = float(sys.argv[1]), sys.argv[2]
with open(os.environ["RAN"], "a") as ran:
    ran.write(f"{alpha:g} {fold}\\n")
if fold == "fail":
    raise SystemExit("no luck")
with mlflow.start_run():
    for step in range(3):
        mlflow.log_metric("score", alpha * (step + 1) / 3, step=step)
"""


@dataclass(frozen=True)
class World:
    """A repository and a bucket on this machine."""

    repository: Repository
    folder: Path
    ran: Path
    place: str
    """The bucket's address."""

    @property
    def uri(self) -> str:
        """The bucket's tracking URI."""
        return tracking_uri(self.place)

    @property
    def bucket(self) -> Bucket:
        return open_bucket(self.place, patience=5)

    def begin(self, *axes: str, **more: Any) -> str:
        """Begin a sweep over the repository's newest commit; return its id."""
        local = {"repository": str(self.repository.folder), "jobs": 2}
        sweep = Sweep(axes, **{"configs": {"local": local}, **more})
        what = Launch(self.uri, entry_point=sweep.entry_point)
        return children.begin(find_commit(self.repository.folder), what, sweep, "toy-sweep")

    def watched(self) -> list[str]:
        """Keep its sweeps going until none is open, and return what went wrong."""
        place = str(self.folder)
        watcher = Watcher(place, index=default_index(place), bucket=self.bucket)
        problems: list[str] = []
        for _ in range(200):
            turn = watcher.turn()
            problems += turn.problems
            if not turn.sweeps:
                break
            watcher.wait(turn.pause, threading.Event())
        watcher.close()
        return problems

    def jobs_that_ran(self) -> list[str]:
        """Return `alpha fold` of each job that has begun, in their order."""
        return self.ran.read_text().splitlines() if self.ran.exists() else []


def world(folder: Path, place: str = "", copied: Path | None = None) -> World:
    """Make one below a folder; its bucket is a folder, too, unless another one is named.

    It is a copy of one that is in another folder, if that is given.
    """
    repository, bucket = folder / "git/toy", folder / "bucket"
    if copied:
        shutil.copytree(copied, folder, dirs_exist_ok=True)
    else:
        bucket.mkdir()
        toy = Repository(repository)
        toy.write(MLproject=MLPROJECT, train_py=TRAIN)
        toy.commit("Train a toy")
    made = World(Repository.at(repository), bucket, folder / "ran", place or str(bucket))
    os.environ["RAN"] = str(made.ran)  # taken back by the fixture `environment`
    return made
