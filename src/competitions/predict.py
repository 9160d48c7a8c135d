"""Entry point `predict`: one or several trained models to one submission.csv.

    python -m competitions.predict --runs RUN_ID,RUN_ID --output submission.csv

Several models are averaged: the mean of what they put out, token by token. The run of all folds
stands for the runs of its folds. Task and data are those that the first model was trained with
unless they are overridden (data=folder data.dir=<folder>). Local model folders need no tracking
server and no network. Launched by `mlflow run`, the file becomes an artifact of the run too.
"""

import csv
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import pandas as pd
import yaml

from competitions.config import CONFIG_FILE, MODEL_FOLDER, compose
from competitions.console import (
    check_one_process,
    run_command,
    say,
    split_overrides,
    split_runs,
    store_explained,
    warn,
    writing_explained,
)
from competitions.schema import RunConfig
from competitions.tables import check_unique, has_file, read_table
from competitions.tasks import Task, data_folder, describe_data, load_task
from kaggleops.errors import UsageError

SAMPLE = "sample_submission.csv"
GIVE = "Give run ids or model folders"


@click.command()
@click.argument("parameters", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--runs", required=True, help="Run ids or model folders, separated by commas.")
@click.option("--output", default="submission.csv", help="The file to write.")
@click.option("--overrides", default="", help="More KEY=VALUE, as one shell-quoted text.")
def main(parameters: tuple[str, ...], runs: str, output: str, overrides: str) -> None:
    """Predict the test rows with trained models. KEY=VALUE overrides a key of config/."""
    check_one_process()
    names = split_runs(runs, GIVE)
    given = [*parameters, *split_overrides(overrides)]
    with TemporaryDirectory(prefix="models-") as downloads:
        folders = model_folders(names, Path(downloads))
        config = compose(given, base=_trained_with(folders[0])).config
        path = Path(output)
        path = path / "submission.csv" if path.is_dir() else path
        with writing_explained(path):  # before anything is predicted
            path.parent.mkdir(parents=True, exist_ok=True)
        predict_file(config, folders, path)


def predict_file(config: RunConfig, folders: list[Path], path: Path) -> None:
    """Predict the test file of `config.data` with the models in `folders`, and write `path`.

    All of its text is in quotes, as the competition asks.
    """
    from competitions.inference import describe_device, use_all_cores

    use_all_cores()
    task = load_task(config.task)
    with data_folder(task, config.data) as folder:
        rows = task.read_test(folder)
        models = f"{len(folders)} model{'s' if len(folders) > 1 else ''}"
        say(
            f"predicting {len(rows):,} rows of {describe_data(config.data)} with {models} for "
            f"{config.task.name}, on {describe_device(config.trainer.precision)}"
        )
        submission = make_submission(task, _predict_rows(config, task, rows, folders), folder)
    submission.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC)
    keep_output(path)
    say(f"wrote {len(submission):,} predictions to {path}")


def keep_output(path: Path) -> None:
    """Log a file or a folder to the run that `mlflow run` has made for this process, if it has."""
    if os.environ.get("MLFLOW_RUN_ID"):
        import mlflow

        from competitions import runs

        with runs.active_run():
            mlflow.log_artifact(str(path.resolve()))


def _predict_rows(
    config: RunConfig, task: Task, rows: pd.DataFrame, folders: list[Path]
) -> pd.DataFrame:
    """What the mean of the models' outputs says of the rows."""
    from competitions.inference import predict
    from competitions.models import load_model

    encoded, logits = [], []
    for folder in folders:
        loaded = load_model(str(folder), task, f"from {folder}")
        encoded.append(task.encode(rows, loaded.tokenizer))
        if encoded[-1].offsets != encoded[0].offsets:
            problem = f"its model splits the texts into other tokens than the model of {folders[0]}"
            hint = "Average models with one tokenizer, or predict with each alone"
            raise UsageError(f"averaging {folder}", problem, hint)
        logits.append(predict(loaded, encoded[-1], config.trainer))
    mean = tuple(sum(outputs) / len(folders) for outputs in zip(*logits, strict=True))
    return task.decode(rows, encoded[0], mean)


def make_submission(task: Task, predicted: pd.DataFrame, folder: str) -> pd.DataFrame:
    """What `Task.decode` gave for the test file as a submission.

    Where `folder` holds the competition's sample_submission.csv, it is in that one's order.

    Raises:
        UsageError: where the sample has other columns or other ids than the test file.
    """
    submission = task.submission(predicted)
    if empty := int((submission[task.target_column] == "").sum()):
        warn(f"{empty} predictions are empty, which Kaggle may refuse")
    if not has_file(folder, SAMPLE):
        say(f"{folder} has no {SAMPLE}: the submission is not checked against it")
        return submission
    doing = f"checking the submission against {folder.rstrip('/')}/{SAMPLE}"
    columns = [task.id_column, task.target_column]
    wanted = read_table(folder, SAMPLE, columns, task.download_hint())[task.id_column]
    check_unique(doing, wanted)
    by_id = submission.set_index(task.id_column)
    for place, ids, others in (
        ("test.csv", wanted, by_id.index),
        ("the sample", submission[task.id_column], wanted),
    ):
        lacking = ids[~ids.isin(others)]
        if len(lacking):
            problem = f"{len(lacking)} ids are not in {place}, the first {lacking.iloc[0]!r}"
            raise UsageError(doing, problem, "Take test.csv and the sample from the same download")
    return by_id.loc[wanted].reset_index()


def model_folders(names: list[str], downloads: Path) -> list[Path]:
    """The local folders of models of one task; `downloads` is a folder for those that are fetched.

    Each name is a folder, or one with a part `model`, or a run id; the run of all folds stands for
    those of its folds that are finished.

    Raises:
        UsageError: where one is no model, or they are of several tasks.
        KaggleOpsError: where a run or its artifacts cannot be read.
    """
    found: list[tuple[str, Path]] = []
    for name in names:
        if folder := _local_model(name):
            found.append((name, folder))
        else:
            found += _fetch_models(name, downloads / str(len(found)))
    (first, wanted), *others = [(name, _trained_with(each)["task"]["name"]) for name, each in found]
    for name, task in others:
        if task != wanted:
            problem = f"it was trained for {task}, and {first} for {wanted}"
            raise UsageError(f"averaging {name}", problem, "Give models of one task")
    return [folder for _, folder in found]


def _local_model(name: str) -> Path | None:
    for folder in (Path(name), Path(name) / MODEL_FOLDER):
        if (folder / CONFIG_FILE).is_file() and (folder / "config.json").is_file():
            return folder
    if Path(name).exists() or "/" in name:
        problem = f"there is no model folder (config.json and {CONFIG_FILE})"
        hint = "Give a run id, or the folder model/ of a run's artifacts"
        raise UsageError(f"fetching the model of {name}", problem, hint)
    return None


def _fetch_models(name: str, downloads: Path) -> list[tuple[str, Path]]:
    hint = "Check the run id and MLFLOW_TRACKING_URI, or give a local model folder"
    found = []
    with store_explained(f"fetching the model of {name}", hint):
        from mlflow.artifacts import download_artifacts

        from competitions import runs

        for run_id in runs.single_runs(name):
            say(f"fetching the model of run {run_id}")
            place = downloads / run_id
            place.mkdir(parents=True)
            folder = download_artifacts(
                run_id=run_id, artifact_path=MODEL_FOLDER, dst_path=str(place)
            )
            found.append((run_id, Path(folder)))
    return found


def _trained_with(folder: Path) -> dict[str, dict[str, Any]]:
    """The task and the data that the model in `folder` was trained with."""
    saved = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    return {group: saved[group] for group in ("task", "data")}


if __name__ == "__main__":
    run_command(main)
