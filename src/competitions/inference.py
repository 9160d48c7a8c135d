"""What a model puts out for rows, on what this machine has, and what the Trainer is told for it.

Nothing here needs MLflow: predicting works with the internet off and on a bare machine. A trained
model's folder opens with `mlflow.pyfunc`, too: rows of a test file in, a submission's rows out.
"""

import contextlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

from competitions.config import CONFIG_FILE, read_saved
from competitions.models import LoadedModel, load_model
from competitions.schema import Precision, TrainerConfig
from competitions.tasks import Examples, Logits, load_task
from kaggleops.errors import KaggleOpsError, UsageError

# Called otherwise in late releases of transformers 5, which warn of the earlier name.
_CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in TrainingArguments.__dataclass_fields__
)


def predict(loaded: LoadedModel, examples: Examples, config: TrainerConfig) -> Logits:
    """What the model puts out for `examples`, in their order; see `competitions.tasks.Logits`."""
    if not len(examples):
        return ()
    order = examples.order_by_length()
    with TemporaryDirectory(prefix="predicting-") as scratch:
        trainer = Trainer(
            model=loaded.model,
            args=trainer_arguments(config, scratch),
            data_collator=DataCollatorWithPadding(loaded.tokenizer),
        )
        trainer.remove_callback(PrinterCallback)
        with out_of_memory_explained(config, "predicting"):
            logits = as_logits(trainer.predict(cast(Any, examples.take(order))).predictions)
    back = np.argsort(order)
    return tuple(output[back] for output in logits)


def trainer_arguments(config: TrainerConfig, output_dir: str, **more: Any) -> TrainingArguments:
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
        lr_scheduler_type=config.schedule.value,
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        **{_CHECKPOINTING: config.gradient_checkpointing},
        **loader_arguments(torch.cuda.is_available(), os.cpu_count() or 1),
        bf16=precision is Precision.bf16,
        use_cpu=precision is Precision.bf16 and not torch.cuda.is_available(),  # else it refuses
        fp16=precision is Precision.fp16,
        logging_steps=config.log_every,
        label_names=["labels"],
        disable_tqdm=True,
        logging_nan_inf_filter=False,
        **{"report_to": [], "save_strategy": "no", **more},
    )


def loader_arguments(gpu: bool, cores: int) -> dict[str, Any]:
    """What the Trainer is told of how batches are made: for a GPU beside it, and ahead of it."""
    if not gpu:
        return {"dataloader_pin_memory": False}
    workers = {"dataloader_num_workers": min(2, cores), "dataloader_prefetch_factor": 2}
    return {"dataloader_pin_memory": True, **workers}


def as_logits(predictions: Any) -> Logits:
    """One array for each output, also where the Trainer gives the only one as it is."""
    return tuple(predictions) if isinstance(predictions, tuple | list) else (predictions,)


@contextlib.contextmanager
def out_of_memory_explained(config: TrainerConfig, doing: str = "training") -> Iterator[None]:
    """Raise `KaggleOpsError` with what to change where there is no memory for a batch."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one, on a CPU there is only this
        if not re.search("out of memory|can't allocate memory", str(error)):
            raise
        key = "batch_size" if doing == "training" else "eval_batch_size"
        size: int = getattr(config, key)
        half, hint = size // 2, "Use a smaller model, or fewer tokens: task.max_length"
        if half and doing == "training":
            steps = config.gradient_accumulation * math.ceil(size / half)
            hint = f"Try trainer.batch_size={half} trainer.gradient_accumulation={steps}"
            hint += ", which learns the same"
            if not config.gradient_checkpointing:
                hint += ", or trainer.gradient_checkpointing=true"
        elif half:
            hint = f"Try trainer.{key}={half}, which predicts the same"
        raise KaggleOpsError(doing, f"out of memory with trainer.{key}={size}", hint) from None


def describe_device(wanted: Precision) -> str:
    """The device and the number format, in words: "Tesla T4 in fp16", "2 CPU threads in fp32"."""
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        device = f"{count} x " * (count > 1) + torch.cuda.get_device_name()
    elif torch.backends.mps.is_available():
        device = "an Apple GPU"
    else:
        threads = torch.get_num_threads()
        device = f"{threads} CPU thread{'s' * (threads > 1)}"
    return f"{device} in {pick_precision(wanted).name}"


def use_all_cores() -> None:
    """Let torch use every core this process may run on; by itself it leaves hyperthreads idle."""
    if "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def pick_precision(wanted: Precision) -> Precision:
    """The number format to use: what is wanted, or for `auto` what the GPU has tensor cores for.

    A CPU computes in fp32, or in bf16 if that is wanted. Raises UsageError where fp16 is wanted and
    there is no GPU, or bf16 and the CPU has no instructions for it either.
    """
    if not torch.cuda.is_available():
        in_cpu = (
            wanted is Precision.bf16
            and torch.backends.mkldnn.is_available()  # else there is no such operator
            and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
        if wanted in (Precision.fp16, Precision.bf16) and not in_cpu:
            problem = f"trainer.precision={wanted.name} needs a GPU, and there is none"
            raise UsageError("starting the training", problem, "Leave it at auto")
        return Precision.bf16 if in_cpu else Precision.fp32
    if wanted is not Precision.auto:
        return wanted
    return precision_of(torch.cuda.get_device_capability())


def precision_of(capability: tuple[int, int]) -> Precision:
    """The number format that a GPU of this CUDA compute capability has tensor cores for."""
    # 8.0 (A100) brought bf16, 7.0 (V100, T4 at 7.5) fp16. is_bf16_supported() also says yes where
    # it is only emulated, which is slower than fp32.
    major, _ = capability
    return Precision.bf16 if major >= 8 else Precision.fp16 if major == 7 else Precision.fp32


class Predictor:
    """A trained model with its task, from a folder with its weights, tokenizer and config.yaml."""

    def __init__(self, folder: Path) -> None:
        self.config = read_saved(folder / CONFIG_FILE)
        self.task = load_task(self.config.task)
        self.loaded = load_model(str(folder), self.task, f"from {folder}")

    def predict(self, rows: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The submission's rows for rows of the test file, in their order."""
        examples = self.task.encode(rows, self.loaded.tokenizer)
        logits = predict(self.loaded, examples, self.config.trainer)
        return self.task.submission(self.task.decode(rows, examples, logits))


def _load_pyfunc(path: str) -> Predictor:
    """What MLflow calls."""
    return Predictor(Path(path))
