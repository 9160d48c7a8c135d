"""A task's model and its tokenizer: from the hub, a folder, an installed package, or built anew.

Without `model.pretrained` a small model of `model.architecture` is built from `model.build` and its
tokenizer learns from the texts. Where `model.head_layers` names layers, the encoder gets the head
of the 2020 recipe, a linear layer over dropout over these layers' hidden states side by side; else
its architecture's.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import QuestionAnsweringModelOutput, SequenceClassifierOutput

from competitions.console import say
from competitions.schema import ModelConfig
from competitions.tasks import Task
from competitions.weights import FROM_THE_HUB, find_weights
from kaggleops.errors import KaggleOpsError, UsageError, first_line

# Tokens that a model is built for where `task.max_length` is a share of the texts.
LONGEST = 512
# The transformers class of a task whose answer is a span.
SPANS = "AutoModelForQuestionAnswering"
# A logit of what is no answer; also fp16 can hold it.
NEVER = -1e4
# In how many dimensions a pair of a first and a last token is compared.
PAIR = 64
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

    def longest(self) -> int:
        """How many tokens an input may have, its special tokens among them."""
        # RoBERTa has two positions more than it can use.
        positions = getattr(self.model.config, "max_position_embeddings", LONGEST) // 8 * 8
        return int(min(self.tokenizer.model_max_length, positions or LONGEST))


def make_model(
    config: ModelConfig, task: Task, texts: Iterable[str], max_length: float
) -> LoadedModel:
    """The model that `config` describes, with the head that `task` needs.

    The weights of a new head, or of a new model, come from torch's random state: seed it first.
    The tokenizer of a new model learns from `texts`; `max_length` counts the special tokens of an
    input, too; below 1 it is not known yet. Raises what `load_model` does.
    """
    if config.pretrained is not None:
        place, source = find_weights(config.pretrained, config.packages)
        if source == FROM_THE_HUB:
            say(f"loading {place} {source}")
        return load_model(place, task, source, config)
    build = config.build
    assert build is not None  # noqa: S101 - ModelConfig.check has seen to it
    tokenizer = learn_tokenizer(texts, build.vocab_size)
    architecture = config.architecture or "bert"
    # RoBERTa and its kin count positions from behind the padding's id.
    behind = 0 if architecture == "bert" else 1 + int(tokenizer.pad_token_id)
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": build.hidden_size,
        "num_hidden_layers": build.layers,
        "num_attention_heads": build.heads,
        "intermediate_size": 2 * build.hidden_size,
        "max_position_embeddings": (int(max_length) if max_length >= 1 else LONGEST) + behind,
        "pad_token_id": tokenizer.pad_token_id,
        "num_labels": task.num_labels,
    }
    try:
        encoder = AutoConfig.for_model(architecture, **settings | config.options)
    except ValueError:
        problem = f"transformers has no architecture {architecture}"
        hint = "Give the model_type of a model's config.json: model.architecture=deberta-v2"
        raise UsageError("building the model", problem, hint) from None
    if getattr(encoder, "type_vocab_size", 0) < 2:
        tokenizer.model_input_names.remove("token_type_ids")
    if config.head_layers:
        _describe_head(encoder, config, task)
        model: PreTrainedModel = LayersModel(encoder)
    else:
        model = getattr(transformers, task.model_class).from_config(encoder)
    return LoadedModel(model, tokenizer, "built from its configuration")


def load_model(place: str, task: Task, source: str, head: ModelConfig | None = None) -> LoadedModel:
    """Load a model with the head that `task` needs from a local folder or, by its name, the hub.

    `source` is where it comes from, in words. `head` says whether the encoder gets a new head; None
    is the saved model as it is. Raises UsageError where the folder holds no model, or the tokenizer
    gives no offsets; KaggleOpsError where the hub cannot be reached or knows no such model.
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
        return LoadedModel(_with_head(place, task, head), tokenizer, source)
    except (ImportError, OSError, ValueError) as error:
        problem, hint = first_line(error), "Load it once with transformers to see more"
        # What transformers tries last is what it complains of.
        if re.search("tiktoken|sentencepiece", problem) and not find_spec("sentencepiece"):
            problem = "its tokenizer cannot be made without the package sentencepiece"
            hint = "Install it: pip install sentencepiece protobuf"
        raise KaggleOpsError(doing, problem, hint) from None


def _with_head(place: str, task: Task, head: ModelConfig | None) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(place, **(head.options if head else {}))
    if head is not None:
        config.num_labels = task.num_labels
        if head.head_layers:
            _describe_head(config, head, task)
            model = LayersModel(config)
            model.encoder = AutoModel.from_pretrained(place, config=config, dtype=torch.float32)
            model.drop_pooler()
            return model
    elif getattr(config, "head_layers", None):
        if config.head_task != task.model_class:
            problem = f"it was trained with {config.head_task}, the task needs {task.model_class}"
            raise UsageError(f"loading {place}", problem)
        return LayersModel.from_pretrained(place, config=config)
    # DeBERTa v3 lies on the hub in fp16. Mixed precision steps weights in fp32, and without it half
    # the numbers' digits are lost at each step.
    kind = getattr(transformers, task.model_class)
    return kind.from_pretrained(place, config=config, dtype=torch.float32)


def layer_shares(names: Iterable[str], decay: float) -> dict[str, float]:
    """The share of the learning rate that each weight of an encoder, by its name, is given.

    The last layer and what comes behind it have all of it, each layer `decay` of what the one above
    has, and what comes before the layers `decay` of the first one.
    """
    found = {name: re.search(r"layers?\.(\d+)\.", name) for name in names}
    layers = {name: int(match[1]) for name, match in found.items() if match}
    last = max(layers.values(), default=0)
    behind = {name: last for name in found if re.search("pooler|final", name)}
    return {name: decay ** (last - (behind | layers).get(name, -1)) for name in found}


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
    names = [f"{token.strip('[]').lower()}_token" for token in SPECIAL_TOKENS]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **dict(zip(names, SPECIAL_TOKENS, strict=True)),
    )


def _describe_head(encoder: PretrainedConfig, config: ModelConfig, task: Task) -> None:
    layers, deepest = list(config.head_layers or []), int(encoder.num_hidden_layers)
    if any(not -deepest - 1 <= layer <= deepest for layer in layers):
        problem = f"model.head_layers={layers}, and the encoder has {deepest} layers"
        hint = f"Choose from -{deepest + 1} (the embeddings) to -1 (the last layer)"
        raise UsageError("putting a head on the model", problem, hint)
    encoder.head_layers, encoder.head_dropout = layers, config.head_dropout
    encoder.head_pairs = config.head_pairs
    if config.head_pairs and task.model_class != SPANS:
        problem = f"model.head_pairs=true, and {task.config.name} does not look for a span"
        raise UsageError("putting a head on the model", problem)
    encoder.head_task = task.model_class


class LayersModel(PreTrainedModel):
    """Logits from the hidden states of chosen layers.

    An encoder's `config` says which: `head_layers` (indices), `head_dropout` and `head_task` (a
    transformers class: `AutoModelForQuestionAnswering` for a first and a last token, else one
    answer for the whole text). With `head_pairs`, a token has vectors instead of logits, of shape
    (rows, tokens, PAIR + 2): the logit of a span is the product of those of its first and its last
    token. (All spans' logits would be as many as the square of the tokens.)
    """

    config_class = PretrainedConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.encoder = AutoModel.from_config(config)
        self.drop_pooler()
        self.dropout = nn.Dropout(config.head_dropout)
        self.spans = config.head_task == SPANS
        outputs, size = 2 if self.spans else config.num_labels, config.hidden_size
        self.head = nn.Linear(size * len(config.head_layers), outputs)
        self.pairs: nn.Linear | None = None
        if getattr(config, "head_pairs", False):
            self.pairs = nn.Linear(size * len(config.head_layers), 2 * PAIR)
        self.post_init()

    def drop_pooler(self) -> None:
        """Leave out what BERT has behind its last layer; weights nobody uses upset multi-GPU."""
        if hasattr(self.encoder, "pooler"):
            self.encoder.pooler = None

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear) and module in (self.head, self.pairs):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput | QuestionAnsweringModelOutput:
        """Logits of shape (rows, tokens), or vectors, for spans; else of shape (rows, labels)."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        encoded = self.encoder(
            input_ids, attention_mask=attention_mask, output_hidden_states=True, **types
        )
        layers = [encoded.hidden_states[layer] for layer in self.config.head_layers]
        states = torch.cat(layers, dim=-1)
        if not self.spans:
            return SequenceClassifierOutput(logits=self.head(self.dropout(states[:, 0])))
        states = self.dropout(states)
        start, end = self.head(states).unbind(dim=-1)
        if self.pairs:
            if attention_mask is not None:
                start = start.masked_fill(attention_mask == 0, NEVER)
                end = end.masked_fill(attention_mask == 0, NEVER)
            first, last = self.pairs(states).chunk(2, dim=-1)
            start, end, one = start[..., None], end[..., None], torch.ones_like(start)[..., None]
            start = torch.cat([first / 2, start, one], dim=-1)
            end = torch.cat([last, one, end], dim=-1)
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)
