"""Progress of a training: plain short lines, one each epoch.

A notebook or a log on Kaggle keeps every line, so between them one comes only after some seconds,
at ever longer intervals.
"""

import math
import time
from typing import Any

from transformers import TrainerCallback

from competitions.console import say

# Seconds between two plain lines: at first, and as a share of the time that has passed.
LINE_INTERVAL = 10.0
LINE_SHARE = 0.05


class ProgressReport(TrainerCallback):
    """Shows epoch, step, loss, validation score, samples a second, and the time left."""

    def __init__(self, score: str) -> None:
        self.score = score
        self.started = self.last_line = 0.0
        self.loss = math.nan
        self.first_step = 0  # that of the checkpoint, where a run is continued

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = self.last_line = time.monotonic()
        self.first_step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Print a line when it is time."""
        now = time.monotonic()
        interval = max(LINE_INTERVAL, LINE_SHARE * (now - self.started))
        if now - self.last_line >= interval and state.global_step < state.max_steps:
            self.last_line = now
            say(self._line(args, state))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any
    ) -> None:
        self.loss = logs.get("loss", self.loss)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any
    ) -> None:
        """Print what the epoch has brought."""
        key = next(key for key in metrics if key.endswith(f"_{self.score}"))
        kind = key.removesuffix(f"_{self.score}").replace("eval", "validation")
        self.last_line = time.monotonic()
        say(f"{self._line(args, state)} · {kind} {self.score} {metrics[key]:.4f}")

    def _line(self, args: Any, state: Any) -> str:
        passed = max(time.monotonic() - self.started, 1e-9)
        step, steps = state.global_step, state.max_steps
        done = step - self.first_step
        rows = done * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        left = passed / max(done, 1) * (steps - step)
        epochs = state.num_train_epochs
        parts = [
            f"epoch {min(state.epoch or 0, epochs):.1f}/{epochs}",
            f"step {step}/{steps}",
            *([] if math.isnan(self.loss) else [f"loss {self.loss:.3f}"]),
            f"{rows / passed:.0f} samples/s",
            f"{int(left // 60)}:{int(left % 60):02d} left",
        ]
        return " · ".join(parts)
