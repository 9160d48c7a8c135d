"""Entry point `main`: train one fold of a task and log everything about it to an MLflow run.

    python -m competitions.train task=tweet_sentiment model=tiny fold=0 --overrides trainer.epochs=3

A mistake in the configuration or in the files is told at once, before the run is opened. What a run
keeps: the whole configuration (params and config.yaml), losses and validation scores by step,
model/ (all that `predict` needs), oof.csv and a plot of the scores.
"""

import click

from competitions.config import Settings, compose, overridden_choices
from competitions.console import run_command, split_overrides, warn
from competitions.tasks import data_folder, load_task, task_config


@click.command()
@click.argument("parameters", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--overrides", default="", help="More of them, as one shell-quoted text.")
def main(parameters: tuple[str, ...], overrides: str) -> None:
    """Train one fold of a task. KEY=VALUE overrides a key of config/, in Hydra's grammar."""
    given = [*parameters, *split_overrides(overrides)]
    settings = compose(given, task_config)
    for note in overridden_choices(given):
        warn(note)
    train_fold(settings)


def train_fold(settings: Settings) -> dict[str, float]:
    """Read the files, split them and train the fold that `settings` name; returns the scores.

    Raises:
        UsageError: for files that cannot be trained on.
        KaggleOpsError: where the model, the run or its artifacts cannot be reached.
    """
    config = settings.config
    task = load_task(config.task)
    with data_folder(task, config.data) as folder:
        rows = task.read_train(folder)
    # Imported as late as possible, heaviest last: each takes longer than all that came before it.
    from competitions.folds import split_fold, take_rows

    rows = take_rows(rows, task.labels(rows), config.data.rows, config.seed)
    parts = split_fold(task.labels(rows), config.fold, config.folds, config.seed)
    training, validation = (rows.iloc[part] for part in parts)

    from competitions.fitting import fit_fold

    return fit_fold(settings, task, training, validation)


if __name__ == "__main__":
    run_command(main)
