"""Stochastic weight averaging: the mean of the weights of a training's last part, by torch itself.

The mean lies in every checkpoint, too, so a resumed training ends with the same one.
"""

from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

AVERAGE_FILE = "average.pt"


class WeightAverage(TrainerCallback):
    """Averages the weights of all steps after a share of the training.

    Args:
        start: that share, from 0 to below 1.
    """

    def __init__(self, start: float) -> None:
        self.start = start
        self.average: AveragedModel | None = None

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        """Add this step's weights."""
        assert model is not None  # noqa: S101 - the Trainer always passes it
        if state.global_step <= self.start * state.max_steps:
            return
        if self.average is None:
            self.average = AveragedModel(model)
        self.average.update_parameters(model)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put the mean so far beside the checkpoint."""
        if self.average is not None and args.should_save:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            torch.save(self.average.state_dict(), folder / AVERAGE_FILE)

    def load(self, checkpoint: Path, model: PreTrainedModel) -> None:
        """Go on from the mean that a checkpoint holds, if it holds one."""
        if (checkpoint / AVERAGE_FILE).is_file():
            self.average = AveragedModel(model)
            saved = torch.load(checkpoint / AVERAGE_FILE, map_location=model.device)
            self.average.load_state_dict(saved)

    def apply(self, model: PreTrainedModel) -> bool:
        """Give the model the mean weights; False where there is none."""
        if self.average is None:
            return False
        model.load_state_dict(self.average.module.state_dict())
        return True
