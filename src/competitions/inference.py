"""What a model puts out for rows, and what the Hugging Face Trainer is told in every use of it.

Nothing here needs MLflow: predicting works with the internet off and on a bare machine.
"""

from typing import Any, cast

import numpy as np
import torch
from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

from competitions.device import pick_precision
from competitions.limits import out_of_memory_explained
from competitions.models import LoadedModel
from competitions.schema import Precision, TrainerConfig
from competitions.tasks import Examples, Logits


def predict(
    loaded: LoadedModel, examples: Examples, config: TrainerConfig, output_dir: str
) -> Logits:
    """What the model puts out for `examples`, in their order; see `competitions.tasks.Logits`.

    Args:
        loaded: the model and its tokenizer.
        examples: rows, with or without labels.
        config: says the batch size and the precision.
        output_dir: an existing folder for what the Trainer writes.

    Raises:
        KaggleOpsError: where there is not enough memory for a batch.
    """
    if not len(examples):
        return ()
    trainer = Trainer(
        model=loaded.model,
        args=trainer_arguments(config, output_dir),
        data_collator=DataCollatorWithPadding(loaded.tokenizer),
    )
    trainer.remove_callback(PrinterCallback)
    order = examples.order_by_length()
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
        bf16=precision is Precision.bf16,
        fp16=precision is Precision.fp16,
        logging_steps=config.log_every,
        label_names=["labels"],
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        logging_nan_inf_filter=False,
        **{"report_to": [], "save_strategy": "no", **more},
    )


def as_logits(predictions: Any) -> Logits:
    """One array for each output, also where the Trainer gives the only one as it is."""
    return tuple(predictions) if isinstance(predictions, tuple | list) else (predictions,)
