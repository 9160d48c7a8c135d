"""Which rows the Trainer gives a process, batch by batch."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification

from competitions import ranks
from competitions.config import compose
from competitions.inference import trainer_arguments
from competitions.training import EpochSampler, RecipeTrainer


class Rows(torch.utils.data.Dataset[int]):
    """Each row is its own number."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index


def draw(size: int, batch: int) -> list[list[list[int]]]:
    """The rows of each batch of two epochs, for this process; `batch` is its share of a step."""
    config = replace(compose(["trainer=fast"]).config.trainer, batch_size=batch)
    tiny = BertConfig(vocab_size=1, hidden_size=1, num_attention_heads=1, num_hidden_layers=1)
    lengths = [1 + 7 * row % 13 for row in range(size)]
    with TemporaryDirectory() as folder:
        ranks.wait_for_all()
        trainer = RecipeTrainer(
            model=BertForSequenceClassification(tiny),
            task=None,
            config=config,
            sampler=EpochSampler(size, 5, lengths, batch * ranks.world()),
            args=trainer_arguments(config, folder),
            train_dataset=Rows(size),
            data_collator=list,
        )
        loader: Any = trainer.get_train_dataloader()
        epochs = []
        for epoch in range(2):
            loader.set_epoch(epoch)
            epochs.append([list(rows) for rows in loader])
        return epochs


if __name__ == "__main__":
    how, *arguments = sys.argv[1:]
    if how == "launch":
        ranks.launch(2, "tests.competitions.drawing", ["draw", *arguments])
    else:
        rows, share, to = arguments
        drawn = draw(int(rows), int(share))
        Path(to, f"{ranks.rank()}.json").write_text(json.dumps(drawn))
