"""A training with the Hugging Face Trainer that may take longer than a session (docs/long.md)."""

import sys
from pathlib import Path
from typing import Any

import mlflow
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

import kaggleops

STEPS = int(float(sys.argv[1]))
RESERVE = 300  # seconds: for the slowest step, the checkpoint on its way, and the process's end
NAME = "checkpoints"
LAST = f"{NAME}/last.txt"  # the name of the last one that is there as a whole


class StopInTime(TrainerCallback):
    """Ends the training with a checkpoint before the session ends, and sends every checkpoint."""

    to_be_continued = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the time after each step."""
        left = kaggleops.time_left()
        if left is not None and left < RESERVE and state.global_step < state.max_steps:
            self.to_be_continued = control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Send what was saved, and then say so."""
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        mlflow.log_artifacts(str(folder), f"{NAME}/{folder.name}")
        mlflow.log_text(folder.name, LAST)


def last_checkpoint(run_id: str) -> str | None:
    """Fetch the run's last checkpoint; None if it has none."""
    if LAST not in [file.path for file in mlflow.MlflowClient().list_artifacts(run_id, NAME)]:
        return None
    name = mlflow.artifacts.load_text(f"runs:/{run_id}/{LAST}")
    return mlflow.artifacts.download_artifacts(f"runs:/{run_id}/{NAME}/{name}")


set_seed(7)
config = BertConfig(
    vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
)
texts = torch.randint(100, (256, 12))
rows = [{"input_ids": text, "labels": int(text.sum()) % 2} for text in texts]
arguments = TrainingArguments(
    "out",
    max_steps=STEPS,
    per_device_train_batch_size=8,
    logging_steps=1,
    save_steps=100,  # for a machine that vanishes
    report_to=["mlflow"],
    disable_tqdm=True,
)
stop = StopInTime()
with mlflow.start_run() as run:
    trainer = Trainer(
        BertForSequenceClassification(config), arguments, train_dataset=rows, callbacks=[stop]
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(run.info.run_id))
    if stop.to_be_continued:
        sys.exit(kaggleops.TO_BE_CONTINUED)
    trainer.save_model("model")
    mlflow.log_artifacts("model", "model")
