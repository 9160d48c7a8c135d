"""What this machine trains on, and in which number format."""

import os

import torch

from competitions.schema import Precision
from kaggleops.errors import UsageError


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
