"""Ends that a training may come to before its last step, each told in one line."""

import contextlib
import math
import re
import time
from collections.abc import Iterator
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from competitions.schema import TrainerConfig
from kaggleops.errors import KaggleOpsError

# When this process began, nearly: what a platform's limit is counted from.
STARTED = time.monotonic()


class TimeLimit(TrainerCallback):
    """Saves a checkpoint and ends the training once this process has run for so long.

    Args:
        seconds: the limit.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.reached = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End it, but for an epoch's last step: the evaluation then comes first, as always."""
        if (state.epoch or 0) % 1:
            self._end_if_late(state, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End it; after an end in the middle of an epoch nothing is evaluated."""
        if self.reached:
            control.should_evaluate = control.should_save = False
        else:
            self._end_if_late(state, control)

    def _end_if_late(self, state: TrainerState, control: TrainerControl) -> None:
        late = time.monotonic() - STARTED >= self.seconds
        if late and state.global_step < state.max_steps:
            self.reached = control.should_save = control.should_training_stop = True


@contextlib.contextmanager
def out_of_memory_explained(config: TrainerConfig, doing: str = "training") -> Iterator[None]:
    """Say what to change where there is not enough memory for a batch.

    Args:
        config: says how large batches are.
        doing: "training", or what else is done, in batches of `eval_batch_size`.

    Raises:
        KaggleOpsError: instead of torch's own error.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one, on a CPU there is only this
        if not re.search("out of memory|can't allocate memory", str(error)):
            raise
        key = "batch_size" if doing == "training" else "eval_batch_size"
        size: int = getattr(config, key)
        half = size // 2
        steps = config.gradient_accumulation * math.ceil(size / max(1, half))
        if not half:
            hint = "Use a smaller model, or fewer tokens: task.max_length"
        elif doing == "training":
            hint = f"Try trainer.batch_size={half} trainer.gradient_accumulation={steps}"
            hint += ", which learns the same"
        else:
            hint = f"Try trainer.{key}={half}, which predicts the same"
        raise KaggleOpsError(doing, f"out of memory with trainer.{key}={size}", hint) from None


def check_loss(loss: torch.Tensor, step: int) -> None:
    """Stop at a loss that is no number: nothing comes after it.

    Args:
        loss: of one batch.
        step: the optimizer step that the batch belongs to.

    Raises:
        KaggleOpsError: where it is infinite or not a number.
    """
    if not bool(torch.isfinite(loss)):
        hint = (
            "Lower trainer.learning_rate, raise trainer.warmup, or train in fp32. The last "
            "checkpoint is from before that"
        )
        raise KaggleOpsError(f"training step {step}", f"the loss is {loss.item()}", hint)
