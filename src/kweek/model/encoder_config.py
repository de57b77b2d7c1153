"""The shape of a text encoder of the BERT family, its `config.json`, and the names of its tensors.

Devlin et al. 2018 (arXiv 1810.04805): learned absolute positions, layer norm after each sub-layer, biases everywhere.
What `kweek.model.layout` is to decoders, this is to encoders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from kweek.errors import CheckpointError

Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"]
#: Keys that must be off: nothing here computes them.
_MUST_BE_FALSY = ("is_decoder", "add_cross_attention", "embedding_size", "quantization_config")
_FIX = "use an encoder of the BERT layout (model_type bert) with absolute positions"


@dataclass(frozen=True)
class EncoderConfig:
    """All sizes and constants of an encoder in the BERT layout."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    max_positions: int
    #: two, as in BERT: first and second text; an embedding reads only the first.
    num_token_types: int = 2
    #: BERT's own value.
    norm_epsilon: float = 1e-12
    #: BERT's own choice, the exact function.
    activation: Activation = "gelu"

    @classmethod
    def from_hf(cls, document: Any, where: str = "config.json") -> EncoderConfig:
        """Read a Hugging Face `config.json`.

        Raises:
            CheckpointError: another architecture, an impossible size, or a feature whose absence would change the
                answers (relative positions, another activation, own code, ...).
        """
        if not isinstance(document, dict):
            raise CheckpointError("it is not a JSON object", where=where)
        _refuse_unsupported(document, where)
        config = cls(
            vocab_size=_whole(document, "vocab_size", where),
            hidden_size=_whole(document, "hidden_size", where),
            intermediate_size=_whole(document, "intermediate_size", where),
            num_layers=_whole(document, "num_hidden_layers", where),
            num_heads=_whole(document, "num_attention_heads", where),
            max_positions=_whole(document, "max_position_embeddings", where),
            num_token_types=_whole(document, "type_vocab_size", where, 2),
            norm_epsilon=_epsilon(document, where),
            activation=document.get("hidden_act", "gelu"),
        )
        if config.hidden_size % config.num_heads:
            raise CheckpointError(
                f"{config.num_heads} heads do not divide a width of {config.hidden_size}", where=where
            )
        return config

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_heads

    def num_parameters(self) -> int:
        """Parameters that an embedding needs; a checkpoint's pooler and heads are not among them."""
        return sum(math.prod(shape) for shape in tensor_shapes(self).values())

    def num_flops(self, num_tokens: int) -> float:
        """FLOP to read one text of `num_tokens` tokens: matrix products, a multiply-add being two."""
        width, ffn = self.hidden_size, self.intermediate_size
        products = 2 * num_tokens * (4 * width * width + 2 * width * ffn)
        attention = 4 * num_tokens * num_tokens * width
        return float(self.num_layers * (products + attention))


def tensor_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that an encoder needs, as `BertModel` of transformers names them."""
    width, ffn = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, width),
        "embeddings.position_embeddings.weight": (config.max_positions, width),
        "embeddings.token_type_embeddings.weight": (config.num_token_types, width),
    }

    def add(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    add("embeddings.LayerNorm", width)
    for layer in range(config.num_layers):
        at = f"encoder.layer.{layer}."
        for part in ("query", "key", "value"):
            add(f"{at}attention.self.{part}", width, width)
        add(f"{at}attention.output.dense", width, width)
        add(f"{at}attention.output.LayerNorm", width)
        add(f"{at}intermediate.dense", ffn, width)
        add(f"{at}output.dense", width, ffn)
        add(f"{at}output.LayerNorm", width)
    return shapes


def _refuse_unsupported(document: Mapping[str, Any], where: str) -> None:
    if document.get("auto_map"):
        raise CheckpointError(
            "it asks for code of its own (auto_map), which Kweek never runs",
            where=where,
            fix="use a checkpoint in a standard layout",
        )
    kind = document.get("model_type")
    if kind != "bert":
        raise CheckpointError(f"encoder architecture {kind!r} is not supported", where=where, fix=_FIX)
    positions = document.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise CheckpointError(f"positions of type {positions!r} are not supported", where=where, fix=_FIX)
    activation = document.get("hidden_act", "gelu")
    if activation not in get_args(Activation):
        known = ", ".join(get_args(Activation))
        raise CheckpointError(
            f"activation {activation!r} is not supported", where=where, fix=f"use one with {known}"
        )
    for key in _MUST_BE_FALSY:
        if document.get(key):
            raise CheckpointError(f"{key} is not supported in an encoder", where=where, fix=_FIX)


def _whole(document: Mapping[str, Any], key: str, where: str, default: int | None = None) -> int:
    value = document.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
        raise CheckpointError(f"{key} is {value!r}, not a whole number of at least 1", where=where)
    return value


def _epsilon(document: Mapping[str, Any], where: str) -> float:
    value = document.get("layer_norm_eps", 1e-12)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1:
        raise CheckpointError(f"layer_norm_eps is {value!r}, not a small positive number", where=where)
    return float(value)
