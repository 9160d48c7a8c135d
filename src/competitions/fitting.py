"""One fold, from its rows to a finished MLflow run: model, training, scores, artifacts."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import mlflow
import pandas as pd
from transformers import set_seed

from competitions import runs
from competitions.config import CONFIG_FILE, MODEL_FOLDER, Settings
from competitions.console import say
from competitions.device import describe_device, use_all_cores
from competitions.models import LoadedModel, make_model
from competitions.tasks import Task
from competitions.training import train
from kaggleops.errors import UsageError

OOF_FILE = "oof.csv"


def fit_fold(
    settings: Settings, task: Task, training: pd.DataFrame, validation: pd.DataFrame
) -> dict[str, float]:
    """Train on some rows, evaluate on others, and log all of it to an MLflow run.

    Args:
        settings: the configuration, logged as it stands.
        task: what the rows are for.
        training: labelled rows to learn from.
        validation: labelled rows to score; their predictions are the run's out-of-fold table.

    Returns:
        The scores that the run is compared by.

    Raises:
        KaggleOpsError: where the model, the run or its artifacts cannot be reached.
    """
    config = settings.config
    use_all_cores()
    set_seed(config.seed)
    # Every fold learns the same vocabulary, from all texts and no labels, so that the outputs of
    # their models can be averaged token by token.
    texts = task.texts(pd.concat([training, validation]).sort_index())
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
    with runs.active_run() as run_id, TemporaryDirectory(prefix="training-") as scratch:
        runs.log_config(settings.flat(), settings.yaml())
        outcome = train(loaded, task, examples, validation, config.trainer, config.seed, scratch)
        scores = task.scores(outcome.predicted) | task.baseline(validation)
        mlflow.log_metrics(scores, step=outcome.steps)
        _store_outputs(settings, task, loaded, outcome.predicted)
    listed = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    say(f"done: {listed} (run {run_id})")
    return scores


def _share(part: int, whole: int) -> str:
    return f"{whole:,}" if part == whole else f"{part:,} of {whole:,}"


def _store_outputs(
    settings: Settings, task: Task, loaded: LoadedModel, predicted: pd.DataFrame
) -> None:
    folder = Path(mkdtemp(prefix="outputs-"))
    model = folder / MODEL_FOLDER
    loaded.model.save_pretrained(model)
    loaded.tokenizer.save_pretrained(model)
    (model / CONFIG_FILE).write_text(settings.yaml(), encoding="utf-8")
    table = predicted.assign(fold=settings.config.fold)
    first = [task.id_column, "fold"]
    table = table[first + [column for column in table if column not in first]]
    table.to_csv(folder / OOF_FILE, index=False)
    for name, figure in task.plots(predicted).items():
        figure.savefig(folder / name)
    runs.log_outputs(folder)
    shutil.rmtree(folder)  # only now: where storing fails, this is all there is
