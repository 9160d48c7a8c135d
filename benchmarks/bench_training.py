"""Samples a second: this project's training loop against the bare Trainer, and length bucketing.

Both loops take the same model, rows, order and steps. Ours logs to a bucket as `kaggleops run`
makes it, with the progress report and the machine's metrics. The small model makes tracking look
as dear as it can: a step of a real one takes many times as long.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import median, print_caption, print_table, scratch

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

STEPS = int(os.environ.get("STEPS", "600"))
"""Of a round with tracking: in a short one, what is done once a run hides what a step costs."""

BUCKETING_STEPS = 60
ROUNDS = int(os.environ.get("ROUNDS", "5"))
TWEETS = os.environ.get("KAGGLEOPS_TWEETS", "")


def main() -> None:
    with scratch() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"bucket+file://{folder}/bucket/mlruns"
        os.environ["MLFLOW_MAX_LOG_PARAMS"] = "0"
        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
        compare_tracking(folder)
        compare_bucketing(folder)
    where = "real tweets" if TWEETS else "the project's own sample (set KAGGLEOPS_TWEETS)"
    print_caption(
        f"Model `tiny`, batches of 32 of {where}, {ROUNDS} rounds of each in turn, of {STEPS} "
        f"steps for tracking and {BUCKETING_STEPS} for bucketing; medians. CPU seconds count every "
        "thread of the process and are the figure to go by where the machine is shared."
    )


def compare_tracking(folder: Path) -> None:
    ways = {
        "bare Trainer": lambda: measure(folder, STEPS),
        "with tracking": lambda: measure(folder, STEPS, tracked=True),
    }
    print_speeds("The training loop", ways)


def compare_bucketing(folder: Path) -> None:
    ways = {
        "rows at random": lambda: measure(folder, BUCKETING_STEPS, bucketing=False),
        "rows of like length": lambda: measure(folder, BUCKETING_STEPS),
    }
    print_speeds("Length bucketing", ways)


def print_speeds(title: str, ways: dict[str, Callable[[], tuple[float, float]]]) -> None:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            found[name].append(way())
    first = next(iter(ways))
    speeds = [
        (name, [median([each[unit] for each in rounds]) for unit in (0, 1)])
        for name, rounds in found.items()
    ]
    base = dict(speeds)[first]
    rows = [
        [name, f"{wall:,.0f}", f"{wall / base[0]:.3f}", f"{cpu:,.0f}", f"{cpu / base[1]:.3f}"]
        for name, (wall, cpu) in speeds
    ]
    columns = ["", "samples a second", "ratio", "samples a CPU second", "ratio"]
    print_table(title, columns, rows)


def measure(
    folder: Path, steps: int, *, tracked: bool = False, bucketing: bool = True
) -> tuple[float, float]:
    """Return samples a second of the clock and of the processor."""
    import mlflow
    from transformers import PrinterCallback, set_seed

    from competitions.inference import trainer_arguments
    from competitions.training import EpochSampler, RecipeTrainer

    task, config, examples, loaded = prepared()
    config = replace(config, max_steps=steps)
    set_seed(1)
    model = type(loaded.model)(loaded.model.config)
    lengths = examples.lengths() if bucketing else None
    trainer: Any = RecipeTrainer(
        model=model,
        task=task,
        config=config,
        sampler=EpochSampler(len(examples), 1, lengths, config.batch_size),
        args=trainer_arguments(config, str(folder), report_to=["mlflow"] if tracked else []),
        train_dataset=examples,
        data_collator=collator(loaded.tokenizer),
        callbacks=[report()] if tracked else [],
    )
    trainer.remove_callback(PrinterCallback)
    if tracked:
        with mlflow.start_run(log_system_metrics=True):
            return timed(trainer.train, steps)
    return timed(trainer.train, steps)


def timed(train: Callable[[], Any], steps: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    train()
    samples = steps * 32
    return samples / (time.perf_counter() - wall), samples / (time.process_time() - cpu)


_prepared: list[Any] = []


def prepared() -> Any:
    """Return the task, the configuration, the rows as inputs and a model, made once."""
    if not _prepared:
        from competitions.config import compose
        from competitions.models import make_model
        from competitions.tasks import data_folder, load_task

        data = ["data=folder", f'data.dir="{TWEETS}"'] if TWEETS else []
        settings = compose(data)
        task = load_task(settings.config.task)
        with data_folder(task, settings.config.data) as place:
            rows = task.read_train(place)
        model = settings.config.model
        loaded = make_model(model, task, task.texts(rows), settings.config.task.max_length)
        examples = task.encode(rows, loaded.tokenizer)
        _prepared.extend([task, settings.config.trainer, examples, loaded])
    return _prepared


def collator(tokenizer: Any) -> Any:
    from transformers import DataCollatorWithPadding

    return DataCollatorWithPadding(tokenizer)


def report() -> Any:
    from competitions.progress import ProgressReport

    return ProgressReport("jaccard")


if __name__ == "__main__":
    main()
