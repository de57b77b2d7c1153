"""Shallower networks: the layers whose absence costs the least loss are left out.

What a layer is worth is measured, not guessed from its weights: the loss on calibration text without it (block
importance by loss, as Minitron, arXiv 2407.14679, section 2.2). Layers are left out one after another, since two that
are each easily missed may stand in for one another; costs are brought up to date lazily (Minoux 1978), because they
rarely fall when another layer is gone: about two readings per layer left out instead of all.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from kweek.compress.prune_width import filled
from kweek.data.batches import Batch
from kweek.errors import ConfigError
from kweek.model.head import fused_cross_entropy
from kweek.model.network import Network
from kweek.protocols import Progress, silent


@dataclass(frozen=True)
class LayerCost:
    """A layer left out: its number in the original, and the loss in nats per token before and after."""

    layer: int
    before: float
    after: float


def shallow(
    network: Network, batches: Sequence[Batch], num_layers: int, progress: Progress = silent
) -> tuple[Network, list[LayerCost], int]:
    """A network with the `num_layers` layers that are missed most.

    Args:
        network: not changed.
        batches: calibration text, read about once per layer and twice per layer left out.
        num_layers: layers to keep.
        progress: counts readings of the text, of an estimated total.

    Returns:
        the network, what was left out in that order, and how many times the batches were read.

    Raises:
        ConfigError: fewer than one layer, or more than there are.
    """
    present = network.config.num_layers
    if not 1 <= num_layers <= present:
        raise ConfigError(
            f"{num_layers} cannot be kept of {present}", where="num_layers", fix="keep from 1 to all of them"
        )
    if num_layers == present:
        return network, [], 0
    kept = list(range(present))
    removed: list[LayerCost] = []
    loss = loss_with(network, kept, batches)
    # (loss without the layer, the layer, how many layers were gone when it was measured)
    waiting: list[tuple[float, int, int]] = []
    expected = present + 2 * (present - num_layers)
    for layer in kept:
        progress(len(waiting), expected, "leaving out layers", loss=loss)
        waiting.append((loss_with(network, [i for i in kept if i != layer], batches), layer, 0))
    num_readings = 1 + len(waiting)
    heapq.heapify(waiting)
    while len(kept) > num_layers:
        after, layer, age = heapq.heappop(waiting)
        if age < len(removed):
            after = loss_with(network, [i for i in kept if i != layer], batches)
            heapq.heappush(waiting, (after, layer, len(removed)))
            num_readings += 1
            progress(min(num_readings, expected), expected, "leaving out layers", loss=loss)
            continue
        kept.remove(layer)
        removed.append(LayerCost(layer, loss, after))
        loss = after
    return _with_layers(network, kept), removed, num_readings


@torch.no_grad()
def loss_with(network: Network, layers: Sequence[int], batches: Sequence[Batch]) -> float:
    """Loss in nats per token with these layers only."""
    whole = network.model.layers
    network.model.layers = nn.ModuleList(whole[layer] for layer in layers)
    try:
        total = weight = 0.0
        for batch in batches:
            hidden_BTD = network(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT)
            weights_N = batch.weights_BT.flatten()
            loss, _ = fused_cross_entropy(
                hidden_BTD.flatten(0, 1), network.head_weight, batch.targets_BT.flatten(), weights_N
            )
            total += loss.item()
            weight += float(weights_N.sum())
    finally:
        network.model.layers = whole
    return total / weight


def _with_layers(network: Network, layers: Sequence[int]) -> Network:
    """A network of these layers, renumbered."""
    state = {}
    for name, tensor in network.state_dict().items():
        if name.startswith("model.layers."):
            number, _, rest = name.removeprefix("model.layers.").partition(".")
            if int(number) not in layers:
                continue
            name = f"model.layers.{layers.index(int(number))}.{rest}"
        state[name] = tensor.clone()
    return filled(replace(network.config, num_layers=len(layers)), state)
