"""Networks with adapters that do something, and what they ought to compute, written out part by part."""

from __future__ import annotations

from typing import Any

import torch
from model_networks import random_network, small_config
from torch import Tensor
from torch.func import functional_call

from kweek.model.adapter import AdapterConfig, adapted_places, attach
from kweek.model.network import Network
from kweek.model.quantized import QuantizedTensor

RANK = 3
CONFIG = AdapterConfig(rank=RANK, alpha=5.0)


def fill(network: Network, seed: int = 7, size: float = 0.2) -> None:
    """Random A and B, every part its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.normal_(0.0, size, generator=generator)


def adapted_network(config: AdapterConfig = CONFIG, **layout: Any) -> Network:
    """A random network with a random adapter."""
    network = random_network(small_config(**layout))
    attach(network, config, torch.Generator().manual_seed(0))
    fill(network)
    return network


def factors(network: Network) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B by the name of the part ("model.layers.0.mlp.up_proj"), copied, as leaves."""
    return {
        place.full_name(part): (a_KI.clone().requires_grad_(), b_OK.clone().requires_grad_())
        for place, layer in adapted_places(network)
        for part, (a_KI, b_OK) in layer.factors().items()
    }


def by_hand(plain: Network, adapter: dict[str, tuple[Tensor, Tensor]], scale: float, ids: Tensor) -> Tensor:
    """Hidden states of a plain network whose weights are W + s B A, differentiable by autograd alone."""
    state = {
        name: tensor + scale * adapter[part][1] @ adapter[part][0]
        if (part := name.removesuffix(".weight")) in adapter
        else tensor
        for name, tensor in plain.state_dict().items()
    }
    fused = {}
    for name, _ in plain.named_parameters():
        parts = [name]
        if "qkv_proj" in name:
            parts = [name.replace("qkv", letter) for letter in "qkv"]
        elif "gate_up_proj" in name:
            parts = [name.replace("gate_up", part) for part in ("gate", "up")]
        fused[name] = torch.cat([state[part] for part in parts])
    hidden: Tensor = functional_call(plain, fused, (ids,))
    return hidden


def some_codes(network: Network, *, embedding: bool = False) -> dict[str, QuantizedTensor]:
    """4-bit codes of every projection and of an untied head, by rounding; `embedding` adds that."""
    found = {}
    for name, weight in network.state_dict().items():
        if "_proj.weight" in name or name == "lm_head.weight" or (embedding and "embed_tokens" in name):
            groups = weight.view(len(weight), -1, 32)
            scale_RG = (groups.abs().amax(-1) / 7).half()
            codes = (groups / scale_RG.float()[..., None]).round().clamp(-8, 7).view(weight.shape)
            found[name] = QuantizedTensor.from_codes(codes.to(torch.int8), scale_RG)
    return found
