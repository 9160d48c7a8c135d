"""One fold, from its rows to a finished MLflow run: model, training, scores, artifacts."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import mlflow
import pandas as pd
from transformers import set_seed

from competitions import records, runs
from competitions.checkpoints import fetch_last, read_index
from competitions.config import CONFIG_FILE, MODEL_FOLDER, Settings
from competitions.console import Stopped, say
from competitions.device import describe_device, use_all_cores
from competitions.limits import out_of_memory_explained
from competitions.models import LoadedModel, make_model
from competitions.schema import RunConfig
from competitions.submission import submission_of
from competitions.tasks import Examples, Task
from competitions.training import Outcome, train
from kaggleops.errors import UsageError

OOF_FILE = "oof.csv"


def fit_fold(
    settings: Settings,
    task: Task,
    training: pd.DataFrame,
    validation: pd.DataFrame,
    parent: str | None = None,
) -> dict[str, float]:
    """Train on some rows, evaluate on others, and log all of it to an MLflow run.

    A run that holds a checkpoint is continued from its last one.

    Args:
        settings: the configuration, logged as it stands.
        task: what the rows are for.
        training: labelled rows to learn from.
        validation: labelled rows to score; their predictions are the run's out-of-fold table.
        parent: the run of all folds, where this is one of them.

    Returns:
        The scores that the run is compared by.

    Raises:
        KaggleOpsError: where the model, the run or its artifacts cannot be reached.
        Stopped: at the time limit.
    """
    config = settings.config
    use_all_cores()
    set_seed(config.seed)
    # Every fold learns the same vocabulary, from all texts and no labels, so that the outputs of
    # their models can be averaged token by token.
    rows = pd.concat([training, validation]).sort_index()
    texts = task.texts(rows)
    loaded = make_model(config.model, task, texts, config.task.max_length)
    examples = task.encode(training, loaded.tokenizer)
    if not len(examples):
        problem = "the task answers all of them without a model"
        raise UsageError("encoding the training rows", problem, "Change the keys of task.*")
    where = "the sample" if config.data.dir is None else config.data.dir
    say(
        f"training {config.task.name} with {config.model.name} ({loaded.parameters()}, "
        f"{loaded.source}) on {_share(len(examples), len(training))} rows of {where}, validating "
        f"on {len(validation):,} (fold {config.fold} of {config.folds}), "
        f"on {describe_device(config.trainer.precision)}"
    )
    flat = settings.flat() | {"data.digest": records.digest(rows)}
    opened = runs.fold_run(parent, int(config.fold)) if parent else runs.active_run(flat)
    with opened as run_id, TemporaryDirectory(prefix="training-") as scratch:
        runs.log_config(flat, settings.yaml())
        records.log_versions()
        records.log_dataset(task, training, config.data.dir, "training")
        records.log_dataset(task, validation, config.data.dir, "validation")
        with out_of_memory_explained(config.trainer):
            outcome = _train(loaded, task, examples, validation, config, scratch, run_id, parent)
        scores = task.scores(outcome.predicted) | task.baseline(validation)
        mlflow.log_metrics(scores, step=outcome.steps)
        mlflow.flush_async_logging()  # the Trainer's callback logs in the background
        records.log_worst(task, outcome.predicted)
        _store_outputs(settings, task, loaded, validation, outcome)
    listed = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    say(f"done: {listed} (run {run_id})")
    return scores


def _train(
    loaded: LoadedModel,
    task: Task,
    examples: Examples,
    validation: pd.DataFrame,
    config: RunConfig,
    scratch: str,
    run_id: str,
    parent: str | None,
) -> Outcome:
    index = read_index(run_id)
    checkpoint = fetch_last(run_id, index, Path(scratch))
    trainer, seed = config.trainer, config.seed
    try:
        return train(loaded, task, examples, validation, trainer, seed, scratch, index, checkpoint)
    except Stopped as stopped:
        raise Stopped(
            f"stopped after {trainer.stop_after} at {stopped}, with a checkpoint in run {run_id}. "
            f"To go on, start the same again with MLFLOW_RUN_ID={parent or run_id}"
        ) from None


def _share(part: int, whole: int) -> str:
    return f"{whole:,}" if part == whole else f"{part:,} of {whole:,}"


def _store_outputs(
    settings: Settings, task: Task, loaded: LoadedModel, validation: pd.DataFrame, outcome: Outcome
) -> None:
    predicted = outcome.predicted
    folder = Path(mkdtemp(prefix="outputs-"))
    model = folder / MODEL_FOLDER
    loaded.model.save_pretrained(model)
    loaded.tokenizer.save_pretrained(model)
    (model / CONFIG_FILE).write_text(settings.yaml(), encoding="utf-8")
    records.add_mlmodel(model, task, validation, submission_of(task, predicted))
    table = predicted.assign(fold=settings.config.fold)
    first = [task.id_column, "fold"]
    table = table[first + [column for column in table if column not in first]]
    table.to_csv(folder / OOF_FILE, index=False)
    for name, figure in records.pictures(task, predicted, outcome.history).items():
        figure.savefig(folder / name)
    runs.log_outputs(folder)
    shutil.rmtree(folder)  # only now: where storing fails, this is all there is
