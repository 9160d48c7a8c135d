"""The Hugging Face Trainer as this project uses it, for training and for prediction alike."""

import os
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from competitions.models import LoadedModel
from competitions.progress import ProgressReport
from competitions.schema import Precision, TrainerConfig
from competitions.tasks import Examples, Logits, Task
from kaggleops.errors import UsageError


@dataclass
class Outcome:
    """What a training has brought.

    Attributes:
        predicted: what the last evaluation predicted for the validation rows, in their order.
        steps: optimizer steps taken.
    """

    predicted: pd.DataFrame
    steps: int


class BucketingTrainer(Trainer):
    """The Trainer, with batches of like length in training only.

    Its own switch for that (`group_by_length`, from 5.3 `train_sampling_strategy`) reorders the
    evaluation too, and its predictions come back in that order.
    """

    def __init__(self, *args: Any, lengths: list[int] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lengths = lengths

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> torch.utils.data.Sampler | None:
        if self.lengths is None:
            return super()._get_train_sampler(*args, **kwargs)
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(batch, lengths=self.lengths)


def train(
    loaded: LoadedModel,
    task: Task,
    training: Examples,
    validation: pd.DataFrame,
    config: TrainerConfig,
    seed: int,
    output_dir: str,
) -> Outcome:
    """Train the model in place, evaluate it after each epoch, log to the active MLflow run.

    Args:
        loaded: the model and its tokenizer.
        task: gives predictions and scores for the evaluation.
        training: what to learn from.
        validation: the rows to evaluate on.
        config: how to train.
        seed: of the order of the rows and of dropout.
        output_dir: an existing folder for what the Trainer writes.
    """
    asked = task.encode(validation, loaded.tokenizer)
    asked = asked.take(asked.order_by_length())
    latest: list[pd.DataFrame] = []

    def compute_metrics(evaluated: EvalPrediction) -> dict[str, float]:
        latest[:] = [task.decode(validation, asked, _as_logits(evaluated.predictions))]
        return task.scores(latest[0])

    progress = ProgressReport(task.score_name)
    trainer = BucketingTrainer(
        model=loaded.model,
        args=_arguments(config, output_dir, seed=seed, eval_strategy="epoch", report_to=["mlflow"]),
        train_dataset=training,
        eval_dataset=asked,
        processing_class=loaded.tokenizer,
        data_collator=DataCollatorWithPadding(loaded.tokenizer),
        compute_metrics=compute_metrics,
        callbacks=[progress],
        lengths=training.lengths() if config.group_by_length else None,
    )
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train()
    finally:
        progress.close()
    return Outcome(latest[0], trainer.state.global_step)


def predict(
    loaded: LoadedModel, examples: Examples, config: TrainerConfig, output_dir: str
) -> Logits:
    """What the model puts out for `examples`, in their order; see `competitions.tasks.Logits`.

    Args:
        loaded: the model and its tokenizer.
        examples: rows, with or without labels.
        config: says the batch size and the precision.
        output_dir: an existing folder for what the Trainer writes.
    """
    if not len(examples):
        return ()
    trainer = Trainer(
        model=loaded.model,
        args=_arguments(config, output_dir),
        data_collator=DataCollatorWithPadding(loaded.tokenizer),
    )
    trainer.remove_callback(PrinterCallback)
    order = examples.order_by_length()
    logits = _as_logits(trainer.predict(cast(Any, examples.take(order))).predictions)
    back = np.argsort(order)
    return tuple(output[back] for output in logits)


def describe_device(wanted: Precision) -> str:
    """The device and the number format, in words: "Tesla T4 in fp16", "2 CPU threads in fp32"."""
    threads = torch.get_num_threads()
    device = f"{threads} CPU thread{'s' if threads > 1 else ''}"
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        device = (
            f"{count} x {torch.cuda.get_device_name()}"
            if count > 1
            else torch.cuda.get_device_name()
        )
    elif torch.backends.mps.is_available():
        device = "an Apple GPU"
    return f"{device} in {pick_precision(wanted).name}"


def use_all_cores() -> None:
    """Let torch use every core this process may run on; by itself it leaves hyperthreads idle."""
    if "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def pick_precision(wanted: Precision) -> Precision:
    """The number format to use: what is wanted, or for `auto` what the GPU has tensor cores for.

    Raises:
        UsageError: where fp16 or bf16 is wanted and there is no GPU.
    """
    if not torch.cuda.is_available():
        if wanted in (Precision.fp16, Precision.bf16):
            problem = f"trainer.precision={wanted.name} needs a GPU, and there is none"
            raise UsageError("starting the training", problem, "Leave it at auto")
        return Precision.fp32
    if wanted is not Precision.auto:
        return wanted
    # 8.0 (A100) brought bf16, 7.0 (V100, T4 at 7.5) fp16. is_bf16_supported() also says yes where
    # it is only emulated, which is slower than fp32.
    major, _ = torch.cuda.get_device_capability()
    return Precision.bf16 if major >= 8 else Precision.fp16 if major == 7 else Precision.fp32


def _arguments(config: TrainerConfig, output_dir: str, **more: Any) -> TrainingArguments:
    """What the Trainer is told; it reports to nobody and evaluates never unless `more` says so."""
    precision = pick_precision(config.precision)
    return TrainingArguments(
        output_dir=output_dir,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.eval_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=precision is Precision.bf16,
        fp16=precision is Precision.fp16,
        logging_steps=config.log_every,
        save_strategy="no",
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        **{"report_to": [], **more},
    )


def _as_logits(predictions: Any) -> Logits:
    return tuple(predictions) if isinstance(predictions, tuple | list) else (predictions,)
