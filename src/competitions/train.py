"""Entry point `main`: train one fold of a task, or all, and log everything to an MLflow run.

    python -m competitions.train task=tweet_sentiment model=tiny fold=0 --overrides trainer.epochs=3
    python -m competitions.train task=tweet_sentiment fold=all

Where there are several GPUs, it starts a process for each (`trainer.devices`).

A mistake in the configuration or in the files is told at once, before the run is opened. What a run
keeps: the whole configuration (params and config.yaml), losses and validation scores by step,
model/ (all that `predict` needs), oof.csv and a plot of the scores.
"""

import os
from collections.abc import Sequence

import click
import numpy as np
import pandas as pd

from competitions import ranks
from competitions.config import Settings, compose, overridden_choices
from competitions.console import Stopped, run_command, say, split_overrides, warn
from competitions.tasks import Task, data_folder, load_task
from competitions.weights import find_weights
from kaggleops.errors import UsageError


@click.command()
@click.argument("parameters", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--overrides", default="", help="More of them, as one shell-quoted text.")
def main(parameters: tuple[str, ...], overrides: str) -> None:
    """Train one fold of a task, or all of them.

    KEY=VALUE overrides a key of config/, in Hydra's grammar.
    """
    given = [*parameters, *split_overrides(overrides)]
    settings = compose(given)
    shares = processes = ranks.world()
    if processes == 1:
        read_rows(settings)  # a mistake in the files is told before the import that takes longest
        _check_weights(settings)
        shares, processes = _divided(settings)
    if ranks.world() == 1 or settings.config.trainer.devices == "auto":
        given = [each for each in given if not each.lstrip("+").startswith("trainer.devices=")]
        given.append(f"trainer.devices={shares}")
        settings = compose(given)
    if processes > ranks.world():
        ranks.launch(processes, "competitions.train", given)
        return
    for note in overridden_choices(given):
        warn(note)
    if settings.config.fold == "all":
        train_all_folds(settings, given)
    else:
        train_fold(settings)
    ranks.leave()


def train_all_folds(settings: Settings, given: Sequence[str]) -> dict[str, float]:
    """Train every fold as a nested run, and log to their parent what all of them bring together.

    Folds that a continued run has finished already are not trained again. `given` are the overrides
    that made the settings. Returns mean, spread and out-of-fold scores.
    """
    others = [override for override in given if override.partition("=")[0] != "fold"]
    folds = [compose([*others, f"fold={k}"]) for k in range(settings.config.folds)]
    read_rows(settings)  # a mistake in the files is told before a run is opened
    _check_weights(settings)

    from competitions import runs
    from competitions.gather import check_folds, gather

    with runs.active_run(settings.flat()) as parent:
        if ranks.is_first():
            runs.log_config(settings.flat(), settings.yaml())
        finished = ranks.from_first(lambda: runs.finished_folds(parent))
        for number, fold in enumerate(folds):
            if number in finished:
                say(f"fold {number} is finished already (run {finished[number]})")
            else:
                try:
                    train_fold(fold, parent)
                except Stopped:
                    if ranks.is_first():
                        runs.log_steps(parent)
                    raise
        if not ranks.is_first():
            return {}
        trained = runs.fold_runs(parent)
        # Who continues a run with other code has seen to that: it is a warning here.
        return gather(check_folds([run.info.run_id for run in trained.values()], any_commit=True))


def _divided(settings: Settings) -> tuple[int, int]:
    """How many shares of rows a step has, as before where a run is continued, and processes."""
    import torch

    wanted, available = settings.config.trainer.devices, torch.cuda.device_count()
    if wanted == "auto" and os.environ.get("MLFLOW_RUN_ID"):
        from competitions import runs

        wanted = runs.devices_before() or wanted
    shares, processes = divide(wanted, available)
    if processes < shares:
        warn(f"trainer.devices={shares}, and {processes} can be used here: it takes longer")
    if processes == 1 < available:  # else the Trainer would use them all
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or "0"
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.partition(",")[0]
    return shares, processes


def divide(wanted: int | str, available: int) -> tuple[int, int]:
    """How many shares of rows a step has, and how many processes take as many of them each."""
    shares = max(1, available) if wanted == "auto" else int(wanted)
    most = min(shares, available or shares)
    return shares, next(count for count in range(most, 0, -1) if shares % count == 0)


def train_fold(settings: Settings, parent: str | None = None) -> dict[str, float]:
    """Read the files, split them and train the fold that `settings` name; returns the scores."""
    task, training, validation = read_rows(settings)
    _check_weights(settings)

    from competitions.training import fit_fold

    return fit_fold(settings, task, training, validation, parent)


def read_rows(settings: Settings) -> tuple[Task, pd.DataFrame, pd.DataFrame]:
    """The task, the rows to learn from and those to validate on (of fold 0 with `fold=all`)."""
    config = settings.config
    task = load_task(config.task)
    with data_folder(task, config.data) as folder:
        rows = task.read_train(folder)
    rows = take_rows(rows, task.labels(rows), config.data.rows, config.seed)
    fold = 0 if config.fold == "all" else int(config.fold)
    training, validation = split_fold(task.labels(rows), fold, config.folds, config.seed)
    return task, rows.iloc[training], rows.iloc[validation]


def _check_weights(settings: Settings) -> None:
    """Make sure that there are weights to begin with, before the import that takes longest."""
    model = settings.config.model
    if model.pretrained:
        find_weights(model.pretrained, model.packages)


def take_rows(frame: pd.DataFrame, labels: pd.Series, rows: int | None, seed: int) -> pd.DataFrame:
    """Only `rows` rows of `frame`, in its order, with the labels in proportion. None: all."""
    if rows is None or rows >= len(frame):
        return frame
    shuffled = labels.iloc[np.random.default_rng(seed).permutation(len(labels))]
    grouped = shuffled.groupby(shuffled)
    # Each label's rows are spread evenly over 0 to 1, so the lowest hold all labels in proportion.
    place = (grouped.cumcount() + 0.5) / grouped.transform("size")
    return frame.loc[place.nsmallest(rows).index].sort_index()


def split_fold(
    labels: pd.Series, fold: int, folds: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the training rows and of the validation rows of one fold, both ascending.

    Every fold (from 0 to `folds` - 1) holds the labels in proportion. Raises UsageError where there
    are fewer rows than folds, in all or of one label.
    """
    from sklearn.model_selection import StratifiedKFold

    doing, counts = "splitting the rows into folds", labels.value_counts()
    if len(labels) < folds:
        problem = f"there are {len(labels)} rows for {folds} folds"
        raise UsageError(doing, problem, f"Use at most folds={len(labels)}, or more rows")
    if counts.min() < folds:
        problem = f"{labels.name} '{counts.idxmin()}' has {counts.min()} rows for {folds} folds"
        raise UsageError(doing, problem, "Use fewer folds, or more rows")
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)
    train, valid = list(splits)[fold]
    return np.sort(train), np.sort(valid)


if __name__ == "__main__":
    run_command(main)
