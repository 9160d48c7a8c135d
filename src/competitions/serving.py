"""A trained model as `mlflow.pyfunc` opens it: rows of a test file in, a submission's rows out."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from competitions.config import CONFIG_FILE, read_saved
from competitions.inference import predict
from competitions.models import load_model
from competitions.submission import submission_of
from competitions.tasks import load_task, task_config


class Predictor:
    """A model with its task.

    Args:
        folder: as `fitting` wrote it: weights, tokenizer, config.yaml.
    """

    def __init__(self, folder: Path) -> None:
        self.config = read_saved(folder / CONFIG_FILE, task_config)
        self.task = load_task(self.config.task)
        self.loaded = load_model(str(folder), self.task, f"from {folder}")

    def predict(self, rows: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The submission's rows for rows of the test file, in their order."""
        examples = self.task.encode(rows, self.loaded.tokenizer)
        with TemporaryDirectory(prefix="predicting-") as scratch:
            logits = predict(self.loaded, examples, self.config.trainer, scratch)
        return submission_of(self.task, self.task.decode(rows, examples, logits))


def _load_pyfunc(path: str) -> Predictor:
    """What MLflow calls."""
    return Predictor(Path(path))
