"""What a network costs, counted from its shape alone.

Convention: one addition or one multiplication is one FLOP, so a multiply-add is two. Counted are the matrix
products: projections, feed-forward, head, and the two products of attention. Norms, rotations, activations,
softmax and the embedding lookup are not. The backward pass is twice the forward. `attention="causal"` counts
the keys a token may see, on average (T + 1) / 2; `"full"` counts all T, which is what an operator-level
counter sees, since it ignores causality. `recomputation` adds what is computed twice: the backward pass of
flash attention forms the scores once more, half of attention's forward (Dao et al. 2022, arXiv 2205.14135,
algorithm 4). The optimiser is counted by the optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from kweek.model.config import ModelConfig

AttentionCount = Literal["causal", "full"]


def num_parameters(config: ModelConfig) -> dict[str, int]:
    """Number of parameters by part, and `total`. A tied head counts once, as the embedding."""
    attention = config.hidden_size * (2 * config.query_size + 2 * config.kv_size)
    if config.qkv_bias:
        attention += config.query_size + 2 * config.kv_size
    norms = 2 * config.hidden_size + (2 * config.head_dim if config.qk_norm else 0)
    parts = {
        "embedding": config.vocab_size * config.hidden_size,
        "attention": config.num_layers * attention,
        "mlp": config.num_layers * 3 * config.hidden_size * config.intermediate_size,
        "norm": config.num_layers * norms + config.hidden_size,
        "head": 0 if config.tied_embeddings else config.vocab_size * config.hidden_size,
    }
    return parts | {"total": sum(parts.values())}


def num_matrix_parameters(config: ModelConfig) -> int:
    """Parameters that multiply every token: projections, feed-forward and head, without the lookup."""
    attention = config.hidden_size * (2 * config.query_size + 2 * config.kv_size)
    mlp = 3 * config.hidden_size * config.intermediate_size
    return config.num_layers * (attention + mlp) + config.vocab_size * config.hidden_size


def num_attention_flops(config: ModelConfig, num_keys: float) -> float:
    """FLOP of scores and weighted sum over all layers, for one query over `num_keys` keys."""
    return 4.0 * config.num_layers * config.query_size * num_keys


def num_flops_per_token(
    config: ModelConfig,
    context_length: int,
    backward: bool = False,
    *,
    attention: AttentionCount = "causal",
    recomputation: bool = False,
) -> float:
    """FLOP per token, averaged over a sequence of `context_length` tokens.

    Args:
        context_length: tokens per sequence (T).
        backward: count forward and backward (three times the forward) instead of forward alone.
        attention: "causal" counts (T + 1) / 2 keys per token, "full" counts T.
        recomputation: with `backward`, also count the attention scores that are formed twice.
    """
    keys = (context_length + 1) / 2 if attention == "causal" else float(context_length)
    attended = num_attention_flops(config, keys)
    forward = 2.0 * num_matrix_parameters(config) + attended
    if not backward:
        return forward
    return 3 * forward + (attended / 2 if recomputation else 0.0)


def num_flops_decode(config: ModelConfig, position: int) -> float:
    """FLOP to compute one token at `position` (from 0) when the keys before it are cached."""
    return 2.0 * num_matrix_parameters(config) + num_attention_flops(config, position + 1)


def num_flops_adapted(
    config: ModelConfig,
    rank: int,
    targets: Collection[str],
    context_length: int,
    backward: bool = False,
    *,
    attention: AttentionCount = "causal",
    recomputation: bool = False,
) -> float:
    """FLOP per token of a frozen network that has an adapter, and of the adapter's gradients.

    The adapter of a matrix of O x I adds two products of rank r to the forward pass, 2 r (O + I), and four to the
    backward pass. That forms no gradient of a frozen matrix, and none to what lies below the lowest adapter.

    Args:
        rank: r.
        targets: names of the adapted projections ("q_proj", ...), of every layer.
        context_length, backward, attention, recomputation: as `num_flops_per_token`.
    """
    shapes = _projections(config)
    thin = 2.0 * rank * config.num_layers * sum(sum(shapes[name]) for name in targets)
    forward = num_flops_per_token(config, context_length, attention=attention) + thin
    if not backward:
        return forward
    keys = (context_length + 1) / 2 if attention == "causal" else float(context_length)
    to_scores = num_attention_flops(config, keys) * (2.5 if recomputation else 2.0)
    gradients = 2.0 * num_matrix_parameters(config) + to_scores + 2 * thin
    return forward + gradients - _below(config, rank, targets, to_scores / config.num_layers)


def _below(config: ModelConfig, rank: int, targets: Collection[str], to_scores: float) -> float:
    """FLOP per token of those gradients to inputs in the first layer that nobody wants."""
    shapes = _projections(config)
    total = 0.0
    for group in (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj")):
        adapted = [name for name in group if name in targets]
        total += sum(2.0 * math.prod(shapes[name]) for name in group)
        total += sum(2.0 * rank * shapes[name][1] for name in adapted)
        if adapted:
            break
        if "q_proj" in group:
            total += to_scores
    return total


def _projections(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of each projection of a layer."""
    width, ffn = config.hidden_size, config.intermediate_size
    return {
        "q_proj": (config.query_size, width),
        "k_proj": (config.kv_size, width),
        "v_proj": (config.kv_size, width),
        "o_proj": (width, config.query_size),
        "gate_proj": (ffn, width),
        "up_proj": (ffn, width),
        "down_proj": (width, ffn),
    }
