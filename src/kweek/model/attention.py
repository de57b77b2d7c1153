"""Causal self-attention with grouped key heads, rotary positions and optional norms on queries and keys.

Shapes: B batch, T new tokens, S keys attended to, D width, H heads, K key heads, E head dimension,
M = H + K heads that are rotated.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kweek.model.cache import KVCache
from kweek.model.config import ModelConfig
from kweek.model.fused import FusedLinear, RMSNorm, rotate


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """Angle per position of each rotated pair, shape (E/2,), fp32 (RoFormer, arXiv 2104.09864, equation 15).

    With `rope_scaling`, long wavelengths are stretched as in Llama 3.1 (arXiv 2407.21783, section 3.4.2 and
    its reference code).
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    plain = 1.0 / config.rope_theta**exponents
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    turns = scaling.original_max_positions * plain / (2 * math.pi)  # over the original context
    blend = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency)
    blend = blend.clamp(0.0, 1.0)
    return (1 - blend) * plain / scaling.factor + blend * plain


class Rotations:
    """Cosines and sines by position, computed once and enlarged when a longer sequence comes.

    The table of all positions a large checkpoint allows would take over 100 MB, so it grows by doubling.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._frequencies = inverse_frequencies(config)
        self._table = torch.empty(2, 0, config.head_dim)

    def __call__(self, num_positions: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosine and sine of at least `num_positions` positions, each (positions, E), fp32.

        Both halves of E hold the same angles (NeoX pairing: dimension i turns with i + E/2); the sine's
        first half is negated, so that a rotation is x * cosine + swapped(x) * sine.
        """
        if self._table.shape[1] < num_positions or self._table.device != device:
            size = max(64, 1 << (num_positions - 1).bit_length())
            angles = torch.outer(torch.arange(size, dtype=torch.float32), self._frequencies)
            cosine, sine = angles.cos(), angles.sin()
            table = torch.stack((torch.cat((cosine, cosine), -1), torch.cat((-sine, sine), -1)))
            self._table = table.to(device)
        return self._table[0], self._table[1]


class Attention(nn.Module):
    """One attention sub-layer. Queries, keys and values come out of a single fused matrix product."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        sizes = {"q_proj": config.query_size, "k_proj": config.kv_size, "v_proj": config.kv_size}
        self.qkv_proj = FusedLinear(config.hidden_size, sizes, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.query_size, config.hidden_size, bias=False)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.norm_epsilon)
            self.k_norm = RMSNorm(config.head_dim, config.norm_epsilon)

    def forward(
        self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        """Attend; `rotation` is (cosine, sine) of shape (T, E) or (B, T, E), `mask` None for causal."""
        config = self.config
        qkv = self.qkv_proj(x_BTD).unflatten(-1, (-1, config.head_dim))
        q_BTHE, k_BTKE, v_BTKE = qkv.split((config.num_heads, config.num_kv_heads, config.num_kv_heads), dim=2)
        if config.qk_norm:
            q_BTHE, k_BTKE = self.q_norm(q_BTHE), self.k_norm(k_BTKE)
        cosine, sine = (table.unsqueeze(-2) for table in rotation)
        q_BHTE = rotate(q_BTHE, cosine, sine).transpose(1, 2)
        k_BKTE = rotate(k_BTKE, cosine, sine).transpose(1, 2)
        v_BKTE = v_BTKE.transpose(1, 2)
        options: dict[str, Any] = {"enable_gqa": config.num_heads != config.num_kv_heads}
        if cache is not None:
            k_BKSE, v_BKSE = cache.update(self.layer, k_BKTE, v_BKTE)
            out = F.scaled_dot_product_attention(
                q_BHTE, k_BKSE, v_BKSE, attn_mask=mask, is_causal=mask is None and q_BHTE.shape[2] > 1, **options
            )
        else:
            out = F.scaled_dot_product_attention(
                q_BHTE, k_BKTE, v_BKTE, attn_mask=mask, is_causal=mask is None, **options
            )
        return F.linear(out.transpose(1, 2).flatten(2), self.o_proj.weight)
