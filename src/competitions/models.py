"""A task's model and its tokenizer: from the hub, a folder, an installed package, or built anew.

Without `model.pretrained` a small BERT is built from `model.build` and its tokenizer learns from
the texts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import transformers
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from competitions.console import say
from competitions.heads import LayersModel, add_head, from_encoder
from competitions.schema import BuildConfig, ModelConfig
from competitions.tasks import Task
from competitions.weights import FROM_THE_HUB, find_weights
from kaggleops.errors import KaggleOpsError, UsageError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass
class LoadedModel:
    """A model, its tokenizer, and in words where they come from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str

    def parameters(self) -> str:
        """How many weights it has: "22.6 M parameters"."""
        return f"{self.model.num_parameters() / 1e6:.2g} M parameters"


def make_model(
    config: ModelConfig, task: Task, texts: Iterable[str], max_length: int
) -> LoadedModel:
    """The model that `config` describes, with the head that `task` needs.

    The weights of a new head, or of a new model, come from torch's random state: seed it first.

    Args:
        config: the choice of a model.
        task: what it is for.
        texts: what the tokenizer of a model that is built anew learns from.
        max_length: tokens that one input may have, special ones included.

    Raises:
        UsageError: where the folder holds no model, or the tokenizer gives no offsets.
        KaggleOpsError: where the hub cannot be reached or knows no such model.
    """
    if config.pretrained is None:
        assert config.build is not None  # noqa: S101 - ModelConfig.check has seen to it
        tokenizer = learn_tokenizer(texts, config.build.vocab_size)
        encoder = _encoder_config(config.build, tokenizer, max_length)
        encoder.num_labels = task.num_labels
        if config.head_layers:
            add_head(encoder, list(config.head_layers), config.head_dropout, task.model_class)
            model: PreTrainedModel = LayersModel(encoder)
        else:
            model = getattr(transformers, task.model_class).from_config(encoder)
        return LoadedModel(model, tokenizer, "built from its configuration")
    place, source = find_weights(config.pretrained, config.packages)
    if source == FROM_THE_HUB:
        say(f"loading {place} {source}")
    return load_model(place, task, source, config)


def load_model(place: str, task: Task, source: str, head: ModelConfig | None = None) -> LoadedModel:
    """Load a model with the head that `task` needs.

    Args:
        place: a local folder, or a name on the hub.
        task: what it is for.
        source: where it comes from, in words.
        head: says whether the encoder gets a new head; None: the saved model as it is.

    Raises:
        UsageError: where the folder holds no model, or the tokenizer gives no offsets.
        KaggleOpsError: where the hub cannot be reached or knows no such model.
    """
    doing = f"loading {place}"
    if Path(place).is_dir() and not (Path(place) / "config.json").is_file():
        hint = "It needs config.json, model.safetensors and the tokenizer's files"
        raise UsageError(doing, "the folder holds no model: config.json is missing", hint)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
        if not tokenizer.is_fast:
            problem = f"its tokenizer ({type(tokenizer).__name__}) gives no character offsets"
            raise UsageError(doing, problem, "Use a model with a fast tokenizer (tokenizer.json)")
        model = _with_head(place, task, head)
    except (OSError, ValueError) as error:
        hint = "Load it once with transformers to see more"
        raise KaggleOpsError(doing, str(error).strip().splitlines()[0], hint) from None
    return LoadedModel(model, tokenizer, source)


def _with_head(place: str, task: Task, head: ModelConfig | None) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(place)
    if head is not None:
        config.num_labels = task.num_labels
        if head.head_layers:
            add_head(config, list(head.head_layers), head.head_dropout, task.model_class)
            return from_encoder(place, config)
    elif getattr(config, "head_layers", None):
        if config.head_task != task.model_class:
            problem = f"it was trained with {config.head_task}, the task needs {task.model_class}"
            raise UsageError(f"loading {place}", problem)
        return LayersModel.from_pretrained(place, config=config)
    return getattr(transformers, task.model_class).from_pretrained(place, config=config)


def learn_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A lower-casing BERT-like tokenizer whose word pieces are learnt from `texts`.

    Byte-pair merges, because tokenizers' WordPiece trainer gives another vocabulary at each run
    (seen in 0.23), which would make the scores of a run unrepeatable.
    """
    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))  # noqa: S106 - a token of text
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    pad, unk, cls, sep, mask = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        unk_token=unk,
        cls_token=cls,
        sep_token=sep,
        mask_token=mask,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _encoder_config(
    build: BuildConfig, tokenizer: PreTrainedTokenizerFast, max_length: int
) -> BertConfig:
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=build.hidden_size,
        num_hidden_layers=build.layers,
        num_attention_heads=build.heads,
        intermediate_size=2 * build.hidden_size,
        max_position_embeddings=max_length,
        pad_token_id=tokenizer.pad_token_id,
    )
