"""The encoder: embeddings, blocks of attention over the whole text and feed-forward, norm after each.

Devlin et al. 2018 (arXiv 1810.04805). Names inside are those of `BertModel` in transformers.
Shapes: B batch, T time, D width, H heads, E head dimension, F ffn, Z = 3D.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kweek.model.attention import FORBIDDEN
from kweek.model.encoder_config import Activation, EncoderConfig
from kweek.model.linear import FusedLinear, Linear, join_parts

_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


class Rows(nn.Module):
    """A table of rows by number, uninitialised."""

    def __init__(self, num_rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_rows, width))


class EncoderEmbeddings(nn.Module):
    """Word, position and type rows added, then normalised."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = Rows(config.vocab_size, width)
        self.position_embeddings = Rows(config.max_positions, width)
        self.token_type_embeddings = Rows(config.num_token_types, width)
        self.LayerNorm = nn.LayerNorm(width, config.norm_epsilon)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """(B, T) to (B, T, D); every token is of the first type."""
        positions_TD = self.position_embeddings.weight[: ids_BT.shape[1]]
        fixed_TD = positions_TD + self.token_type_embeddings.weight[0]
        rows_BTD: Tensor = self.LayerNorm(F.embedding(ids_BT, self.word_embeddings.weight) + fixed_TD)
        return rows_BTD


class WholeAttention(nn.Module):
    """Every token attends to every token of its text; one matrix product for queries, keys and values."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        width = config.hidden_size
        self.qkv = FusedLinear(width, {"query": width, "key": width, "value": width}, bias=True)

    def forward(self, x_BTD: Tensor, bias_B11T: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D), heads side by side."""
        qkv_BTZ = F.linear(x_BTD, self.qkv.weight, self.qkv.bias)
        q, k, v = (
            torch.unflatten(part, -1, (-1, self.head_dim)).transpose(1, 2) for part in qkv_BTZ.chunk(3, -1)
        )
        out_BHTE = F.scaled_dot_product_attention(q, k, v, bias_B11T)
        return out_BHTE.transpose(1, 2).flatten(2)


class AddAndNorm(nn.Module):
    """norm(residual + dense(x))."""

    def __init__(self, in_features: int, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = Linear(in_features, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.norm_epsilon)

    def forward(self, x: Tensor, residual_BTD: Tensor) -> Tensor:
        """(B, T, any) and (B, T, D) to (B, T, D)."""
        normed_BTD: Tensor = self.LayerNorm(self.dense(x) + residual_BTD)
        return normed_BTD


class EncoderBlock(nn.Module):
    """Attention, then feed-forward, each followed by a norm over its sum with what went in."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[config.activation]
        width, ffn = config.hidden_size, config.intermediate_size
        self.attention = nn.ModuleDict({"self": WholeAttention(config), "output": AddAndNorm(width, config)})
        self.intermediate = nn.ModuleDict({"dense": Linear(width, ffn)})
        self.output = AddAndNorm(ffn, config)

    def forward(self, x_BTD: Tensor, bias_B11T: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        attended_BTD = self.attention["self"](x_BTD, bias_B11T)
        x_BTD = self.attention["output"](attended_BTD, x_BTD)
        inner_BTF = self.activation(self.intermediate["dense"](x_BTD))
        result_BTD: Tensor = self.output(inner_BTF, x_BTD)
        return result_BTD


class Encoder(nn.Module):
    """A text encoder in the BERT layout, fp32, uninitialised until `load_encoder` fills it."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = EncoderEmbeddings(config)
        blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.num_layers))
        self.encoder = nn.ModuleDict({"layer": blocks})
        for module in list(self.modules()):
            if any(isinstance(child, FusedLinear) for child in module.children()):
                module.register_load_state_dict_pre_hook(join_parts)  # type: ignore[no-untyped-call]

    def forward(self, ids_BT: Tensor, valid_BT: Tensor | None = None) -> Tensor:
        """Hidden states of the last layer, (B, T, D).

        Args:
            ids_BT: int64 token ids, special tokens included.
            valid_BT: bool, false for padding, which nothing attends to; None when there is none.

        Raises:
            ValueError: more tokens than the network has positions.
        """
        if ids_BT.shape[1] > self.config.max_positions:
            raise ValueError(f"{ids_BT.shape[1]} tokens exceed {self.config.max_positions} positions")
        x_BTD: Tensor = self.embeddings(ids_BT)
        bias_B11T: Tensor | None = None
        if valid_BT is not None:
            bias_B11T = torch.zeros(valid_BT.shape, dtype=x_BTD.dtype, device=x_BTD.device)
            bias_B11T = bias_B11T.masked_fill_(~valid_BT, FORBIDDEN)[:, None, None]
        for block in self.encoder["layer"].children():
            x_BTD = block(x_BTD, bias_B11T)
        return x_BTD
