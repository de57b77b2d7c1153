"""Causal self-attention with grouped key heads, rotary positions and optional norms on queries and keys.

Shapes: B batch, T new tokens, S keys attended to, D width, H heads, K key heads, E head dimension,
Z = (H + 2K) E.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kweek.model.cache import KVCache
from kweek.model.config import ModelConfig
from kweek.model.fused import HeadLayout, attend, project_heads
from kweek.model.linear import FusedLinear, Linear

#: Longest sequence for which training in 16 bits on a CPU keeps all scores (`attend`): 12% faster for a step
#: than torch's flash attention at 256, 15% slower at 1024. In fp32 flash attention is as fast at any length.
MAX_KEPT_SCORES_TIME = 512
#: Added to a score that must not count. Finite, so that padding that may attend to nothing gives no NaN.
FORBIDDEN = -1e9


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """Angle per position of each rotated pair, shape (E/2,), fp32 (RoFormer, arXiv 2104.09864, equation 15).

    With `rope_scaling`, long wavelengths are stretched as in Llama 3.1 (its reference code, `apply_scaling`).
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    plain = 1.0 / config.rope_theta**exponents
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    turns = scaling.original_max_positions * plain / (2 * math.pi)  # made over the original context
    blend = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency)
    blend = blend.clamp(0.0, 1.0)
    return (1 - blend) * plain / scaling.factor + blend * plain


@dataclass(frozen=True)
class Context:
    """What all layers of one forward pass share.

    Attributes:
        layout: of the heads, with the rotations of these positions.
        bias: added to the scores, 0 or `FORBIDDEN`, (B or 1, 1, T, S); None for plain causal attention.
        keep_scores: whether attention keeps its scores for the backward pass; needs a bias.
        cache: keys and values of the tokens before, or None.
        dtype: of the matrix products.
    """

    layout: HeadLayout
    bias: Tensor | None
    keep_scores: bool
    cache: KVCache | None
    dtype: torch.dtype


class Tables:
    """Rotations by position and causal biases by length, computed once.

    The rotations of all positions a large checkpoint allows would take over 100 MB, so they grow by doubling.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._frequencies = inverse_frequencies(config)
        self._rotations: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._biases: dict[tuple[int, torch.dtype], Tensor] = {}

    def layout(self, positions: Tensor | int, device: torch.device, dtype: torch.dtype) -> HeadLayout:
        """The heads' layout for positions (B, T), or for 0 .. `positions` - 1."""
        config = self._config
        if isinstance(positions, int):
            query, key = self._table(positions, device, dtype)[:, :, :positions]
        else:
            table = self._table(int(positions.max()) + 1, device, dtype)
            query, key = table[:, :, positions].unsqueeze(3)
        return HeadLayout(
            config.num_heads, config.num_kv_heads, config.head_dim, config.norm_epsilon, query, key
        )

    def _table(self, num_positions: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """(2, 2, positions, E): for scaled queries and for keys, cosine and sine.

        Both halves of E hold the same angles (NeoX pairing: dimension i turns with i + E/2).
        """
        table = self._rotations.get((device, dtype))
        if table is None or table.shape[2] < num_positions:
            size = max(64, 1 << (num_positions - 1).bit_length())
            angles = torch.outer(torch.arange(size, dtype=torch.float32), self._frequencies)
            cosine, sine = angles.cos(), angles.sin()
            key = torch.stack((torch.cat((cosine, cosine), -1), torch.cat((-sine, sine), -1)))
            table = torch.stack((key * self._config.head_dim**-0.5, key))
            self._rotations[device, dtype] = table = table.to(device, dtype)
        return table

    def causal_bias(self, time: int, dtype: torch.dtype) -> Tensor:
        """(1, 1, T, T): 0 on and below the diagonal, `FORBIDDEN` above."""
        if (time, dtype) not in self._biases:
            self._biases[time, dtype] = torch.full((1, 1, time, time), FORBIDDEN, dtype=dtype).triu_(1)
        return self._biases[time, dtype]


class Attention(nn.Module):
    """One attention sub-layer. Queries, keys and values come out of a single fused matrix product."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        sizes = {"q_proj": config.query_size, "k_proj": config.kv_size, "v_proj": config.kv_size}
        self.qkv_proj = FusedLinear(config.hidden_size, sizes, bias=config.qkv_bias)
        self.o_proj = Linear(config.query_size, config.hidden_size, bias=False)
        if config.qk_norm:
            self.q_norm = nn.RMSNorm(config.head_dim, config.norm_epsilon)
            self.k_norm = nn.RMSNorm(config.head_dim, config.norm_epsilon)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """(B, T, D) to (B, T, D), in the dtype of `context`."""
        config = self.config
        qkv_BTZ = self.qkv_proj(x_BTD)
        q_gain_E = self.q_norm.weight if config.qk_norm else None
        k_gain_E = self.k_norm.weight if config.qk_norm else None
        q, k, v = project_heads(qkv_BTZ, q_gain_E, k_gain_E, context.layout)
        out_BTD: Tensor = self.o_proj(self._attend(q, k, v, context))
        return out_BTD

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """What the heads gather, side by side: (B, T, H E)."""
        if context.keep_scores and context.bias is not None:
            return attend(q, k, v, context.bias)
        if context.cache is not None:
            k, v = context.cache.update(self.layer, k, v)
        if q.shape[2] == 1:
            return self._attend_to_one(q, k, v, context.bias)
        out_BHTE = F.scaled_dot_product_attention(
            q,
            k,
            v,
            context.bias,
            is_causal=context.bias is None and q.shape[2] > 1,
            scale=1.0,  # the queries come scaled
            enable_gqa=self.config.num_heads != self.config.num_kv_heads,
        )
        return out_BHTE.transpose(1, 2).flatten(2)

    def _attend_to_one(self, q_BH1E: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, bias: Tensor | None) -> Tensor:
        """Attention of a single new token, (B, 1, H E).

        The heads that share a key head stand below one another as if they were tokens: every kernel of torch does
        that, with a mask too, while few know grouped heads and the others copy the keys for each.
        """
        batch = q_BH1E.shape[0]
        q = q_BH1E.view(batch, self.config.num_kv_heads, -1, self.config.head_dim)
        out = F.scaled_dot_product_attention(q, k_BKSE, v_BKSE, bias, scale=1.0)  # the queries come scaled
        return out.reshape(batch, 1, self.config.query_size)
