"""The Hugging Face Trainer as this project trains with it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    PrinterCallback,
    Trainer,
)

from competitions.averaging import WeightAverage
from competitions.checkpoints import CheckpointUpload, EpochEnds, Index, check_fits
from competitions.console import Stopped
from competitions.inference import as_logits, trainer_arguments
from competitions.limits import TimeLimit, check_loss, out_of_memory_explained
from competitions.models import LoadedModel
from competitions.progress import ProgressReport
from competitions.sampling import EpochSampler
from competitions.schema import Checkpoints, TrainerConfig, duration
from competitions.tasks import Examples, Task


@dataclass
class Outcome:
    """What a training has brought.

    Attributes:
        predicted: what the last evaluation predicted for the validation rows, in their order.
        steps: optimizer steps taken.
        history: what the Trainer logged, one entry a time.
    """

    predicted: pd.DataFrame
    steps: int
    history: list[dict[str, float]]


class RecipeTrainer(Trainer):
    """The Trainer with what it has no switch for.

    That is: one loss for all tasks (with label smoothing in training only), a learning rate of its
    own for the head, and batches of like length in training but not in evaluation. Its own switch
    for those (`train_sampling_strategy`) reorders the evaluation too.

    Args:
        config: how to train.
        sampler: the order of the training rows.
    """

    optimizer: Any

    def __init__(self, *args: Any, config: TrainerConfig, sampler: EpochSampler, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self.config = config
        self.sampler = sampler
        # `compute_loss` gives the mean of a batch: to be divided by the batches of a step.
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> EpochSampler:
        return self.sampler

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The mean cross entropy of every output of the model against its label."""
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        smoothing = self.config.label_smoothing if model.training else 0.0
        wanted = labels.reshape(len(labels), -1).unbind(dim=1)
        losses = [
            torch.nn.functional.cross_entropy(logits.float(), label, label_smoothing=smoothing)
            for logits, label in zip(outputs.to_tuple(), wanted, strict=True)
        ]
        loss = torch.stack(losses).mean()
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One batch, with a look at its loss; the Trainer by itself goes on with NaN."""
        loss = super().training_step(*args, **kwargs)
        check_loss(loss, self.state.global_step + 1)
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The validation scores; its batches have a size of their own to be lowered."""
        with out_of_memory_explained(self.config, "evaluating"):
            return dict(super().evaluate(*args, **kwargs))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with up to four groups: body and head, with and without weight decay."""
        if self.optimizer is None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            decayed = set(self.get_decay_parameter_names(self.model))
            body = f"{self.model.base_model_prefix}."
            groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
            for name, weights in self.model.named_parameters():
                if weights.requires_grad:
                    key = (name.startswith(body), name in decayed)
                    groups.setdefault(key, []).append(weights)
            rate = self.args.learning_rate
            self.optimizer = kind(
                [
                    {
                        "params": weights,
                        "lr": rate if in_body else self.config.head_learning_rate or rate,
                        "weight_decay": self.args.weight_decay if decays else 0.0,
                    }
                    for (in_body, decays), weights in groups.items()
                ],
                **settings,
            )
        return self.optimizer


def train(
    loaded: LoadedModel,
    task: Task,
    training: Examples,
    validation: pd.DataFrame,
    config: TrainerConfig,
    seed: int,
    output_dir: str,
    index: Index,
    checkpoint: Path | None = None,
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
        index: the checkpoints that the run holds already.
        checkpoint: the one of them to go on from; None: from the beginning.

    Raises:
        KaggleOpsError: for a loss that is no number, or a checkpoint of another architecture.
        Stopped: at the time limit, with a checkpoint saved.
    """
    if checkpoint:
        check_fits(checkpoint, loaded.model)
    asked = task.encode(validation, loaded.tokenizer)
    asked = asked.take(asked.order_by_length())
    latest: list[pd.DataFrame] = []

    def compute_metrics(evaluated: EvalPrediction) -> dict[str, float]:
        latest[:] = [task.decode(validation, asked, as_logits(evaluated.predictions))]
        return task.scores(latest[0])

    progress = ProgressReport(task.score_name)
    average = None if config.average_from is None else WeightAverage(config.average_from)
    if average and checkpoint:
        average.load(checkpoint, loaded.model)
    limit = TimeLimit(duration(config.stop_after or "") or math.inf)
    callbacks = [progress, *([average] if average else []), limit, CheckpointUpload(index)]
    if config.checkpoints is Checkpoints.steps:
        callbacks.insert(0, EpochEnds(task.score_name))
    sampler = EpochSampler(
        len(training),
        seed,
        training.lengths() if config.group_by_length else None,
        config.batch_size * config.gradient_accumulation * max(1, torch.cuda.device_count()),
        task.labels(training.rows) if config.balance_labels else None,
    )
    trainer = RecipeTrainer(
        model=loaded.model,
        config=config,
        sampler=sampler,
        args=trainer_arguments(
            config,
            output_dir,
            seed=seed,
            eval_strategy="epoch",
            report_to=["mlflow"],
            save_strategy="no"
            if config.checkpoints is Checkpoints.none
            else config.checkpoints.value,
            save_steps=config.checkpoint_steps,
            save_total_limit=1,
            metric_for_best_model=task.score_name,
            greater_is_better=True,
        ),
        train_dataset=training,
        eval_dataset=asked,
        processing_class=loaded.tokenizer,
        data_collator=DataCollatorWithPadding(loaded.tokenizer),
        compute_metrics=compute_metrics,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        if limit.reached:
            state = trainer.state
            raise Stopped(f"step {state.global_step} of {state.max_steps}")
        if not latest:  # all steps had been made before the run was continued
            trainer.evaluate()
        if average and average.apply(loaded.model):
            trainer.evaluate(metric_key_prefix="averaged")
    finally:
        progress.close()
    return Outcome(latest[0], trainer.state.global_step, trainer.state.log_history)
