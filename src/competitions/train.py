"""Entry point `main`: train one fold of a task, or all, and log everything to an MLflow run.

    python -m competitions.train task=tweet_sentiment model=tiny fold=0 --overrides trainer.epochs=3
    python -m competitions.train task=tweet_sentiment fold=all

A mistake in the configuration or in the files is told at once, before the run is opened. What a run
keeps: the whole configuration (params and config.yaml), losses and validation scores by step,
model/ (all that `predict` needs), oof.csv and a plot of the scores.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from competitions.config import Settings, compose, overridden_choices
from competitions.console import check_one_process, run_command, say, split_overrides, warn
from competitions.tasks import Task, data_folder, load_task, task_config
from competitions.weights import find_weights

if TYPE_CHECKING:
    import pandas as pd


@click.command()
@click.argument("parameters", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--overrides", default="", help="More of them, as one shell-quoted text.")
def main(parameters: tuple[str, ...], overrides: str) -> None:
    """Train one fold of a task, or all of them.

    KEY=VALUE overrides a key of config/, in Hydra's grammar.
    """
    check_one_process()
    given = [*parameters, *split_overrides(overrides)]
    settings = compose(given, task_config)
    for note in overridden_choices(given):
        warn(note)
    if settings.config.fold == "all":
        train_all_folds(settings, given)
    else:
        train_fold(settings)


def train_all_folds(settings: Settings, given: Sequence[str]) -> dict[str, float]:
    """Train every fold as a nested run, and log to their parent what all of them bring together.

    Folds that a continued run has finished already are not trained again.

    Args:
        settings: the configuration, with `fold=all`.
        given: the overrides that made it.

    Returns:
        Mean, spread and out-of-fold scores.
    """
    others = [override for override in given if override.partition("=")[0] != "fold"]
    folds = [compose([*others, f"fold={k}"], task_config) for k in range(settings.config.folds)]
    read_rows(settings)  # a mistake in the files is told before a run is opened
    check_weights(settings)

    from competitions import runs
    from competitions.gather import check_folds, gather

    with runs.active_run(settings.flat()) as parent:
        runs.log_config(settings.flat(), settings.yaml())
        for number, fold in enumerate(folds):
            earlier = runs.fold_runs(parent).get(number)
            if earlier and earlier.info.status == "FINISHED":
                say(f"fold {number} is finished already (run {earlier.info.run_id})")
            else:
                train_fold(fold, parent)
        finished = runs.fold_runs(parent)
        # Who continues a run with other code has seen to that: it is a warning here.
        return gather(check_folds([run.info.run_id for run in finished.values()], any_commit=True))


def train_fold(settings: Settings, parent: str | None = None) -> dict[str, float]:
    """Read the files, split them and train the fold that `settings` name; returns the scores.

    Args:
        settings: the configuration.
        parent: the run of all folds, where this is one of them.

    Raises:
        UsageError: for files that cannot be trained on.
        KaggleOpsError: where the model, the run or its artifacts cannot be reached.
    """
    task, training, validation = read_rows(settings)
    check_weights(settings)

    from competitions.fitting import fit_fold

    return fit_fold(settings, task, training, validation, parent)


def read_rows(settings: Settings) -> "tuple[Task, pd.DataFrame, pd.DataFrame]":
    """The task, the rows to learn from and those to validate on (of fold 0 with `fold=all`)."""
    config = settings.config
    task = load_task(config.task)
    with data_folder(task, config.data) as folder:
        rows = task.read_train(folder)
    # Imported as late as possible, heaviest last: each takes longer than all that came before it.
    from competitions.folds import split_fold, take_rows

    rows = take_rows(rows, task.labels(rows), config.data.rows, config.seed)
    fold = 0 if config.fold == "all" else int(config.fold)
    training, validation = split_fold(task.labels(rows), fold, config.folds, config.seed)
    return task, rows.iloc[training], rows.iloc[validation]


def check_weights(settings: Settings) -> None:
    """Make sure that there are weights to begin with, before the import that takes longest."""
    model = settings.config.model
    if model.pretrained:
        find_weights(model.pretrained, model.packages)


if __name__ == "__main__":
    run_command(main)
