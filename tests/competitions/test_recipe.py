"""The parts of the 2020 recipe that are ours: heads, sampling, rates, averages, the loss."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModel

from competitions.checkpoints import WeightAverage
from competitions.config import compose
from competitions.models import LayersModel, load_model, make_model
from competitions.tasks import load_task
from competitions.train import train_fold
from competitions.training import EpochSampler
from tests.competitions.launching import artifacts, client, only_run

LABELS = pd.Series(["a"] * 90 + ["b"] * 10)
TINY = ["trainer=fast", "data.rows=60", "model.build.hidden_size=16", "model.build.layers=2"]


def epoch(sampler: EpochSampler, number: int) -> list[int]:
    sampler.set_epoch(number)
    return list(sampler)


def test_every_row_comes_once_an_epoch_in_an_order_of_its_own() -> None:
    lengths = [row % 17 + 1 for row in range(100)]
    for sampler in (EpochSampler(100, 1), EpochSampler(100, 1, lengths, 8)):
        first = epoch(sampler, 0)
        assert sorted(first) == list(range(100))
        assert epoch(sampler, 1) != first
        assert epoch(sampler, 0) == first
    assert epoch(EpochSampler(100, 2), 0) != epoch(EpochSampler(100, 1), 0)


def test_batches_hold_rows_of_like_length() -> None:
    lengths = [(row * 7) % 50 + 1 for row in range(400)]

    def padding(sampler: EpochSampler) -> int:
        rows = epoch(sampler, 0)
        batches = [[lengths[row] for row in rows[i : i + 8]] for i in range(0, 400, 8)]
        return sum(max(batch) * len(batch) - sum(batch) for batch in batches)

    assert padding(EpochSampler(400, 1, lengths, 8)) < padding(EpochSampler(400, 1)) / 3


def test_labels_are_drawn_equally_often() -> None:
    sampler = EpochSampler(100, 1, [1] * 100, 8, LABELS)
    drawn = Counter(LABELS[row] for number in range(20) for row in epoch(sampler, number))
    assert drawn.total() == 2000
    assert abs(drawn["a"] - 1000) < 150


@pytest.mark.parametrize("task_name", ["tweet_sentiment", "disaster_tweets"])
def test_a_head_reads_the_layers_it_is_told(task_name: str, tmp_path: Path) -> None:
    overrides = [f"task={task_name}", *TINY, "model.head_layers=[-1,0]"]
    config = compose(overrides).config
    task = load_task(config.task)
    loaded = make_model(config.model, task, ["so happy"], config.task.max_length)
    model = loaded.model.eval()
    inputs = loaded.tokenizer(["so happy", "happy"], padding=True, return_tensors="pt")
    before = [logits.clone() for logits in model(**inputs).to_tuple()]
    assert {len(logits) for logits in before} == {2}

    loaded.model.save_pretrained(tmp_path / "model")
    loaded.tokenizer.save_pretrained(tmp_path / "model")
    again = load_model(str(tmp_path / "model"), task, "").model.eval()
    for first, second in zip(before, again(**inputs).to_tuple(), strict=True):
        torch.testing.assert_close(first, second)

    # The second half of the head's weights is for the embeddings, which no encoder layer changes.
    assert isinstance(again, LayersModel)
    with torch.no_grad():
        again.head.weight[:, :16] = 0
        for weights in again.encoder.encoder.parameters():
            weights.zero_()
    states = again.encoder(**inputs, output_hidden_states=True).hidden_states[0]
    wanted = states @ again.head.weight[:, 16:].T + again.head.bias
    found = torch.stack(again(**inputs).to_tuple(), -1)
    if task_name == "disaster_tweets":
        wanted, found = wanted[:, 0], found[..., 0]
    torch.testing.assert_close(found, wanted)

    # A new head on weights that are there keeps the encoder's.
    encoder = AutoModel.from_pretrained(tmp_path / "model")
    encoder.save_pretrained(tmp_path / "encoder")
    loaded.tokenizer.save_pretrained(tmp_path / "encoder")
    fresh = compose([*overrides, f"model.pretrained={tmp_path}/encoder"]).config.model
    new = make_model(fresh, task, [], config.task.max_length).model
    assert isinstance(new, LayersModel)
    for name, weights in new.encoder.embeddings.named_parameters():
        torch.testing.assert_close(weights, encoder.embeddings.get_parameter(name))


def test_the_average_is_the_mean_of_the_weights() -> None:
    from types import SimpleNamespace

    model = torch.nn.Linear(1, 1)
    average = WeightAverage(0.5)
    for step, value in enumerate((9.0, 9.0, 1.0, 2.0), start=1):
        torch.nn.init.constant_(model.weight, value)
        state = SimpleNamespace(global_step=step, max_steps=4)
        average.on_step_end(None, state, None, model=model)  # type: ignore[arg-type]
    assert average.apply(model)  # type: ignore[arg-type]
    assert model.weight.item() == 1.5


def test_the_recipe_is_followed(tracking: Path) -> None:
    recipe = [
        "trainer.head_learning_rate=1e-2",
        "trainer.schedule=cosine",
        "trainer.label_smoothing=0.2",
        "trainer.average_from=0",
        "trainer.max_steps=3",
        "model.head_layers=[-1,-2]",
    ]
    train_fold(compose([*TINY, *recipe, "trainer.learning_rate=1e-30"]))
    run_id = only_run(tracking)
    metrics = client(tracking).get_run(run_id).data.metrics
    # The body all but stands still; what has moved is the head.
    assert "averaged_jaccard" in metrics
    trained = artifacts(tracking, run_id) / "model"
    config = compose([*TINY, *recipe]).config
    task = load_task(config.task)
    head = load_model(str(trained), task, "").model
    assert isinstance(head, LayersModel)
    assert head.head.bias.abs().max() > 1e-3
    norms = [w for n, w in head.encoder.named_parameters() if "LayerNorm.weight" in n]
    assert all(torch.equal(weights, torch.ones_like(weights)) for weights in norms)
