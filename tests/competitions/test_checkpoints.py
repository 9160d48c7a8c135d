"""A training that is interrupted goes on where it was, on whatever machine."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from competitions import runs
from competitions.checkpoints import (
    CheckpointSchedule,
    CheckpointUpload,
    check_fits,
    fetch_last,
    read_index,
)
from competitions.config import Settings, compose
from competitions.console import Stopped
from competitions.inference import out_of_memory_explained, predict
from competitions.models import make_model
from competitions.tasks import load_task
from competitions.train import train_fold
from competitions.training import check_loss, train
from kaggleops.errors import KaggleOpsError
from kaggleops.session_end import SESSION_ENDS
from tests.competitions.launching import artifacts, client, only_run

# Everything that has a state: dropout, drawn rows, two batches a step, averaged weights.
OVERRIDES = [
    "trainer=fast",
    "data.rows=60",
    "trainer.max_steps=6",
    "trainer.gradient_accumulation=2",
    "trainer.balance_labels=true",
    "trainer.average_from=0.3",
    "trainer.checkpoints=epoch",
    "model.head_layers=[-1,-2]",
]


def settings(*more: str) -> Settings:
    return compose([*OVERRIDES, *more])


# In an epoch, at its end, and in the next one; an epoch has two steps.
@pytest.mark.parametrize(
    "steps", [[1, 2, 3], pytest.param([1, 2, 3, 4, 5], marks=pytest.mark.slow)]
)
def test_interrupted_after_each_step_equals_uninterrupted(
    steps: list[int],
    tracking: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole_scores = train_fold(settings())
    whole = only_run(tracking)

    part = client(tracking).create_run("0").info.run_id
    for step in steps:
        monkeypatch.setenv("MLFLOW_RUN_ID", part)
        monkeypatch.setenv(SESSION_ENDS, "0")
        with pytest.raises(Stopped, match=f"at step {step} of 6, with a checkpoint in run {part}"):
            train_fold(settings())
        assert client(tracking).get_run(part).info.status == "SCHEDULED"
    monkeypatch.setenv("MLFLOW_RUN_ID", part)
    monkeypatch.delenv(SESSION_ENDS)
    assert train_fold(settings()) == whole_scores
    assert capsys.readouterr().out.count(f"continuing run {part} from checkpoint-") == len(steps)

    for name in ("model/model.safetensors", "oof.csv"):
        first, second = (artifacts(tracking, run) / name for run in (whole, part))
        assert first.read_bytes() == second.read_bytes(), name
    for key in ("loss", "learning_rate", "grad_norm", "eval_loss", "averaged_jaccard"):
        histories = (client(tracking).get_metric_history(run, key) for run in (whole, part))
        # In any order: the Trainer's callback logs in threads.
        first, second = (sorted((point.step, point.value) for point in each) for each in histories)
        assert first == second, key
        assert first

    # The best and the last one are kept, and nothing else.
    index = json.loads((artifacts(tracking, part) / "checkpoints" / "index.json").read_text())
    kept = {path.name for path in (artifacts(tracking, part) / "checkpoints").glob("checkpoint-*")}
    assert kept == set(index)
    assert 1 <= len(kept) <= 2
    assert "checkpoint-6" in kept

    # A run that has made all its steps only evaluates again.
    monkeypatch.setenv("MLFLOW_RUN_ID", part)
    assert train_fold(settings()) == whole_scores


def test_a_leg_ends_in_time_though_a_checkpoint_takes_minutes(
    tracking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which a step takes a minute, an evaluation ten, and a checkpoint twenty."""
    now = 0.0

    def passes(seconds: float) -> None:
        nonlocal now
        now += seconds
        monkeypatch.setenv(SESSION_ENDS, str(time.time() + ends - now))

    args = TrainingArguments(str(tracking), report_to=[])
    state, ends = TrainerState(max_steps=1000), 12 * 3600.0
    with runs.active_run():
        upload = CheckpointUpload({}, 1_000_000, lambda: now)
        schedule = CheckpointSchedule(upload, 5)
        handler = CallbackHandler([schedule, upload], None, None, None, None)
        while not (control := TrainerControl()).should_training_stop and not schedule.reached:
            handler.on_step_begin(args, state, control)
            passes(60)
            state.global_step += 1
            state.epoch = state.global_step / 100
            handler.on_step_end(args, state, control)
            if not state.global_step % 100:
                passes(600)
                handler.on_evaluate(args, state, control, metrics={})
                handler.on_epoch_end(args, state, control)
                control.should_save = True
            if control.should_save:
                folder = tracking / f"checkpoint-{state.global_step}"
                folder.mkdir()
                (folder / "weights").write_bytes(b"12345")
                passes(1200)  # most of it to send it
                handler.on_save(args, state, control)
                assert schedule.upload.seconds == 1200
    assert now < ends
    # The time that is left would have been enough for a few steps, and not for an evaluation.
    assert ends - now < 60 + 60 + 600 + 0.5 * 1200 + 60
    assert state.global_step > 500


def test_checkpoints_by_steps_keep_the_best_and_the_last_one(tracking: Path) -> None:
    """An epoch has two steps. Nothing is learnt, so no epoch is better than the first."""
    steps = ["trainer.checkpoints=steps", "trainer.checkpoint_steps=6"]
    overrides = [each for each in OVERRIDES if not each.startswith("trainer.checkpoints")]
    train_fold(compose([*overrides, *steps, "trainer.learning_rate=1e-30"]))
    run_id = only_run(tracking)
    assert list(read_index(run_id)) == ["checkpoint-6", "checkpoint-2"]
    # Both are from after the evaluation, which draws from the random state that goes on from there.
    for step in (2, 6):
        folder = artifacts(tracking, run_id) / "checkpoints" / f"checkpoint-{step}"
        state = json.loads((folder / "trainer_state.json").read_text())
        assert state["best_global_step"] == 2
        evaluated = [each["step"] for each in state["log_history"] if "eval_jaccard" in each]
        assert evaluated == list(range(2, step + 1, 2))


def test_a_checkpoint_that_is_not_whole_is_passed_over(
    tracking: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with runs.active_run() as run_id:
        pass
    folder = artifacts(tracking, run_id) / "checkpoints"
    for name in ("checkpoint-2", "checkpoint-1"):
        (folder / name).mkdir(parents=True)
        (folder / name / "weights").write_bytes(b"12345")
    index = {name: {"weights": 5} for name in ("checkpoint-2", "checkpoint-1")}
    (folder / "index.json").write_text(json.dumps(index))
    assert read_index(run_id) == index

    (folder / "checkpoint-2" / "weights").write_bytes(b"123")
    found = fetch_last(run_id, index, tracking)
    assert found is not None
    assert found.name == "checkpoint-1"
    assert "checkpoint-2" in capsys.readouterr().err
    (folder / "checkpoint-1" / "weights").unlink()
    (tracking / "elsewhere").mkdir()
    assert fetch_last(run_id, index, tracking / "elsewhere") is None


def test_a_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    config = settings().config
    loaded = make_model(config.model, load_task(config.task), ["so happy"], config.task.max_length)
    loaded.model.save_pretrained(tmp_path)
    check_fits(tmp_path, loaded.model)
    weights = load_file(tmp_path / "model.safetensors")
    name = sorted(weights)[0]
    save_file(weights | {name: weights[name][:1].contiguous()}, tmp_path / "model.safetensors")
    with pytest.raises(KaggleOpsError, match=f"another architecture: its {name} has"):
        check_fits(tmp_path, loaded.model)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tracking: Path) -> None:
    more = ["trainer.learning_rate=1e38", "trainer.warmup=0", "trainer.max_grad_norm=1e38"]
    kept = ["trainer.checkpoints=steps", "trainer.checkpoint_steps=1"]
    overrides = [each for each in OVERRIDES if not each.startswith("trainer.checkpoints")]
    with pytest.raises(KaggleOpsError, match=r"training step \d: the loss is .* Lower trainer\.le"):
        train_fold(compose([*overrides, *more, *kept]))
    run_id = only_run(tracking)
    assert client(tracking).get_run(run_id).info.status == "FAILED"
    assert "checkpoint-1" in read_index(run_id)


def test_a_loss_is_looked_at() -> None:
    check_loss(torch.tensor(1.0), 3)
    for value in ("nan", "inf"):
        with pytest.raises(KaggleOpsError, match=f"training step 3: the loss is {value}"):
            check_loss(torch.tensor(float(value)), 3)


def test_too_little_memory_names_the_batch() -> None:
    config = settings("trainer.batch_size=48").config.trainer
    with (
        pytest.raises(
            KaggleOpsError,
            match=r"batch_size=48\. Try trainer\.batch_size=24 trainer\.gradient_accumulation=4",
        ),
        out_of_memory_explained(config),
    ):
        torch.empty(2**55)
    with pytest.raises(RuntimeError, match="size"), out_of_memory_explained(config):
        torch.ones(2) @ torch.ones(3)
    alone = settings("trainer.batch_size=1").config.trainer
    with (
        pytest.raises(KaggleOpsError, match=r"batch_size=1\. Use a smaller model, or fewer tokens"),
        out_of_memory_explained(alone),
    ):
        torch.empty(2**55)


def need_more_memory_than_there_is(model: torch.nn.Module, inputs: Any) -> None:
    if not model.training:
        torch.empty(2**55)


def test_too_little_memory_without_learning_names_the_other_batch(tracking: Path) -> None:
    config = compose(["trainer=fast", "trainer.max_steps=1", "trainer.epochs=1"]).config
    task, trainer = load_task(config.task), config.trainer
    task.write_sample(tracking)
    rows = task.read_train(str(tracking)).head(20)
    loaded = make_model(config.model, task, task.texts(rows), config.task.max_length)
    loaded.model.register_forward_pre_hook(need_more_memory_than_there_is)
    examples = task.encode(rows, loaded.tokenizer)
    lower = r"out of memory with trainer\.eval_batch_size=128\. Try trainer\.eval_batch_size=64, "
    with pytest.raises(KaggleOpsError, match=f"^predicting: {lower}"):
        predict(loaded, examples, trainer)
    with (
        runs.active_run() as run_id,
        pytest.raises(KaggleOpsError, match=f"^evaluating: {lower}"),
    ):
        train(loaded, task, examples, rows, trainer, 1, str(tracking), run_id)
