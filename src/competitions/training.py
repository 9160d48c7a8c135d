"""One fold, from its rows to a finished MLflow run: the Hugging Face Trainer, scores, artifacts.

The order in which training rows come is decided by the seed and the epoch, and by nothing else: so
a resumed training goes on with the very rows that were still to come.

Several processes (`competitions.ranks`) each run all of this. They take turns with the batches of
that order, and each evaluates a share of the validation rows; all get all predictions.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import mlflow
import pandas as pd
import torch
from torch.utils.data import Sampler
from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerState,
    set_seed,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

from competitions import checkpoints, inference, ranks, runs
from competitions.config import CONFIG_FILE, MODEL_FOLDER, Settings
from competitions.console import Stopped, say
from competitions.models import LoadedModel, layer_shares, make_model
from competitions.progress import ProgressReport
from competitions.schema import Checkpoints, TrainerConfig
from competitions.tasks import Examples, Task, describe_data, fit_length
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.tags import SCORE


def fit_fold(
    settings: Settings,
    task: Task,
    training: pd.DataFrame,
    validation: pd.DataFrame,
    parent: str | None = None,
) -> dict[str, float]:
    """Train on some rows, evaluate on others, and log all of it to an MLflow run.

    A run that holds a checkpoint is continued from its last one; `parent` is the run of all folds.
    The predictions of the validation rows are the run's out-of-fold table. Returns the scores that
    the run is compared by. Raises `Stopped` before the session ends.
    """
    config = settings.config
    inference.use_all_cores()
    set_seed(config.seed)
    # Every fold learns the same vocabulary, from all texts and no labels, so that the outputs of
    # their models can be averaged token by token.
    rows = pd.concat([training, validation]).sort_index()
    loaded = make_model(config.model, task, task.texts(rows), config.task.max_length)
    fit_length(task, rows, loaded.tokenizer, loaded.longest())
    examples = task.encode(training, loaded.tokenizer)
    if not len(examples):
        problem = "the task answers all of them without a model"
        raise UsageError("encoding the training rows", problem, "Change the keys of task.*")
    share = f"{len(examples):,} of " * (len(examples) < len(training)) + f"{len(training):,}"
    say(
        f"training {config.task.name} with {config.model.name} ({loaded.parameters()}, "
        f"{loaded.source}) on {share} rows of {describe_data(config.data)}, validating "
        f"on {len(validation):,} (fold {config.fold} of {config.folds}), on "
        f"{f'{ranks.world()} processes, ' * (ranks.world() > 1)}"
        f"{inference.describe_device(config.trainer.precision)}"
    )
    flat = settings.flat() | {"data.digest": runs.digest(rows)}
    opened = runs.fold_run(parent, int(config.fold)) if parent else runs.active_run(flat)
    with opened as run_id, TemporaryDirectory(prefix="training-") as own:
        scratch = ranks.from_first(lambda: own)  # where all write their part of a checkpoint
        if ranks.is_first():
            runs.log_config(flat, settings.yaml())
            mlflow.set_tag(SCORE, task.score_name)  # not eval_…, which has no value for each row
            runs.log_versions()
            runs.log_dataset(task, training, config.data.dir, "training")
            runs.log_dataset(task, validation, config.data.dir, "validation")
        try:
            predicted, state = train(
                loaded, task, examples, validation, config.trainer, config.seed, scratch, run_id
            )
        except Stopped as stopped:
            raise Stopped(
                f"the session ends: stopped at {stopped}, with a checkpoint in run {run_id}. "
                f"To go on, start the same again with MLFLOW_RUN_ID={parent or run_id}"
            ) from None
        scores = task.scores(predicted) | task.baseline(validation)
        if not ranks.is_first():
            return scores
        mlflow.log_metrics(scores, step=state.global_step)
        mlflow.flush_async_logging()  # the Trainer's callback logs in the background
        runs.log_worst(task, predicted)
        folder = Path(mkdtemp(prefix="outputs-"))
        model = folder / MODEL_FOLDER
        loaded.model.save_pretrained(model)
        loaded.tokenizer.save_pretrained(model)
        # Where that was a share of the texts, predicting needs what it came to.
        settings.resolved.task.max_length = config.task.max_length
        (model / CONFIG_FILE).write_text(settings.yaml(), encoding="utf-8")
        runs.add_mlmodel(model, task, validation, task.submission(predicted))
        table = predicted.assign(fold=config.fold)
        first = [task.id_column, "fold"]
        table = table[first + [column for column in table if column not in first]]
        table.to_csv(folder / runs.OOF_FILE, index=False)
        for name, figure in task.plots(predicted).items():
            figure.savefig(folder / name)
        runs.log_outputs(folder)
        shutil.rmtree(folder)  # only now: where storing fails, this is all there is
    say(f"done: {runs.listed(scores)} (run {run_id})")
    return scores


def train(
    loaded: LoadedModel,
    task: Task,
    training: Examples,
    validation: pd.DataFrame,
    config: TrainerConfig,
    seed: int,
    output_dir: str,
    run_id: str,
) -> tuple[pd.DataFrame, TrainerState]:
    """Train the model in place, evaluate it after each epoch, log to the active MLflow run.

    Where that run holds a checkpoint, the training goes on from there. `seed` is that of the rows'
    order and of dropout; the Trainer writes to the existing folder `output_dir`. Returns what the
    last evaluation predicted for the validation rows, in their order, and the state that the
    Trainer ended in. Raises `Stopped` before the session ends, with a checkpoint saved.
    """
    if config.gradient_checkpointing and not loaded.model.supports_gradient_checkpointing:
        problem = f"{type(loaded.model).__name__} cannot compute its layers' outputs anew"
        raise UsageError("training", problem, "Leave trainer.gradient_checkpointing false")

    def fetch() -> tuple[checkpoints.Index, Path | None]:
        index = checkpoints.read_index(run_id)
        return index, checkpoints.fetch_last(run_id, index, Path(output_dir))

    index, checkpoint = ranks.from_first(fetch)
    start = config.average_from
    average = None if start is None else checkpoints.WeightAverage(start)
    if checkpoint:
        checkpoints.check_fits(checkpoint, loaded.model)
        if average:
            average.load(checkpoint, loaded.model)
    asked = task.encode(validation, loaded.tokenizer)
    asked = asked.take(asked.order_by_length())
    latest: list[pd.DataFrame] = []

    def compute_metrics(evaluated: EvalPrediction) -> dict[str, float]:
        latest[:] = [task.decode(validation, asked, inference.as_logits(evaluated.predictions))]
        return task.scores(latest[0])

    by_steps = config.checkpoints is Checkpoints.steps
    # A step has one share of rows for each device: a process with several takes them in turn.
    shares = ranks.world() if config.devices == "auto" else int(config.devices)
    if shares % ranks.world():
        problem = f"trainer.devices={shares} cannot be divided among {ranks.world()} processes"
        raise UsageError("starting the training", problem, "Leave it at auto")
    accumulation = config.gradient_accumulation * shares // ranks.world()
    batch = config.batch_size * accumulation * ranks.world()
    upload = checkpoints.CheckpointUpload(index, loaded.model.num_parameters())
    score = task.score_name if by_steps else None
    schedule = checkpoints.CheckpointSchedule(upload, len(asked) / batch, score)
    sampler = EpochSampler(
        len(training),
        seed,
        training.lengths() if config.group_by_length else None,
        batch,
        task.labels(training.rows) if config.balance_labels else None,
    )
    trainer = RecipeTrainer(
        model=loaded.model,
        task=task,
        config=config,
        sampler=sampler,
        args=inference.trainer_arguments(
            replace(config, gradient_accumulation=accumulation),
            output_dir,
            seed=seed,
            eval_strategy="epoch",
            report_to=["mlflow"] if ranks.is_first() else [],
            save_strategy=config.checkpoints.value.replace("none", "no"),
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
        callbacks=[
            *filter(None, [average]),
            schedule,
            upload,
            ProgressReport(task.score_name),  # last: it measures when the others are done
        ],
    )
    trainer.remove_callback(PrinterCallback)
    if ranks.rank():  # else all processes would drop the same units
        torch.manual_seed(seed + ranks.rank())
    with inference.out_of_memory_explained(config):
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    if schedule.reached:
        raise Stopped(f"step {trainer.state.global_step} of {trainer.state.max_steps}")
    if not latest:  # all steps had been made before the run was continued
        trainer.evaluate()
    if average and average.apply(loaded.model):
        trainer.evaluate(metric_key_prefix="averaged")
    return latest[0], trainer.state


class RecipeTrainer(Trainer):
    """The Trainer with what it has no switch for.

    That is: one loss for all tasks (with label smoothing in training only), a learning rate of its
    own for the head, and batches of like length in training but not in evaluation. Its own switch
    for those (`train_sampling_strategy`) reorders the evaluation too.
    """

    optimizer: Any

    def __init__(
        self, *args: Any, task: Task, config: TrainerConfig, sampler: "EpochSampler", **kw: Any
    ) -> None:
        super().__init__(*args, **kw)
        self.task = task
        self.config = config
        self.sampler = sampler
        # `compute_loss` gives a batch's share of the step's mean: not to be divided by the batches.
        self.model_accepts_loss_kwargs = True

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> "EpochSampler":
        return self.sampler

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], int]:
        """The batches of an optimizer step, and how many labels they have together."""
        batches, _ = super().get_batch_samples(*args, **kwargs)
        return batches, sum(batch["labels"].numel() for batch in batches)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """The task's loss of the model's outputs.

        In training it is the batch's share of the mean over all `num_items_in_batch` labels of the
        optimizer step: the sum over its batches is that mean, also where the last one is smaller.
        """
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        smoothing = self.config.label_smoothing if model.training else 0.0
        wanted = labels.reshape(len(labels), -1).unbind(dim=1)
        loss = self.task.loss(outputs.to_tuple(), wanted, smoothing)
        if model.training and num_items_in_batch is not None:
            loss = loss * (labels.numel() / num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One batch, with a look at its loss; the Trainer by itself goes on with NaN."""
        loss = super().training_step(*args, **kwargs)
        check_loss(loss, self.state.global_step + 1)
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The validation scores; its batches have a size of their own to be lowered."""
        with inference.out_of_memory_explained(self.config, "evaluating"):
            return dict(super().evaluate(*args, **kwargs))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with groups: head and body (with `layer_decay` each layer), with and without decay.

        The first one, whose rate is logged, is that of the last layer.
        """
        if self.optimizer is None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            decayed = set(self.get_decay_parameter_names(self.model))
            body = f"{self.model.base_model_prefix}."
            named = dict(self.model.named_parameters())
            of_body = [name for name in named if name.startswith(body)]
            shares = layer_shares(of_body, self.config.layer_decay)
            groups: dict[tuple[float, bool], dict[str, Any]] = {}
            for name, weights in named.items():
                if weights.requires_grad:
                    share, decays = key = (shares.get(name, 0.0), name in decayed)
                    rate = self.args.learning_rate
                    group: dict[str, Any] = {
                        "params": [],
                        "lr": rate * share or self.config.head_learning_rate or rate,
                        "weight_decay": self.args.weight_decay if decays else 0.0,
                    }
                    groups.setdefault(key, group)["params"].append(weights)
            # The head, whose share is 0, comes last.
            ordered = sorted(groups.items(), key=lambda item: -item[0][0])
            self.optimizer = kind([group for _, group in ordered], **settings)
        return self.optimizer


def check_loss(loss: torch.Tensor, step: int) -> None:
    """Raise `KaggleOpsError` where the loss of an optimizer step is no number: nothing follows."""
    if not bool(torch.isfinite(loss)):
        hint = "Lower trainer.learning_rate, raise trainer.warmup, or train in fp32."
        hint += " The last checkpoint is from before that"
        raise KaggleOpsError(f"training step {step}", f"the loss is {loss.item()}", hint)


@dataclass(eq=False)
class EpochSampler(Sampler[int]):
    """Draws the rows of each epoch anew, by the seed and the epoch.

    With `lengths` (tokens of each row), rows of like length come into one batch of `batch_size`
    rows. With `labels`, all labels are drawn equally often: some rows come more than once.
    """

    size: int
    seed: int
    lengths: Sequence[int] | None = None
    batch_size: int = 1
    labels: pd.Series | None = None
    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch comes next; accelerate's data loader does."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        if self.labels is None:
            drawn = torch.randperm(self.size, generator=generator)
        else:
            shares = 1 / self.labels.map(self.labels.value_counts())
            weights = torch.as_tensor(shares.to_numpy(copy=True))
            drawn = torch.multinomial(weights, self.size, True, generator=generator)
        rows: list[int] = drawn.tolist()
        if self.lengths is None:
            return iter(rows)
        lengths = [self.lengths[row] for row in rows]
        places = get_length_grouped_indices(lengths, self.batch_size, generator=generator)
        return iter([rows[place] for place in places])

    def __len__(self) -> int:
        return self.size
