"""What each key of config/ may hold: its type and its range.

The files in config/ carry the values and the comments; these classes only check them, so an unknown
key, a missing one and a value of a wrong type are errors before anything is read or trained. The
keys of a task are a class of its own module (`competitions.tasks.Task.config_class`).
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from kaggleops.errors import UsageError

READING = "reading the configuration"
# What `data.dir` begins with where it names a resource.
RESOURCE = "resource:"


def check_range(key: str, value: Any, valid: bool, wanted: str) -> None:
    """Raise the `UsageError` of a value that must be `wanted`; `key` is dotted."""
    if not valid:
        raise UsageError(READING, f"{key}={value}, but it must be {wanted}")


def check_max_length(value: float) -> None:
    """Raise the `UsageError` of a `task.max_length` that is neither tokens nor a share of texts."""
    valid = 0 < value < 1 or (value >= 16 and value == int(value))
    check_range("task.max_length", value, valid, "16 or more, or a share of the texts below 1")


def _check_positive(group: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        check_range(f"{group}.{name}", value, value is None or value > 0, "more than 0")


def _check_shares(group: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        valid = value is None or 0 <= value < 1
        check_range(f"{group}.{name}", value, valid, "from 0 to below 1")


class Precision(Enum):
    """The number format of the forward and backward pass."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Checkpoints(Enum):
    """How often a checkpoint is kept."""

    none = "none"
    epoch = "epoch"
    steps = "steps"


class Schedule(Enum):
    """How the learning rate falls after the warm-up; transformers' own names."""

    linear = "linear"
    cosine = "cosine"
    constant_with_warmup = "constant_with_warmup"


@dataclass
class BuildConfig:
    """The size of a model that is built from its configuration."""

    vocab_size: int = MISSING
    hidden_size: int = MISSING
    layers: int = MISSING
    heads: int = MISSING

    def check(self) -> None:
        _check_positive("model.build", self, "vocab_size", "hidden_size", "layers", "heads")
        fits = self.hidden_size % self.heads == 0
        wanted = f"a multiple of model.build.heads={self.heads}"
        check_range("model.build.hidden_size", self.hidden_size, fits, wanted)


@dataclass
class ModelConfig:
    """The network, where its weights come from, and what it is trained well with."""

    name: str = MISSING
    pretrained: str | None = MISSING
    packages: dict[str, str] = field(default_factory=dict)
    # What has a value here is missing in the saved configurations of earlier runs.
    options: dict[str, Any] = field(default_factory=dict)
    architecture: str | None = None
    build: BuildConfig | None = None
    head_layers: list[int] | None = MISSING
    head_dropout: float = MISSING
    head_pairs: bool = False
    epochs: float = MISSING
    learning_rate: float = MISSING
    gradient_checkpointing: bool = False

    def check(self) -> None:
        _check_positive("model", self, "epochs", "learning_rate")
        if self.build is not None:
            self.build.check()
        _check_shares("model", self, "head_dropout")
        some = self.head_layers is None or len(self.head_layers) > 0
        check_range("model.head_layers", self.head_layers, some, "null or some layers")
        usable = not self.head_pairs or self.head_layers is not None
        check_range("model.head_pairs", self.head_pairs, usable, "false without model.head_layers")
        if not self.pretrained and self.build is None:
            problem = "model.pretrained and model.build are both empty"
            hint = "Name a hub model or a local folder: model.pretrained=<name>"
            raise UsageError(READING, problem, hint)


@dataclass
class TrainerConfig:
    """How the model is trained."""

    name: str = MISSING
    epochs: float = MISSING
    max_steps: int | None = MISSING
    batch_size: int = MISSING
    gradient_accumulation: int = MISSING
    gradient_checkpointing: bool = False
    eval_batch_size: int = MISSING
    learning_rate: float = MISSING
    head_learning_rate: float | None = MISSING
    layer_decay: float = 1.0
    schedule: Schedule = MISSING
    warmup: float = MISSING
    weight_decay: float = MISSING
    max_grad_norm: float = MISSING
    label_smoothing: float = MISSING
    average_from: float | None = MISSING
    group_by_length: bool = MISSING
    balance_labels: bool = MISSING
    precision: Precision = MISSING
    log_every: int = MISSING
    checkpoints: Checkpoints = MISSING
    checkpoint_steps: int = MISSING
    devices: int | str = "auto"  # runs from before there was this key have none

    def check(self) -> None:
        _check_positive("trainer", self, "epochs", "max_steps", "batch_size", "eval_batch_size")
        _check_positive("trainer", self, "gradient_accumulation", "learning_rate", "max_grad_norm")
        _check_positive("trainer", self, "log_every", "head_learning_rate", "checkpoint_steps")
        _check_shares("trainer", self, "warmup", "label_smoothing", "average_from")
        valid = 0 < self.layer_decay <= 1
        check_range("trainer.layer_decay", self.layer_decay, valid, "more than 0 and at most 1")
        check_range("trainer.weight_decay", self.weight_decay, self.weight_decay >= 0, "0 or more")
        some = self.devices == "auto" or (isinstance(self.devices, int) and self.devices > 0)
        check_range("trainer.devices", self.devices, some, "auto, or 1 or more")


@dataclass
class DataConfig:
    """Which files are read."""

    name: str = MISSING
    dir: str | None = MISSING
    rows: int | None = MISSING
    resource: str | None = None

    def check(self) -> None:
        _check_positive("data", self, "rows")
        if self.name == "resource" and not self.resource:
            hint = "Give it: data.resource=<a name in config/data/resources.yaml>"
            raise UsageError(READING, "data.resource is missing", hint)
        follows = f"{RESOURCE}{self.resource}" if self.name == "resource" else None
        for choice, key in (("folder", "dir"), ("resource", "resource")):
            value = getattr(self, key)
            if self.name != choice and value not in (None, follows):
                problem = f"data.{key}={value} is not read with data={self.name}"
                raise UsageError(READING, problem, f"Add data={choice}")


@dataclass
class RunConfig:
    """One training run: the whole of config/, checked and resolved."""

    task: Any = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    fold: int | str = MISSING
    folds: int = MISSING
    seed: int = MISSING

    def check(self) -> None:
        """Raise `UsageError` for a value out of range, here or in a group other than the task."""
        for group in (self.model, self.trainer, self.data):
            group.check()
        smoothing = self.trainer.label_smoothing
        spread = smoothing and self.model.head_pairs
        check_range("trainer.label_smoothing", smoothing, not spread, "0 with model.head_pairs")
        check_range("folds", self.folds, self.folds >= 2, "2 or more")
        last = self.folds - 1
        # "01", as a notebook's form may send it, is no number to Hydra.
        fold = str(self.fold)
        valid = fold == "all" or (fold.isdecimal() and int(fold) <= last)
        check_range("fold", self.fold, valid, f"from 0 to {last} (folds - 1), or all")
        check_range("seed", self.seed, 0 <= self.seed < 2**32, "from 0 to 4294967295")
