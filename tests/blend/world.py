"""Members of a blend whose truth is known, as runs of a bucket."""

import hashlib
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd

from kaggleops.blend.members import Member
from kaggleops.reports.trainings import Run

FOLDS = 5


def rows(count: int = 200, first: int = 0) -> pd.DataFrame:
    """Rows with a fold each."""
    ids = [f"r{at}" for at in range(first, first + count)]
    return pd.DataFrame({"id": ids, "fold": np.arange(count) % FOLDS})


def noisy(truth: np.ndarray, spread: float, seed: int) -> np.ndarray:
    """Predictions of a model that errs by so much, on no side."""
    return truth + np.random.default_rng(seed).normal(0, spread, len(truth))


def member(
    name: str, oof: pd.DataFrame, test: pd.DataFrame | None = None, **metrics: float
) -> Member:
    """A member that was read."""
    number = hashlib.sha256(name.encode()).hexdigest()[:32]
    run = Run(number, name, "e", "1", "FINISHED", 0, "", metrics=metrics)
    texts = None if test is None else test.astype(str)
    return Member(run, oof.astype(str), texts)


class Bucket:
    """A bucket that runs of any repository log to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "bucket"
        self.tracking_uri = f"bucket+file://{self.folder}/mlruns"
        self.client = mlflow.MlflowClient(self.tracking_uri)
        self.experiment = self.client.create_experiment("houses")

    def run(
        self,
        name: str,
        files: dict[str, pd.DataFrame | np.ndarray],
        metrics: dict[str, float] | None = None,
        params: dict[str, str] | None = None,
        **tags: str,
    ) -> str:
        """Log a finished run with these artifacts, and return its id."""
        names = {key.replace("__", "."): value for key, value in tags.items()}
        run_id = self.client.create_run(self.experiment, run_name=name, tags=names).info.run_id
        for key, value in (params or {}).items():
            self.client.log_param(run_id, key, value)
        for key, number in (metrics or {}).items():
            self.client.log_metric(run_id, key, number)
        folder = self.folder.parent / run_id
        folder.mkdir()
        for file, content in files.items():
            if isinstance(content, pd.DataFrame):
                content.to_csv(folder / file, index=False)
            else:
                np.save(folder / file, content)
        self.client.log_artifacts(run_id, str(folder))
        self.client.set_terminated(run_id)
        return str(run_id)
