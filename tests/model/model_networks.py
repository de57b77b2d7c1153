"""Small networks of every layout, with weights large enough that a mistake shows in the logits."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, addmm_flop, sdpa_backward_flop_count, sdpa_flop_count

from kweek.model.config import ModelConfig, RopeScaling
from kweek.model.network import Network

torch.set_num_threads(1)

SCALING = RopeScaling(8.0, 1.0, 4.0, 32)
#: Every layout that Kweek reads, in the variants that change the arithmetic.
LAYOUTS: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen3-tied-odd-heads": {"tied_embeddings": True, "num_heads": 3, "num_kv_heads": 1, "head_dim": 32},
    "qwen2": {"architecture": "qwen2", "qk_norm": False, "qkv_bias": True, "head_dim": 16},
    "llama": {"architecture": "llama", "qk_norm": False, "norm_epsilon": 1e-5, "head_dim": 16},
    "llama3": {"architecture": "llama", "qk_norm": False, "rope_scaling": SCALING, "head_dim": 16},
    "smollm": {"architecture": "llama", "qk_norm": False, "tied_embeddings": True, "head_dim": 16},
}


def small_config(**changes: Any) -> ModelConfig:
    """64 wide, two layers, 4 heads over 2 key heads."""
    sizes: dict[str, Any] = {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 32,
        "max_positions": 128,
        "eos_token_id": 3,
    }
    return ModelConfig(**(sizes | changes))


def random_network(config: ModelConfig, seed: int = 0) -> Network:
    """Normal weights, gains around one."""
    network = Network(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            mean = 1.0 if "norm" in name else 0.0
            parameter.normal_(mean, 0.15, generator=generator)
    return network


def random_ids(config: ModelConfig, *shape: int, seed: int = 0) -> torch.Tensor:
    """Token ids."""
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def operator_counter() -> FlopCounterMode:
    """torch's counter of operators, taught its own formulas for two that it omits: flash attention on a CPU
    and the product that is added in place."""
    aten = torch.ops.aten
    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten.addmm_: lambda total, a, b, *_, **__: addmm_flop(total, a, b),
            aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
                q, k, v
            ),
            aten._scaled_dot_product_flash_attention_for_cpu_backward: (
                lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
            ),
        },
    )
