"""Low-rank adapters: a frozen network, and small matrices trained beside its large ones.

LoRA (Hu et al. 2021, arXiv 2106.09685) over a network in fp32, QLoRA (Dettmers et al. 2023, arXiv 2305.14314) over one
of codes (`kweek.model.coded`): both are `attach`, and everything else that trains, generates or exports sees a network.
"""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from kweek.errors import ConfigError
from kweek.model.adapter_linear import AdaptedLinear
from kweek.model.derived import DerivedLinear, Place, places, plain_layer
from kweek.model.network import Network

#: What an adapter can be put on, in the order of a layer.
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class AdapterConfig:
    """The shape of an adapter.

    There is no dropout: what is sampled and what is differentiated are to be one distribution.

    Raises:
        ConfigError: a rank below one, an alpha that is not positive, no target or an unknown one.
    """

    #: 16, the least rank that in the published comparisons learns what full training does from some thousand examples.
    rank: int = 16
    #: twice the rank, so that at rates usual for LoRA (1e-4 to 1e-3) the product moves as a trained matrix would.
    alpha: float = 32.0
    #: all of them: leaving out the feed-forward costs more than a lower rank does (QLoRA, section 4, figure 2).
    targets: tuple[str, ...] = TARGETS
    #: off, because at ranks up to 32 it only changes what alpha means; above, alpha / sqrt(rank) keeps the step size
    #: (Kalajdzievski 2023, arXiv 2312.03732).
    rank_stabilised: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or self.rank < 1:
            raise ConfigError(f"{self.rank!r} is not a whole number of at least 1", where="rank")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ConfigError(f"{self.alpha!r} is not a positive number", where="alpha")
        if not self.targets:
            raise ConfigError(
                "there is nothing to adapt", where="targets", fix=f"name some of {', '.join(TARGETS)}"
            )
        for name in self.targets:
            if name not in TARGETS:
                near = difflib.get_close_matches(name, TARGETS, 1)
                fix = f"did you mean {near[0]}" if near else f"use some of {', '.join(TARGETS)}"
                raise ConfigError(f"an adapter cannot be put on {name!r}", where="targets", fix=fix)

    @property
    def scale(self) -> float:
        """s in W + s B A."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


def attach(network: Network, config: AdapterConfig, generator: torch.Generator) -> None:
    """Freeze a network and put an adapter on it, in place. It computes what it computed before.

    A is uniform within 1 / sqrt(inputs), B is zero, as in the reference code and in PEFT.

    Raises:
        ConfigError: it has an adapter.
    """
    if network.adapter is not None:
        raise ConfigError("the network has an adapter already", fix="merge or detach that one first")
    network.requires_grad_(False)
    for place in places(network):
        parts = [part for part in place.sizes if part in config.targets]
        if parts:
            layer = AdaptedLinear(place.layer, parts, dict(place.sizes), config.rank, config.scale)
            bound = 1 / math.sqrt(layer.in_features)
            drawn_RI = torch.empty(layer.a_RI.shape).uniform_(-bound, bound, generator=generator)
            layer.a_RI.detach().copy_(drawn_RI)  # drawn on the CPU: a seed means the same on any device
            place.put(layer)
    network.adapter = config


def adapted_places(network: Network) -> list[tuple[Place, AdaptedLinear]]:
    """The layers with an adapter, in the network's order, and where they sit."""
    return [(place, place.layer) for place in places(network) if isinstance(place.layer, AdaptedLinear)]


def detach(network: Network) -> None:
    """Take the adapter off, in place: the network is what it was before `attach`, and trainable."""
    for place, layer in adapted_places(network):
        place.put(layer.base)
    _thaw(network)


def merge(network: Network) -> None:
    """Write W + s B A into the weights, in place: a network without an adapter that computes the same.

    Layers that hold codes become fp32. To have codes again, quantise what comes out and measure it: adding an adapter
    to 4-bit codes by rounding would lose most of it without a word.
    """
    for place, layer in adapted_places(network):
        place.put(plain_layer(layer))
    _thaw(network)


def _thaw(network: Network) -> None:
    network.adapter = None
    for module in network.modules():
        if not isinstance(module, DerivedLinear):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_()


@contextmanager
def without_adapter(network: Network) -> Iterator[None]:
    """Within the block the network is the frozen one: the reference of an update, without a second copy of it."""
    found, config = adapted_places(network), network.adapter
    for place, layer in found:
        place.put(layer.base)
    network.adapter = None
    try:
        yield
    finally:
        for place, layer in found:
            place.put(layer)
        network.adapter = config


def merged_copy(network: Network) -> Network:
    """A network with the adapter merged, which shares all other tensors; for who calls it token by token."""
    result = copy.deepcopy(network, {id(tensor): tensor for tensor in network.parameters()})
    for place, layer in adapted_places(result):
        place.put(plain_layer(layer).requires_grad_(False))
    result.adapter = None
    return result


@torch.no_grad()
def refresh_copy(merged: Network, network: Network) -> None:
    """Bring a `merged_copy` up to the present A and B, in place."""
    for place, layer in adapted_places(network):
        target = merged.get_parameter(f"{place.path}.{place.name}.weight")
        target.copy_(layer.weight)
