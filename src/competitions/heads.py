"""An encoder with a head of its own that reads several of its layers side by side.

The 2020 recipe: a linear layer over dropout over the concatenated hidden states. It is used where
`model.head_layers` names layers; else the architecture's own head is.
"""

import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import (
    ModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
)

from kaggleops.errors import UsageError

SPANS = "AutoModelForQuestionAnswering"


def add_head(config: PretrainedConfig, layers: list[int], dropout: float, task: str) -> None:
    """Write into an encoder's configuration what `LayersModel` needs.

    Raises:
        UsageError: for a layer that the encoder has not.
    """
    deepest: int = config.num_hidden_layers
    for layer in layers:
        if not -deepest - 1 <= layer <= deepest:
            problem = f"model.head_layers={layers}, and the encoder has {deepest} layers"
            hint = f"Choose from -{deepest + 1} (the embeddings) to -1 (the last layer)"
            raise UsageError("putting a head on the model", problem, hint)
    config.head_layers, config.head_dropout, config.head_task = layers, dropout, task


def from_encoder(place: str, config: PretrainedConfig) -> "LayersModel":
    """A model with a new head on the encoder in `place`, a folder or a name on the hub."""
    model = LayersModel(config)
    model.encoder = AutoModel.from_pretrained(place, config=config)
    model.drop_pooler()
    return model


class LayersModel(PreTrainedModel):
    """Logits from the hidden states of chosen layers.

    Args:
        config: an encoder's, with the further attributes `head_layers` (which layers, as indices),
            `head_dropout` and `head_task` (a transformers class: `AutoModelForQuestionAnswering`
            for a first and a last token, else one answer for the whole text).
    """

    config_class = PretrainedConfig
    base_model_prefix = "encoder"

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.encoder = AutoModel.from_config(config)
        self.drop_pooler()
        self.dropout = nn.Dropout(config.head_dropout)
        self.spans = config.head_task == SPANS
        outputs = 2 if self.spans else config.num_labels
        self.head = nn.Linear(config.hidden_size * len(config.head_layers), outputs)
        self.post_init()

    def drop_pooler(self) -> None:
        """Leave out what BERT has behind its last layer; weights nobody uses upset multi-GPU."""
        if hasattr(self.encoder, "pooler"):
            self.encoder.pooler = None

    def _init_weights(self, module: nn.Module) -> None:
        if module is self.head:
            nn.init.normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> ModelOutput:
        """Logits of shape (rows, tokens) for spans, else (rows, labels)."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        encoded = self.encoder(
            input_ids, attention_mask=attention_mask, output_hidden_states=True, **types
        )
        layers = [encoded.hidden_states[layer] for layer in self.config.head_layers]
        states = torch.cat(layers, dim=-1)
        if not self.spans:
            return SequenceClassifierOutput(logits=self.head(self.dropout(states[:, 0])))
        start, end = self.head(self.dropout(states)).unbind(dim=-1)
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)
