"""The decoder: embedding, blocks of attention and gated feed-forward, final norm, head.

Shapes: B batch, T time, S keys attended to, D width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kweek.model import flops
from kweek.model.attention import FORBIDDEN, MAX_KEPT_SCORES_TIME, Attention, Context, Tables
from kweek.model.cache import KVCache
from kweek.model.config import ModelConfig
from kweek.model.fused import feed_forward, rms_norm
from kweek.model.linear import FusedLinear, Linear, join_parts

if TYPE_CHECKING:
    from kweek.model.adapter import AdapterConfig


class FeedForward(nn.Module):
    """down(silu(gate(x)) * up(x)), gate and up as one matrix product."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = config.intermediate_size
        self.gate_up_proj = FusedLinear(config.hidden_size, {"gate_proj": size, "up_proj": size}, bias=False)
        self.down_proj = Linear(size, config.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D), in the dtype of x."""
        return feed_forward(x_BTD, self.gate_up_proj.matrix(), self.down_proj.matrix())


class Block(nn.Module):
    """Pre-norm residual block: x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.epsilon = config.norm_epsilon
        self.self_attn = Attention(config, layer)
        self.mlp = FeedForward(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.norm_epsilon)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.norm_epsilon)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """(B, T, D) to (B, T, D). The residual stream keeps its dtype, sub-layers use the context's."""
        normed = rms_norm(x_BTD, self.input_layernorm.weight, self.epsilon, context.dtype)
        x_BTD = x_BTD + self.self_attn(normed, context)
        normed = rms_norm(x_BTD, self.post_attention_layernorm.weight, self.epsilon, context.dtype)
        branch_BTD: Tensor = self.mlp(normed)
        return x_BTD + branch_BTD


class Embedding(nn.Module):
    """Rows by token id. Unlike `nn.Embedding` it does not spend time on random rows soon overwritten."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))

    def forward(self, ids_BT: Tensor) -> Tensor:
        """(B, T) to (B, T, D)."""
        rows_BTD: Tensor = F.embedding(ids_BT, self.weight)
        return rows_BTD


class Decoder(nn.Module):
    """Everything but the head; named `model` inside the network, as in Hugging Face checkpoints."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.epsilon = config.norm_epsilon
        self.embed_tokens = Embedding(config)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.norm_epsilon)

    def forward(self, ids_BT: Tensor, context: Context) -> Tensor:
        """(B, T) to hidden states (B, T, D) after the final norm, in the context's dtype."""
        x_BTD = self.embed_tokens(ids_BT)
        for block in self.layers:
            x_BTD = block(x_BTD, context)
        return rms_norm(x_BTD, self.norm.weight, self.epsilon, context.dtype)


class Network(nn.Module):
    """A language model in the Qwen3, Qwen2 or Llama layout.

    Parameters are fp32 and uninitialised until `initialise` or `load_model` fills them. `state_dict` has the
    names of a Hugging Face checkpoint; in memory q, k, v and gate, up are fused matrices.

    Attributes:
        compute_dtype: what matrix products, attention and the result are in. Parameters, their gradients and
            the residual stream stay fp32; weights are cast once per forward pass. fp32 unless set, because
            bf16 pays only on CPUs with AVX512-BF16 or AMX and on GPUs.
        adapter: the shape of the adapter on it, or None; see `kweek.model.adapter`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.adapter: AdapterConfig | None = None
        self.model = Decoder(config)
        if not config.tied_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self._tables = Tables(config)
        for module in list(self.modules()):
            if any(isinstance(child, FusedLinear) for child in module.children()):
                module.register_load_state_dict_pre_hook(join_parts)  # type: ignore[no-untyped-call]

    @property
    def head_weight(self) -> Tensor:
        """The matrix that turns hidden states into logits, (V, D); the embedding where they are tied."""
        return self.model.embed_tokens.weight if self.config.tied_embeddings else self.lm_head.weight

    def forward(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        num_tokens_B: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the final norm, (B, T, D), in `compute_dtype`.

        Args:
            ids_BT: token ids.
            positions_BT: position of each token in its document; None counts 0 .. T - 1 (without a cache).
            mask: None for causal attention, else bool (B, 1, T, T), true where a query may attend.
            cache: keys and values of the tokens before these; grown by this call. Excludes the two above.
            num_tokens_B: with a cache, how many of the T tokens of each row count; None counts all.

        Raises:
            ValueError: a cache together with positions or mask, or a cache that is full.
        """
        time = ids_BT.shape[1]
        if cache is not None:
            if positions_BT is not None or mask is not None:
                raise ValueError("with a cache, positions and mask follow from it")
            positions_BT, mask = cache.begin(time)
        hidden_BTD: Tensor = self.model(ids_BT, self._context(ids_BT, positions_BT, mask, cache))
        if cache is not None:
            cache.advance(time if num_tokens_B is None else num_tokens_B)
        return hidden_BTD

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states, (..., D) to (..., V), in their dtype."""
        return F.linear(hidden, self.head_weight.to(hidden.dtype))

    def num_flops_per_token(self, context_length: int, backward: bool = False) -> float:
        """FLOP per token of a sequence of so many, adapter and what is frozen considered; see `kweek.model.flops`."""
        if self.adapter is None:
            return self.config.num_flops_per_token(context_length, backward)
        shape = self.adapter
        return flops.num_flops_adapted(self.config, shape.rank, shape.targets, context_length, backward)

    def _context(
        self, ids_BT: Tensor, positions_BT: Tensor | None, mask: Tensor | None, cache: KVCache | None
    ) -> Context:
        time, dtype, device = ids_BT.shape[1], self.compute_dtype, ids_BT.device
        layout = self._tables.layout(time if positions_BT is None else positions_BT, device, dtype)
        small = dtype.itemsize == 2 and device.type == "cpu" and time <= MAX_KEPT_SCORES_TIME
        keep_scores = small and cache is None and torch.is_grad_enabled()
        bias: Tensor | None = None
        if mask is not None:
            bias = torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill_(~mask, FORBIDDEN)
        elif keep_scores:
            bias = self._tables.causal_bias(time, dtype)
        return Context(layout, bias, keep_scores, cache, dtype)
