"""The file that is handed in, and whether the competition would take it."""

import csv
from pathlib import Path

import pandas as pd

from competitions.console import say, warn
from competitions.tables import check_unique, has_file, read_table
from competitions.tasks import Task
from kaggleops.errors import UsageError

SAMPLE = "sample_submission.csv"


def submission_of(task: Task, predicted: pd.DataFrame) -> pd.DataFrame:
    """The two columns that are handed in, of what `Task.decode` gives."""
    columns = [task.id_column, task.target_column]
    return predicted[[task.id_column, "prediction"]].set_axis(columns, axis=1)


def make_submission(task: Task, predicted: pd.DataFrame, folder: str) -> pd.DataFrame:
    """The predictions as a submission, checked against the folder's sample_submission.csv.

    Args:
        task: says how the columns are called.
        predicted: one row for each row of the test file, as `Task.decode` gives it.
        folder: where the competition's files lie.

    Returns:
        The columns of the submission; in the sample's order where there is one, else as predicted.

    Raises:
        UsageError: where the sample has other columns or other ids than the test file.
    """
    columns = [task.id_column, task.target_column]
    submission = submission_of(task, predicted)
    if empty := int((submission[task.target_column] == "").sum()):
        warn(f"{empty} predictions are empty, which Kaggle may refuse")
    if not has_file(folder, SAMPLE):
        say(f"{folder} has no {SAMPLE}: the submission is not checked against it")
        return submission
    doing = f"checking the submission against {folder.rstrip('/')}/{SAMPLE}"
    wanted = read_table(folder, SAMPLE, columns, task.download_hint())[task.id_column]
    check_unique(doing, wanted)
    hint = "Take test.csv and the sample from the same download"
    by_id = submission.set_index(task.id_column)
    for place, ids, others in (
        ("test.csv", wanted, by_id.index),
        ("the sample", submission[task.id_column], wanted),
    ):
        lacking = ids[~ids.isin(others)]
        if len(lacking):
            problem = f"{len(lacking)} ids are not in {place}, the first {lacking.iloc[0]!r}"
            raise UsageError(doing, problem, hint)
    return by_id.loc[wanted].reset_index()


def write_submission(submission: pd.DataFrame, path: Path) -> None:
    """Write the submission as CSV, all of its text in quotes, as the competition asks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    submission.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC)
