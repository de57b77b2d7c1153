"""A network with a small head that judges instead of predicting: reward models, critics, process reward models.

One that gives a number per sequence reads it at the last token (`...ForSequenceClassification` in `transformers`), one
that gives a number per token at every token (`...ForTokenClassification`). Folders load in `transformers` without
custom code.

Shapes: B batch, T time, D width, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kweek.errors import CheckpointError, DataError
from kweek.model import flops
from kweek.model.checkpoint import CONFIG_FILE, load_config
from kweek.model.config import ModelConfig
from kweek.model.linear import Linear
from kweek.model.network import Network
from kweek.model.tensors import TensorFolder, read_json

SEQUENCE, TOKEN = "ForSequenceClassification", "ForTokenClassification"
MAX_TOKENS = 8192  # read at once without a gradient: some 100 MB of activations for a small network


@dataclass(frozen=True)
class ScorerConfig(ModelConfig):
    """The sizes of a decoder whose head gives `num_labels` numbers instead of logits over the vocabulary.

    Attributes:
        per_token: whether every token is judged, or the sequence at its last one.
    """

    #: one reward, value or logit.
    num_labels: int = 1
    #: sequences, as reward models do.
    per_token: bool = False

    @property
    def class_suffix(self) -> str:
        """What `transformers` calls such a model."""
        return TOKEN if self.per_token else SEQUENCE

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` with which `transformers` builds the same network without custom code."""
        document = super().to_hf()
        names = [f"label_{number}" for number in range(self.num_labels)]
        document["architectures"] = [
            name.replace("ForCausalLM", self.class_suffix) for name in document["architectures"]
        ]
        document["id2label"] = {str(number): name for number, name in enumerate(names)}
        document["label2id"] = {name: number for number, name in enumerate(names)}
        if self.per_token:
            document["classifier_dropout"] = 0.0  # else `transformers` trains with a dropout of its own
        return document

    def num_parameters(self) -> dict[str, int]:
        """See `ModelConfig.num_parameters`; the head has one row per label, and a bias per token."""
        parts = super().num_parameters()
        parts["head"] = self.num_labels * (self.hidden_size + self.per_token)
        del parts["total"]
        return parts | {"total": sum(parts.values())}

    def num_flops_per_token(
        self,
        context_length: int,
        backward: bool = False,
        *,
        attention: flops.AttentionCount = "causal",
        recomputation: bool = False,
    ) -> float:
        """See `ModelConfig.num_flops_per_token`."""
        whole = super().num_flops_per_token(
            context_length, backward, attention=attention, recomputation=recomputation
        )
        spared = 2.0 * self.hidden_size * (self.vocab_size - self.num_labels)
        return whole - spared * (3 if backward else 1)


class Scorer(Network):
    """A decoder with a head of `num_labels` rows, `score.weight`; with `score.bias` where every token is judged.

    Its `logits` are (..., L). Parameters are uninitialised until something fills them.
    """

    config: ScorerConfig

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__(config)
        if not config.tied_embeddings:
            del self.lm_head
        self.score = Linear(config.hidden_size, config.num_labels, bias=config.per_token)

    @property
    def head_weight(self) -> Tensor:
        """(L, D)."""
        return self.score.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """The judgement of hidden states, (..., D) to (..., L), in their dtype."""
        bias = None if self.score.bias is None else self.score.bias.to(hidden.dtype)
        return F.linear(hidden, self.score.weight.to(hidden.dtype), bias)


@torch.no_grad()
def scorer_from(
    network: Network, *, per_token: bool = False, num_labels: int = 1, pad_token_id: int | None = None
) -> Scorer:
    """A scorer with the body of a language model, copied. Its head is zero: at first it prefers nothing.

    Args:
        pad_token_id: for `transformers`, which needs one for batches and reads a sequence's score before the padding;
            must never end a sequence. By default the network's own.
    """
    sizes = _sizes(network.config)
    if pad_token_id is not None:
        sizes["pad_token_id"] = pad_token_id
    scorer = Scorer(ScorerConfig(**sizes, num_labels=num_labels, per_token=per_token))
    state = {
        n: value for n, value in network.state_dict().items() if not n.startswith(("lm_head.", "score."))
    }
    head = {name: torch.zeros_like(p) for name, p in scorer.named_parameters() if name.startswith("score.")}
    scorer.load_state_dict(state | head)
    scorer.compute_dtype = network.compute_dtype
    return scorer


def load_scorer(folder: Path | str) -> Scorer:
    """Load a folder that `save_model` wrote of a scorer, or `transformers` of a model of the same kind.

    Raises:
        CheckpointError: no scorer but a language model, or as `load_model`.
    """
    folder = Path(folder)
    config = _scorer_config(folder)
    scorer = Scorer(config)
    with TensorFolder(folder) as tensors:
        shapes = {name: tuple(value.shape) for name, value in scorer.state_dict().items()}
        found = {name: shape for name, shape in tensors.shapes.items() if "rotary_emb" not in name}
        for name in sorted(shapes.keys() | found.keys()):
            if shapes.get(name) != found.get(name):
                raise CheckpointError(
                    f"tensor {name} is {found.get(name, 'missing')} instead of {shapes.get(name, 'absent')}",
                    where=str(folder),
                    fix="fetch or make the model again",
                )
        for name, target in scorer.state_dict().items():
            target.copy_(tensors.read(name))
            if not target.isfinite().all():
                raise CheckpointError(
                    f"tensor {name} holds values that are not finite numbers", where=str(folder)
                )
    return scorer


def _scorer_config(folder: Path) -> ScorerConfig:
    config = load_config(folder)
    document = read_json(folder / CONFIG_FILE)
    names = document.get("architectures") or [""]
    suffix = next((kind for kind in (SEQUENCE, TOKEN) if str(names[0]).endswith(kind)), None)
    if suffix is None:
        raise CheckpointError(
            f"{names[0] or 'a model of no stated class'} is no model that scores",
            where=str(folder / CONFIG_FILE),
            fix=f"give a model of the class ...{SEQUENCE} or ...{TOKEN}",
        )
    labels = document.get("id2label")
    num_labels = len(labels) if isinstance(labels, dict) and labels else 2  # what transformers assumes
    return ScorerConfig(**_sizes(config), num_labels=num_labels, per_token=suffix == TOKEN)


def _sizes(config: ModelConfig) -> dict[str, Any]:
    """What a scorer's config has in common with that of a language model."""
    return {field.name: getattr(config, field.name) for field in fields(ModelConfig)}


@torch.no_grad()
def scores(scorer: Scorer, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
    """What a scorer says of whole sequences, in their order: (L,) of each, or (T, L) where it judges every token; fp32.

    Raises:
        DataError: an empty sequence, or one that ends with the padding token, before which `transformers` would look.
    """
    pad = scorer.config.pad_token_id
    for number, sequence in enumerate(sequences):
        if not len(sequence) or (not scorer.config.per_token and sequence[-1] == pad):
            raise DataError(
                "a sequence to score is empty or ends with the padding token", where=f"sequences[{number}]"
            )
    result: list[Tensor] = [torch.empty(0)] * len(sequences)
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    start = 0
    while start < len(order):  # sequences of like length, padded on the right
        end = start + 1
        while end < len(order) and (end + 1 - start) * len(sequences[order[end]]) <= MAX_TOKENS:
            end += 1
        chosen, start = order[start:end], end
        ids_BT = torch.zeros(len(chosen), len(sequences[chosen[-1]]), dtype=torch.long)
        for row, index in enumerate(chosen):
            ids_BT[row, : len(sequences[index])] = torch.as_tensor(sequences[index])
        device = scorer.score.weight.device
        judged_BTL = scorer.logits(scorer(ids_BT.to(device))).float().cpu()
        for row, index in enumerate(chosen):
            own_TL = judged_BTL[row, : len(sequences[index])]
            result[index] = own_TL.clone() if scorer.config.per_token else own_TL[-1].clone()
    return result
