"""What a run keeps besides its configuration and scores, so that it can be looked at and used.

The rows it was made of (as an MLflow dataset with a digest), library versions, pictures, the worst
answers as a table, and the model in MLflow's format.
"""

import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import pandas as pd
from mlflow.models import Model, infer_signature

from competitions.plots import learning_curves
from competitions.schema import RESOURCE
from competitions.tasks import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "pandas")
WORST_ROWS = 50


def digest(rows: pd.DataFrame) -> str:
    """Eight hexadecimal digits that change with any row, any value and the order."""
    values = pd.util.hash_pandas_object(rows.reset_index(drop=True))
    return f"{pd.util.hash_array(values.to_numpy()).sum():016x}"[:8]


def log_dataset(task: Task, rows: pd.DataFrame, folder: str | None, context: str) -> None:
    """Log rows as an input of the active run.

    Args:
        task: gives the name and the target.
        rows: what is learnt from or validated on.
        folder: where they were read; None: the sample, which comes from the code.
        context: "training" or "validation".
    """
    if folder and folder.startswith(RESOURCE):
        folder = None  # it is an input of its own, with its source
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a path is a local file in two ways
        dataset = mlflow.data.from_pandas(
            rows,
            source=folder and f"{folder.rstrip('/')}/train.csv",
            targets=task.target_column,
            name=task.competition,
            digest=digest(rows),
        )
    mlflow.log_input(dataset, context=context)


def log_versions() -> None:
    """Tag the active run with the versions of the libraries that a score may depend on."""
    mlflow.set_tags({f"version.{name}": version(name) for name in LIBRARIES})


def log_worst(task: Task, predicted: pd.DataFrame) -> None:
    """Log the rows that were answered worst as a table that the UI shows."""
    worst = predicted.sort_values(task.row_score, kind="stable").head(WORST_ROWS)
    mlflow.log_table(worst.astype(object).where(worst.notna(), None), "worst_answers.json")


def pictures(
    task: Task, predicted: pd.DataFrame, history: Sequence[Mapping[str, float]]
) -> dict[str, "Figure"]:
    """The task's own plots and the learning curves, by file name."""
    return {
        **task.plots(predicted),
        "learning_curves.png": learning_curves(history, task.score_name),
    }


def add_mlmodel(folder: Path, task: Task, validation: pd.DataFrame, answers: pd.DataFrame) -> None:
    """Make a saved model one that `mlflow.pyfunc.load_model` opens, with a signature.

    It opens where this project can be imported: its commit is the run's own.

    Args:
        folder: what `save_pretrained` and the configuration were written to.
        task: says how the columns are called.
        validation: labelled rows; without their label they are an example of the input.
        answers: an example of the output.
    """
    asked = validation.drop(columns=task.target_column)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that whole numbers have no way to be missing
        model = Model(signature=infer_signature(asked, answers))
    mlflow.pyfunc.add_to_model(model, loader_module="competitions.serving")
    model.save(folder / "MLmodel")
