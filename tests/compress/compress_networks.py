"""Small networks with weights that predict something, and sequences they find likely."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network


def make_network(seed: int = 0, **changes: Any) -> Network:
    """Two layers of width 64 with random weights, large enough to make sharp predictions."""
    options: dict[str, Any] = {
        "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_layers": 2, "num_heads": 2,
        "num_kv_heads": 1, "head_dim": 32,
    }  # fmt: skip
    network = Network(ModelConfig(**(options | changes)))
    generator = torch.Generator().manual_seed(seed)
    initialise(network, generator)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 2:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network


def sample(network: Network, count: int, length: int, seed: int = 0) -> list[list[int]]:
    """Sequences drawn from the network itself, so that its inputs look as they do in use."""
    generator = torch.Generator().manual_seed(seed)
    ids_BT = torch.randint(0, network.config.vocab_size, (count, 1), generator=generator)
    with torch.no_grad():
        while ids_BT.shape[1] < length:
            shares = torch.softmax(network.logits(network(ids_BT)[:, -1]), -1)
            ids_BT = torch.cat((ids_BT, torch.multinomial(shares, 1, generator=generator)), dim=1)
    return [[int(index) for index in row] for row in ids_BT]


def divergence(original: Network, other: Network, sequences: list[list[int]]) -> float:
    """Mean KL(original || other) over tokens, nats."""
    ids_BT = torch.tensor(sequences)
    with torch.no_grad():
        p: Tensor = torch.log_softmax(original.logits(original(ids_BT)).double(), -1)
        q: Tensor = torch.log_softmax(other.logits(other(ids_BT)).double(), -1)
    return float((p.exp() * (p - q)).sum(-1).mean())
