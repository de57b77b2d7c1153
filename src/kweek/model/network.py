"""The decoder: embedding, blocks of attention and gated feed-forward, final norm, head.

Shapes: B batch, T time, D width, E head dimension, F ffn, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kweek.model.attention import Attention, Rotations
from kweek.model.cache import KVCache
from kweek.model.config import ModelConfig
from kweek.model.fused import FusedLinear, RMSNorm, join_parts, swiglu


class FeedForward(nn.Module):
    """down(silu(gate(x)) * up(x)), gate and up as one matrix product."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = config.intermediate_size
        self.gate_up_proj = FusedLinear(config.hidden_size, {"gate_proj": size, "up_proj": size}, bias=False)
        self.down_proj = nn.Linear(size, config.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        return F.linear(swiglu(self.gate_up_proj(x_BTD)), self.down_proj.weight)


class Block(nn.Module):
    """Pre-norm residual block: x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = FeedForward(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_epsilon)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_epsilon)

    def forward(
        self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        """(B, T, D) to (B, T, D); arguments as `Attention.forward`."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), rotation, mask, cache)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class Decoder(nn.Module):
    """Everything but the head; named `model` inside the network, as in Hugging Face checkpoints."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # A plain parameter: nn.Embedding would spend seconds on random rows that are overwritten at once.
        self.embed_tokens = nn.Module()
        self.embed_tokens.weight = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_epsilon)


class Network(nn.Module):
    """A language model in the Qwen3, Qwen2 or Llama layout.

    Parameters are fp32 and uninitialised until `initialise` or `load_model` fills them. `state_dict` has the
    names of a Hugging Face checkpoint; internally q, k, v and gate, up are fused matrices.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        if not config.tied_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._rotations = Rotations(config)
        for module in list(self.modules()):
            if any(isinstance(child, FusedLinear) for child in module.children()):
                module.register_load_state_dict_pre_hook(join_parts)

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
        """Hidden states after the final norm, (B, T, D).

        Args:
            ids_BT: token ids.
            positions_BT: position of each token in its document; None counts 0 .. T - 1 (without a cache).
            mask: None for causal attention, else bool (B, 1, T, T), true where a query may attend.
            cache: keys and values of the tokens before these; grown by this call. Excludes the two above.
            num_tokens_B: with a cache, how many of the T tokens of each row count; None counts all.
        """
        if cache is not None:
            if positions_BT is not None or mask is not None:
                raise ValueError("with a cache, positions and mask follow from it")
            positions_BT, mask = cache.begin(ids_BT.shape[1])
        rotation = self._rotation(ids_BT, positions_BT)
        x_BTD = F.embedding(ids_BT, self.model.embed_tokens.weight)
        for block in self.model.layers:
            x_BTD = block(x_BTD, rotation, mask, cache)
        if cache is not None:
            cache.advance(ids_BT.shape[1] if num_tokens_B is None else num_tokens_B)
        return self.model.norm(x_BTD)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states, (..., D) to (..., V)."""
        return F.linear(hidden, self.head_weight)

    def _rotation(self, ids_BT: Tensor, positions_BT: Tensor | None) -> tuple[Tensor, Tensor]:
        if positions_BT is None:
            cosine, sine = self._rotations(ids_BT.shape[1], ids_BT.device)
            return cosine[: ids_BT.shape[1]], sine[: ids_BT.shape[1]]
        cosine, sine = self._rotations(int(positions_BT.max()) + 1, ids_BT.device)
        return cosine[positions_BT], sine[positions_BT]
