"""The parts of the 2020 recipe that are ours: heads, sampling, rates, averages, the loss."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModel, DataCollatorWithPadding, TrainerCallback

from competitions.checkpoints import WeightAverage
from competitions.config import compose, read_saved
from competitions.inference import trainer_arguments
from competitions.models import LayersModel, layer_shares, load_model, make_model
from competitions.tasks import load_task
from competitions.train import train_fold
from competitions.training import EpochSampler, RecipeTrainer
from competitions.tweet_sentiment.losses import pair_logits
from kaggleops.errors import UsageError
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


class Gradients(TrainerCallback):
    """Keeps what the optimizer is given."""

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        self.found = {name: weights.grad.clone() for name, weights in model.named_parameters()}


def trainer_of(folder: Path, *overrides: str) -> RecipeTrainer:
    """A trainer of seven rows, without dropout in the encoder."""
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    still = [f"+model.options.{name}=0" for name in names]
    config = compose([*TINY, *still, *overrides]).config
    task = load_task(config.task)
    task.write_sample(folder)
    rows = task.read_train(str(folder))
    rows = rows[rows["sentiment"] != "neutral"].head(7)
    torch.manual_seed(1)
    loaded = make_model(config.model, task, task.texts(rows), config.task.max_length)
    return RecipeTrainer(
        model=loaded.model,
        task=task,
        config=config.trainer,
        sampler=EpochSampler(len(rows), 1),
        args=trainer_arguments(config.trainer, str(folder)),
        train_dataset=task.encode(rows, loaded.tokenizer),
        processing_class=loaded.tokenizer,
        # All batches as long: padding is among the tokens that an answer could begin or end with.
        data_collator=DataCollatorWithPadding(loaded.tokenizer, "max_length", 64),
    )


@pytest.mark.parametrize("head", ["null", "[-1,-2]", "[-1] model.head_pairs=true"])
def test_a_step_in_parts_has_the_gradients_of_one_large_batch(head: str, tmp_path: Path) -> None:
    headed = [*f"model.head_layers={head}".split(), "model.head_dropout=0", "task.jaccard_loss=1"]
    if "pairs" not in head:
        headed.append("trainer.label_smoothing=0.1")

    def step(*overrides: str) -> tuple[dict[str, torch.Tensor], float]:
        one = ["trainer.max_steps=1", "trainer.max_grad_norm=1e9"]
        trainer, gradients = trainer_of(tmp_path, *headed, *one, *overrides), Gradients()
        trainer.add_callback(gradients)
        trainer.train()
        return gradients.found, trainer.state.log_history[0]["loss"]

    wanted, loss = step("trainer.batch_size=7")
    four_and_three = ["trainer.batch_size=4", "trainer.gradient_accumulation=2"]
    variants = [
        four_and_three,
        ["trainer.batch_size=2", "trainer.gradient_accumulation=9"],  # an epoch ends a step
        ["trainer.batch_size=7", "trainer.gradient_checkpointing=true"],
    ]
    for overrides in variants:
        found, same = step(*overrides)
        assert same == pytest.approx(loss, rel=1e-4)
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)


def test_pairs_of_a_first_and_a_last_token(tmp_path: Path) -> None:
    paired = [*TINY, "task.repair_blanks=false", "model.head_layers=[-1]", "model.head_pairs=true"]
    config = compose(paired).config
    torch.manual_seed(1)
    task = load_task(config.task)
    loaded = make_model(config.model, task, ["so happy about it"], 32)
    model = loaded.model.eval()
    assert isinstance(model, LayersModel)
    assert model.pairs is not None
    torch.nn.init.normal_(model.head.weight)
    torch.nn.init.normal_(model.pairs.weight)
    texts = ["so happy about it", "happy"]
    inputs = loaded.tokenizer(["positive"] * 2, texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = pair_logits(*model(**inputs).to_tuple())
        states = model.encoder(**inputs).last_hidden_state
        starts, ends = model.head(states).unbind(-1)
        first, last = model.pairs(states).chunk(2, dim=-1)
    there = int(inputs["attention_mask"][1].sum())
    for row, i, j in [(0, 3, 3), (0, 3, 5), (1, 0, there - 1)]:
        wanted = starts[row, i] + ends[row, j] + first[row, i] @ last[row, j] / 2
        assert found[row, i, j].item() == pytest.approx(wanted.item(), rel=1e-4, abs=1e-4)
    assert found[0, 5, 3] == -torch.inf
    assert found[1, :, there:].max() < -1000  # padding is no answer

    # Answers of two models are those of the mean of their logits, whose vectors it is not.
    rows = pd.DataFrame({"textID": ["a", "b"], "text": texts, "sentiment": ["positive"] * 2})
    examples = task.encode(rows, loaded.tokenizer)
    random = np.random.default_rng(3)
    size = (2, max(examples.lengths()), 5)
    outputs = [(random.normal(size=size), random.normal(size=size)) for _ in range(3)]
    firsts, lasts = task.mean(outputs)
    mean = np.mean([a @ b.transpose(0, 2, 1) for a, b in outputs], axis=0)
    np.testing.assert_allclose(firsts @ lasts.transpose(0, 2, 1), mean)
    table = task.decode(rows, examples, (firsts, lasts))
    assert all(answer in text for answer, text in zip(table["prediction"], texts, strict=True))
    assert table["start_score"].between(0, 1).all()


def test_pairs_are_for_spans() -> None:
    paired = [*TINY, "model.head_layers=[-1]", "model.head_pairs=true"]
    with pytest.raises(UsageError, match="disaster_tweets does not look for a span"):
        train_fold(compose([*paired, "task=disaster_tweets"]))


def test_each_layer_learns_at_a_share_of_the_rate_of_the_one_above(tmp_path: Path) -> None:
    rates = ["trainer.learning_rate=0.1", "trainer.head_learning_rate=0.3"]
    trainer = trainer_of(tmp_path, "trainer.layer_decay=0.5", *rates)
    groups = trainer.create_optimizer().param_groups
    rate_of = {id(weights): group["lr"] for group in groups for weights in group["params"]}
    found = {name: rate_of[id(weights)] for name, weights in trainer.model.named_parameters()}
    wanted = {"embeddings": 0.025, "layer.0.": 0.05, "layer.1.": 0.1, "qa_outputs": 0.3}
    for part, rate in wanted.items():
        for name in [name for name in found if part in name]:
            assert found.pop(name) == pytest.approx(rate)
    assert not found
    assert groups[0]["lr"] == 0.1  # what is logged


def test_the_layers_of_other_architectures() -> None:
    names = ["embed.weight", "encoder.rel_embeddings.weight", "model.layers.0.w", "layers.11.w"]
    shares = layer_shares([*names, "pooler.dense.weight", "model.final_norm.weight"], 0.9)
    below, first = pytest.approx(0.9**12), pytest.approx(0.9**11)
    assert [*shares.values()] == [below, below, first, 1, 1, 1]
    assert set(layer_shares(names, 1.0).values()) == {1}


def test_the_length_that_a_share_of_the_texts_has(
    tracking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_fold(compose([*TINY, "task.max_length=0.7", "trainer.max_steps=1"]))
    printed = re.search(r"max_length (\d+): ([\d.]+)% of the texts whole", capsys.readouterr().out)
    assert printed
    assert int(printed[1]) % 8 == 0
    assert 70 <= float(printed[2]) < 100
    # Predicting is told the length, not the share.
    model = artifacts(tracking, only_run(tracking)) / "model"
    assert read_saved(model / "config.yaml").task.max_length == int(printed[1])
