"""Repositories to run commits of."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.fakes.git_server import Repository

MLPROJECT = """
name: toy
entry_points:
  main:
    parameters:
      alpha: {type: float, default: 0.1}
      overrides: {type: string, default: ""}
    command: "python train.py {alpha} --overrides {overrides}"
  fail:
    command: "python -c 'raise SystemExit(3)'"
  needs:
    parameters:
      beta: {type: float}
    command: "python train.py {beta}"
"""

TRAIN = """
import json, shlex, sys
import mlflow
print("training")
with mlflow.start_run():
    mlflow.log_metric("alpha", float(sys.argv[1]))
    overrides = shlex.split(sys.argv[3]) if len(sys.argv) > 3 else []
    mlflow.log_dict({"arguments": overrides}, "arguments.json")
    mlflow.log_text(open("version.txt").read(), "version.txt")
"""


@pytest.fixture
def toy(tmp_path: Path) -> Repository:
    """A repository with a project that trains in no time, at its second commit."""
    return Repository.at(shutil.copytree(_made(), tmp_path / "toy"))


@functools.cache
def _made() -> Path:
    place = tempfile.TemporaryDirectory(prefix="toy-")
    atexit.register(place.cleanup)
    repository = Repository(Path(place.name) / "toy")
    repository.write(MLproject=MLPROJECT, train_py=TRAIN)
    (repository.folder / "version.txt").write_text("first")
    repository.commit("First version")
    (repository.folder / "version.txt").write_text("second")
    repository.commit("Second version")
    return repository.folder
