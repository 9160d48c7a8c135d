"""Entry point `predict`: one or several trained models to one submission.csv.

    python -m competitions.predict --runs RUN_ID,RUN_ID --output submission.csv

Several models are averaged: the mean of what they put out, token by token. The run of all folds
stands for the runs of its folds. Task and data are those that the first model was trained with
unless they are overridden (data=folder data.dir=<folder>). Local model folders need no tracking
server and no network. Launched by `mlflow run`, the file becomes an artifact of the run too.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
import yaml

from competitions.config import CONFIG_FILE, MODEL_FOLDER, compose
from competitions.console import (
    check_one_process,
    run_command,
    say,
    split_overrides,
    writing_explained,
)
from competitions.tasks import data_folder, load_task, task_config
from kaggleops.errors import KaggleOpsError, UsageError

if TYPE_CHECKING:
    from competitions.schema import RunConfig
    from competitions.tasks import Examples, Task


@click.command()
@click.argument("parameters", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--runs", required=True, help="Run ids or model folders, separated by commas.")
@click.option("--output", default="submission.csv", help="The file to write.")
@click.option("--overrides", default="", help="More KEY=VALUE, as one shell-quoted text.")
def main(parameters: tuple[str, ...], runs: str, output: str, overrides: str) -> None:
    """Predict the test rows with trained models. KEY=VALUE overrides a key of config/."""
    check_one_process()
    names = [name.strip() for name in runs.split(",") if name.strip()]
    if not names:
        raise UsageError("reading --runs", "no run is given", "Give run ids or model folders")
    given = [*parameters, *split_overrides(overrides)]
    with TemporaryDirectory(prefix="models-") as downloads:
        folders = model_folders(names, Path(downloads))
        config = compose(given, task_config, base=_trained_with(folders[0])).config
        path = Path(output)
        path = path / "submission.csv" if path.is_dir() else path
        with writing_explained(path):  # before anything is predicted
            path.parent.mkdir(parents=True, exist_ok=True)
        predict_file(config, folders, path)


def predict_file(config: "RunConfig", folders: list[Path], path: Path) -> None:
    """Predict the test file of `config.data` with the models in `folders`, and write `path`."""
    from competitions.device import describe_device, use_all_cores
    from competitions.submission import make_submission, write_submission

    use_all_cores()
    task = load_task(config.task)
    with data_folder(task, config.data) as folder:
        rows = task.read_test(folder)
        models = f"{len(folders)} model{'s' if len(folders) > 1 else ''}"
        where = "the sample" if config.data.dir is None else config.data.dir
        say(
            f"predicting {len(rows):,} rows of {where} with {models} for {config.task.name}, "
            f"on {describe_device(config.trainer.precision)}"
        )
        examples, logits = _mean_logits(config, task, rows, folders)
        submission = make_submission(task, task.decode(rows, examples, logits), folder)
    write_submission(submission, path)
    if os.environ.get("MLFLOW_RUN_ID"):
        import mlflow

        from competitions import runs

        with runs.active_run():
            mlflow.log_artifact(str(path))
    say(f"wrote {len(submission):,} predictions to {path}")


def _mean_logits(
    config: "RunConfig", task: "Task", rows: Any, folders: list[Path]
) -> "tuple[Examples, tuple[Any, ...]]":
    """The rows as inputs, and the mean of what the models put out for them."""
    from competitions.inference import predict
    from competitions.models import load_model

    first: Examples | None = None
    total: tuple[Any, ...] = ()
    for folder in folders:
        loaded = load_model(str(folder), task, f"from {folder}")
        examples = task.encode(rows, loaded.tokenizer)
        if first is None:
            first = examples
        elif examples.offsets != first.offsets:
            problem = f"its model splits the texts into other tokens than the model of {folders[0]}"
            hint = "Average models with one tokenizer, or predict with each alone"
            raise UsageError(f"averaging {folder}", problem, hint)
        with TemporaryDirectory(prefix="predicting-") as scratch:
            logits = predict(loaded, examples, config.trainer, scratch)
        total = tuple(a + b for a, b in zip(total, logits, strict=True)) if total else logits
    assert first is not None  # noqa: S101 - `main` has seen to one folder at least
    return first, tuple(output / len(folders) for output in total)


def model_folders(names: list[str], downloads: Path) -> list[Path]:
    """The local folders of models of one task.

    Args:
        names: each a folder, or one with a part `model`, or a run id; the run of all folds stands
            for those of its folds that are finished.
        downloads: an existing folder for models that are fetched.

    Raises:
        UsageError: where one is no model, or they are of several tasks.
        KaggleOpsError: where a run or its artifacts cannot be read.
    """
    found: list[tuple[str, Path]] = []
    for name in names:
        if folder := _local_model(name):
            found.append((name, folder))
            continue
        for run_id in _single_runs(name):
            found.append((run_id, _fetch_model(run_id, downloads / str(len(found)))))
    _check_one_task(found)
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


def _single_runs(name: str) -> list[str]:
    from competitions import runs

    with _run_explained(name):
        return runs.single_runs(name)


def _fetch_model(run_id: str, folder: Path) -> Path:
    from mlflow.artifacts import download_artifacts

    folder.mkdir()
    say(f"fetching the model of run {run_id}")
    with _run_explained(run_id):
        return Path(
            download_artifacts(run_id=run_id, artifact_path=MODEL_FOLDER, dst_path=str(folder))
        )


@contextmanager
def _run_explained(run_id: str) -> Iterator[None]:
    try:
        yield
    except KaggleOpsError:
        raise
    except Exception as error:  # noqa: BLE001 - each kind of store has exceptions of its own
        problem = str(error).splitlines()[0]
        hint = "Check the run id and MLFLOW_TRACKING_URI, or give a local model folder"
        raise KaggleOpsError(f"fetching the model of {run_id}", problem, hint) from None


def _trained_with(folder: Path) -> dict[str, dict[str, Any]]:
    """The task and the data that the model in `folder` was trained with."""
    saved = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    return {group: saved[group] for group in ("task", "data")}


def _check_one_task(found: list[tuple[str, Path]]) -> None:
    (first, wanted), *others = [(name, _trained_with(each)["task"]["name"]) for name, each in found]
    for name, task in others:
        if task != wanted:
            problem = f"it was trained for {task}, and {first} for {wanted}"
            raise UsageError(f"averaging {name}", problem, "Give models of one task")


if __name__ == "__main__":
    run_command(main)
