"""Repositories of other people's scripts, adopted and run."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient

from tests.command import kaggleops_here
from tests.fakes.git_server import Repository

PYTHON = os.environ.get("KAGGLEOPS_TEST_FRAMEWORKS", "")
"""A Python that has this checkout and every framework (infra/frameworks.txt)."""


def adopted(folder: Path, packages: Sequence[str], **files: str) -> Repository:
    """Return a repository that `kaggleops init` has made ready, with a bucket in it."""
    repository = Repository(folder)
    repository.write(**files, **{"requirements.txt": "\n".join([*packages, ""])})
    repository.commit("Before")
    done = kaggleops_here("init", "--bucket", "./bucket", "--yes", cwd=folder)
    assert done.code == 0, done.errors
    repository.commit("Run with KaggleOps")
    return repository


FURTHER = "begins a further run"
"""What the script of several runs is told."""


def train(repository: Repository, *overrides: str, further: bool = False) -> str:
    """Run the commit, and return the run's id."""
    command = [PYTHON or sys.executable, "-m", "kaggleops", "run", "--json", *overrides]
    done = subprocess.run(command, cwd=repository.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (FURTHER in done.stderr) == further, done.stderr
    assert "is kept as" not in done.stderr  # a param of two values
    return str(json.loads(done.stdout)["run_id"])


def client_of(repository: Repository) -> MlflowClient:
    """Return a client of its bucket."""
    return MlflowClient(f"bucket+file://{repository.folder}/bucket/mlruns")
