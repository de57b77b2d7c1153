"""Pruning: a smaller network out of a larger one, in order: depth, width, zeros, then distillation.

What comes out is a checkpoint of the same layout as what went in, so that everything which loads the one loads the
other. Whatever of the plan asks for nothing is left out; a plan without cuts but with distillation teaches a network
that was pruned before.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from kweek.compress.hessians import collect
from kweek.compress.prune_depth import LayerCost, shallow
from kweek.compress.prune_sparse import sparsify
from kweek.compress.prune_width import MULTIPLE, narrow, narrowed
from kweek.data.batches import Batch
from kweek.errors import ConfigError, DataError
from kweek.model.config import ModelConfig
from kweek.model.network import Network
from kweek.protocols import Progress, silent

#: Calibration tokens behind the second moments; what quantisation reads too.
MOMENT_TOKENS = 16_384
#: Calibration tokens behind the cost of a layer, read once per layer and more: fewer, since layers differ much.
DEPTH_TOKENS = 4_096


@dataclass(frozen=True)
class Cuts:
    """What to keep.

    Attributes:
        ffn: share of the feed-forward channels, rounded to a multiple of 32.
        num_kv_heads: key heads, each with the queries that read it; None all.
        num_layers: layers; None all.
        sparse: whether two of every four weights become zero.
    """

    #: all of it, because every cut is asked for by name.
    ffn: float = 1.0
    num_kv_heads: int | None = None
    num_layers: int | None = None
    sparse: bool = False

    def ffn_channels(self, config: ModelConfig) -> int:
        """Feed-forward channels that are kept, a multiple of 32. Raises ConfigError for an impossible share."""
        if not 0 < self.ffn <= 1:
            raise ConfigError(f"{self.ffn:g} is not a share to keep", where="ffn", fix="give one such as 0.5")
        if self.ffn == 1:
            return config.intermediate_size
        return max(MULTIPLE, round(self.ffn * config.intermediate_size / MULTIPLE) * MULTIPLE)

    def check(self, config: ModelConfig) -> None:
        """Raise ConfigError when these cuts cannot be made in this network."""
        narrowed(config, self.ffn_channels(config), self.num_kv_heads)
        if self.num_layers is not None and not 1 <= self.num_layers <= config.num_layers:
            raise ConfigError(
                f"{self.num_layers} cannot be kept of {config.num_layers}",
                where="num_layers",
                fix="keep from 1 to all of them",
            )


@dataclass(frozen=True)
class Pruned:
    """A smaller network, not distilled yet.

    Attributes:
        network: fp32, its own memory.
        layers: what was left out of the depth, in that order.
        masks: by parameter name, true where a weight may differ from zero; empty unless it is sparse.
        flop: arithmetic spent on finding out what to keep, fp32.
    """

    network: Network
    layers: list[LayerCost]
    masks: dict[str, Tensor]
    flop: float


def prune_network(
    network: Network, cuts: Cuts, batches: Sequence[Batch], progress: Progress = silent
) -> Pruned:
    """Cut a network down.

    Args:
        network: not changed.
        batches: calibration text in the order in which it is to be read; see `MOMENT_TOKENS` and `DEPTH_TOKENS`.
        progress: counts steps of the work.

    Raises:
        ConfigError: a cut that this network does not allow.
        DataError: no calibration text.
    """
    cuts.check(network.config)
    if not batches:
        raise DataError("there is no calibration text", fix="give documents that are not empty")
    some = _first(batches, DEPTH_TOKENS)
    wanted = cuts.num_layers or network.config.num_layers
    result, layers, num_readings = shallow(network, some, wanted, progress)
    flop = num_readings * _reading_flop(network, some)
    many = _first(batches, MOMENT_TOKENS)
    channels = cuts.ffn_channels(network.config)
    narrower = (channels, cuts.num_kv_heads or network.config.num_kv_heads)
    if narrower != (network.config.intermediate_size, network.config.num_kv_heads):
        progress(0, 2, "measuring channels")
        flop += _reading_flop(result, many)
        moments = collect(result, many).moments
        result = narrow(result, moments, intermediate_size=channels, num_kv_heads=cuts.num_kv_heads)
    if result is network:
        result = copy.deepcopy(network)
    masks: dict[str, Tensor] = {}
    if cuts.sparse:
        progress(1, 2, "choosing zeros")
        flop += _reading_flop(result, many)
        masks = sparsify(result, collect(result, many).moments)
    return Pruned(result, layers, masks, flop)


def _first(batches: Sequence[Batch], num_tokens: int) -> list[Batch]:
    """The batches that hold the first `num_tokens` tokens, at least one."""
    chosen: list[Batch] = []
    for batch in batches:
        if chosen and sum(part.num_tokens for part in chosen) >= num_tokens:
            break
        chosen.append(batch)
    return chosen


def _reading_flop(network: Network, batches: Sequence[Batch]) -> float:
    """FLOP of reading some batches once, without gradient."""
    return sum(
        batch.ids_BT.numel() * network.config.num_flops_per_token(batch.ids_BT.shape[1]) for batch in batches
    )
