"""Entry point `predict`: one or several trained models to one submission.csv.

    python -m competitions.predict --runs RUN_ID,RUN_ID --output submission.csv

Several models are averaged: the mean of what they put out, token by token. The run of all folds
stands for the runs of its folds. Task and data are those that the first model was trained with
unless they are overridden (data=folder data.dir=<folder>). Local model folders need no tracking
server and no network. Launched by `mlflow run`, the file becomes an artifact of the run too.

Many rows: with `--shards 4 --shard 2` it is the third quarter of them, for as many machines or
GPUs. A launched run keeps what it has predicted part by part, below `parts/`, and goes on behind
that when it is started again.
"""

import csv
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
import pandas as pd
import yaml

from competitions import console, ranks
from competitions.config import CONFIG_FILE, MODEL_FOLDER, compose
from competitions.schema import RunConfig
from competitions.tasks import Task, data_folder, describe_data, load_task
from kaggleops.errors import UsageError

if TYPE_CHECKING:
    from competitions.models import LoadedModel

GIVE = "Give run ids or model folders"
PREDICTIONS_FILE = "predictions.csv"
"""The artifact of a run that predicts: its rows, with the columns that oof.csv has of others."""
PARTS = "parts"
PART = 20_000
"""Rows that are predicted, and kept, at a time."""


@click.command()
@click.argument("parameters", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--runs", required=True, help="Run ids or model folders, separated by commas.")
@click.option("--output", default="submission.csv", help="The file to write.")
@click.option("--shard", default=0, help="Which of the shards, from 0.")
@click.option("--shards", default=1, help="Into how many the rows are divided.")
@click.option("--part", default=PART, help="Rows that a launched run keeps at a time.")
@click.option("--overrides", default="", help="More KEY=VALUE, as one shell-quoted text.")
def main(
    parameters: tuple[str, ...],
    runs: str,
    output: str,
    shard: int,
    shards: int,
    part: int,
    overrides: str,
) -> None:
    """Predict the test rows with trained models. KEY=VALUE overrides a key of config/."""
    if (world := ranks.world()) > 1:
        problem = f"it is one of {world} processes, and each would do all of it"
        hint = "Start it plainly, without torchrun or accelerate: one process uses every GPU"
        raise UsageError("predicting", problem, hint)
    if not 0 <= shard < shards or part < 1:
        problem = f"shard {shard} of {shards} by {part} rows is none"
        raise UsageError("predicting", problem, f"Shards are 0 to {max(0, shards - 1)}.")
    names = console.split_runs(runs, GIVE)
    given = [*parameters, *console.split_overrides(overrides)]
    with TemporaryDirectory(prefix="models-") as downloads:
        folders = model_folders(names, Path(downloads))
        config = compose(given, base=_trained_with(folders[0])).config
        path = Path(output)
        path = path / "submission.csv" if path.is_dir() else path
        with console.writing_explained(path):  # before anything is predicted
            path.parent.mkdir(parents=True, exist_ok=True)
        with launched_run() as run_id:
            predict_file(config, folders, path, (shard, shards), part, run_id)
            if run_id:
                _log(path)


def launched_run() -> AbstractContextManager[str]:
    """The run that `mlflow run` has made for this process, by its id; "" if it has none."""
    if not os.environ.get("MLFLOW_RUN_ID"):
        return nullcontext("")
    from competitions import runs

    return runs.active_run()


def predict_file(
    config: RunConfig,
    folders: list[Path],
    path: Path,
    shard: tuple[int, int] = (0, 1),
    part: int = PART,
    run_id: str = "",
) -> None:
    """Predict the test file of `config.data` with the models in `folders`, and write `path`.

    All of its text is in quotes, as the competition asks. `shard` is which of how many; a run keeps
    each `part` of the rows.
    """
    from competitions.inference import describe_device, use_all_cores

    use_all_cores()
    task = load_task(config.task)
    with data_folder(task, config.data) as folder:
        every = task.read_test(folder)
        first, behind = (len(every) * each // shard[1] for each in (shard[0], shard[0] + 1))
        rows = every.iloc[first:behind]
        models = f"{len(folders)} model{'s' if len(folders) > 1 else ''}"
        console.say(
            f"predicting {len(rows):,} rows of {describe_data(config.data)} with {models} for "
            f"{config.task.name}, on {describe_device(config.trainer.precision)}"
        )
        predicted = _predict_parts(config, task, rows, folders, part, run_id)
        submission = task.submission(predicted)
    submission.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC)
    if run_id:
        with TemporaryDirectory(prefix="predictions-") as scratch:
            predicted.to_csv(kept := Path(scratch, PREDICTIONS_FILE), index=False)
            _log(kept)
    console.say(f"wrote {len(submission):,} predictions to {path}")


def keep_output(path: Path) -> None:
    """Log a file or a folder to the run that `mlflow run` has made for this process, if it has."""
    with launched_run() as run_id:
        if run_id:
            _log(path)


def _log(path: Path, below: str | None = None) -> None:
    import mlflow

    mlflow.log_artifact(str(path.resolve()), below)


def _predict_parts(
    config: RunConfig, task: Task, rows: pd.DataFrame, folders: list[Path], part: int, run_id: str
) -> pd.DataFrame:
    """The rows' ids and all that is predicted of them; a run keeps each part and goes on."""
    from competitions.models import load_model

    several = run_id and len(rows) > part
    with TemporaryDirectory(prefix="parts-") as scratch:
        kept = _kept_parts(run_id, Path(scratch)) if several else {}
        if kept:
            console.say(f"going on behind {len(kept)} parts that are predicted")
        loaded: list[LoadedModel] = []
        tables = []
        for start in range(0, max(1, len(rows)), part):
            some = rows.iloc[start : start + part]
            name = f"{start:09}-{start + len(some):09}.csv"
            if name not in kept:
                loaded = loaded or [
                    load_model(str(folder), task, f"from {folder}") for folder in folders
                ]
                table = _predict_rows(config, task, some, folders, loaded)
                kept[name] = Path(scratch, name)
                told = [task.id_column, *(each for each in table if each not in some)]
                table[told].to_csv(kept[name], index=False)
                if several:
                    _log(kept[name], PARTS)
                    console.say(f"predicted {start + len(some):,} of {len(rows):,} rows")
            tables.append(pd.read_csv(kept[name], dtype=str, keep_default_na=False))
    return pd.concat(tables, ignore_index=True).astype({"prediction": task.answer_type})


def _kept_parts(run_id: str, folder: Path) -> dict[str, Path]:
    import mlflow

    with console.store_explained(f"reading what run {run_id} has predicted"):
        if not mlflow.MlflowClient().list_artifacts(run_id, PARTS):
            return {}
        there = mlflow.MlflowClient().download_artifacts(run_id, PARTS, str(folder))
    return {each.name: each for each in Path(there).iterdir()}


def _predict_rows(
    config: RunConfig,
    task: Task,
    rows: pd.DataFrame,
    folders: list[Path],
    models: "list[LoadedModel]",
) -> pd.DataFrame:
    """What the mean of the models' outputs says of the rows."""
    from competitions.inference import predict

    encoded, logits = [], []
    for folder, loaded in zip(folders, models, strict=True):
        encoded.append(task.encode(rows, loaded.tokenizer))
        if encoded[-1].offsets != encoded[0].offsets:
            problem = f"its model splits the texts into other tokens than the model of {folders[0]}"
            hint = "Average models with one tokenizer, or predict with each alone"
            raise UsageError(f"averaging {folder}", problem, hint)
        logits.append(predict(loaded, encoded[-1], config.trainer))
    return task.decode(rows, encoded[0], task.mean(logits))


def model_folders(names: list[str], downloads: Path) -> list[Path]:
    """The local folders of models of one task; `downloads` is a folder for those that are fetched.

    Each name is a folder, or one with a part `model`, or a run id; the run of all folds stands for
    those of its folds that are finished. Raises UsageError where one is no model, or they are of
    several tasks.
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
    with console.store_explained(f"fetching the model of {name}", hint):
        from mlflow.artifacts import download_artifacts

        from competitions import runs

        for run_id in runs.single_runs(name):
            console.say(f"fetching the model of run {run_id}")
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
    console.run_command(main)
