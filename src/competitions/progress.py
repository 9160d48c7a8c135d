"""Progress of a training: plain short lines, one each epoch, and at the end how fast it was.

A notebook or a log on Kaggle keeps every line, so between them one comes only after some seconds,
at ever longer intervals.
"""

import math
import re
import time
from typing import Any

import torch
from transformers import TrainerCallback

from competitions.console import say

# Seconds between two plain lines: at first, and as a share of the time that has passed.
LINE_INTERVAL = 10.0
LINE_SHARE = 0.05

# TFLOP/s that a GPU can do at most with dense matrices in fp32, fp16 and bf16 (None: it only
# emulates that), by what its name says. docs/training.md has the sources.
PEAKS: dict[str, tuple[float, float, float | None]] = {
    "T4": (8.1, 65, None),
    "P100": (9.3, 18.7, None),
    "V100-PCIE": (14, 112, None),
    "V100": (15.7, 125, None),
    "L4": (30.3, 121, 121),
    "A10": (31.2, 125, 125),
    "A100": (19.5, 312, 312),
    "H100 PCIe": (51, 756, 756),
    "H100 80GB HBM3": (67, 989, 989),
    "H200": (67, 989, 989),
    "RTX 3090": (35.6, 71, 71),
    "RTX 4090": (82.6, 165, 165),
}


def peak(device: str, form: str) -> tuple[str, float] | None:
    """What PEAKS calls a device, and how many TFLOP/s it can do; None where it is not known.

    `device` is torch's name ("NVIDIA A100-SXM4-40GB"), `form` the number format: fp32, fp16, bf16.
    """
    if re.search(r"\b(MIG|Laptop|NVL|Ti|D)\b", device):  # a part of one, or a namesake
        return None
    for name, peaks in PEAKS.items():
        if re.search(rf"\b{name}\b", device):
            most = peaks[("fp32", "fp16", "bf16").index(form)]
            return (name, most) if most else None
    return None


def throughput(
    rows: float, tokens: float, operations: float, seconds: float, devices: list[str], form: str
) -> str:
    """How fast a training was, in words, beside the most that its devices could do.

    `operations` are floating-point ones; `devices` the names of all GPUs, of one kind; `form` the
    number format ("fp16").
    """
    seconds = max(seconds, 1e-9)
    reached = operations / seconds / 1e12
    line = f"speed: {rows / seconds:,.0f} samples/s, {tokens / seconds:,.0f} tokens/s"
    if not devices or (found := peak(devices[0], form)) is None:
        return f"{line}, {reached:.2g} TFLOP/s"
    name, most = found[0], found[1] * len(devices)
    owner = f"{len(devices)} x" if len(devices) > 1 else "a" if name[0] in "TPV" else "an"
    share = f"{reached / most:.0%} of {owner} {name}'s {most:g} TFLOP/s in {form}"
    return f"{line}, {reached:.1f} TFLOP/s: {share}"


class ProgressReport(TrainerCallback):
    """Shows epoch, step, loss, validation score, samples a second, the time left, and the speed."""

    def __init__(self, score: str) -> None:
        self.score = score
        self.started = self.last_line = 0.0
        self.loss = math.nan
        self.first_step = 0  # that of the checkpoint, where a run is continued
        self.first_operations = 0.0  # likewise
        self.trained = 0.0  # seconds of steps, with the making of their batches
        self.measured = 0.0  # up to when

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = self.last_line = time.monotonic()
        self.first_step, self.first_operations = state.global_step, state.total_flos

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave out what came before; evaluating and saving are no training."""
        self.measured = time.monotonic()

    on_save = on_epoch_begin

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        self.trained, self.measured = self.trained + now - self.measured, now
        interval = max(LINE_INTERVAL, LINE_SHARE * (now - self.started))
        if now - self.last_line >= interval and state.global_step < state.max_steps:
            self.last_line = now
            say(self._line(args, state))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any
    ) -> None:
        self.loss = logs.get("loss", self.loss)

    def on_train_end(
        self, args: Any, state: Any, control: Any, model: Any, train_dataloader: Any, **kwargs: Any
    ) -> None:
        steps = state.global_step - self.first_step
        # The Trainer counts 6 operations for each weight and token: 2 forward and 4 backward.
        operations = state.total_flos - self.first_operations
        tokens = operations / (6 * model.num_parameters(exclude_embeddings=True))
        again = 8 / 6 if args.gradient_checkpointing else 1.0  # forward once more
        devices = [torch.cuda.get_device_name(i) for i in range(args.n_gpu)]
        devices *= args.world_size  # as many in each process; the operations are those of all
        form = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
        an_epoch = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
        rows = steps / an_epoch * len(train_dataloader.dataset)
        if steps:
            say(throughput(rows, tokens, operations * again, self.trained, devices, form))

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any
    ) -> None:
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
