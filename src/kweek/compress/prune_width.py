"""Narrower networks: feed-forward channels and whole key groups taken out, and what is left made to fit.

A channel's weight is the root mean square of its activation on calibration text times the norm of its column of the
down projection: its share of what the layer adds to the stream (Wanda's measure, Sun et al. 2023, arXiv 2306.11695,
for whole channels; as in Minitron, Muralidharan et al. 2024, arXiv 2407.14679, section 2.2). A key head goes together
with the queries that read it; its weight is the same product over its columns of the output projection. After the cut
the down and output projections are fitted anew by least squares, so that what is left says as much as it can of what
was said before.
Shapes: D width, F ffn, K key heads, Z = heads times head dimension, C columns of a matrix, L columns kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kweek.errors import ConfigError
from kweek.model.config import ModelConfig
from kweek.model.network import Network

#: Share of the mean second moment added to the diagonal before a fit, so that idle channels do no harm; as in GPTQ.
DAMPING = 0.01
#: Widths that 4-bit formats, with a scale per 32 neighbours, can hold.
MULTIPLE = 32


def down_name(layer: int) -> str:
    """The down projection of a layer, as a parameter and as a key of the second moments."""
    return f"model.layers.{layer}.mlp.down_proj.weight"


def output_name(layer: int) -> str:
    """The output projection of a layer, likewise."""
    return f"model.layers.{layer}.self_attn.o_proj.weight"


def channel_weights(weight_DC: Tensor, moments_CC: Tensor) -> Tensor:
    """Root mean square of each input times the norm of its column, (C,) fp32."""
    norms_C: Tensor = torch.linalg.vector_norm(weight_DC, dim=0)
    return norms_C * moments_CC.diagonal().clamp_min(0).sqrt()


def ffn_weights(network: Network, moments: Mapping[str, Tensor], layer: int) -> Tensor:
    """How much each feed-forward channel of a layer matters, (F,)."""
    name = down_name(layer)
    return channel_weights(network.get_parameter(name).detach(), moments[name])


def kv_weights(network: Network, moments: Mapping[str, Tensor], layer: int) -> Tensor:
    """How much each key head of a layer matters, with the queries that read it, (K,)."""
    name = output_name(layer)
    weights_Z = channel_weights(network.get_parameter(name).detach(), moments[name])
    weights_K: Tensor = torch.linalg.vector_norm(weights_Z.view(network.config.num_kv_heads, -1), dim=1)
    return weights_K


def heaviest(weights: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest weights in rising order, (count,) int64."""
    return torch.topk(weights, count).indices.sort().values


def refit(weight_DC: Tensor, moments_CC: Tensor, kept_L: Tensor) -> Tensor:
    """The matrix (D, L) over the kept inputs whose outputs are nearest to those of the whole, fp32.

    Least squares over the calibration tokens: W H[:, kept] H[kept, kept]^-1, formed in fp64.
    """
    moments = moments_CC.to(torch.float64)
    inner_LL = moments[kept_L][:, kept_L].clone()
    mean = inner_LL.diagonal().mean()
    damping = torch.where(mean > 0, DAMPING * mean, torch.ones_like(mean))
    # Damping towards the kept columns as they are, not towards zero: only the correction is shrunk.
    lost_C = torch.ones(moments.shape[0], dtype=torch.bool, device=moments.device)
    lost_C[kept_L] = False
    weight = weight_DC.to(torch.float64)
    owed_DL = weight[:, lost_C] @ moments[lost_C][:, kept_L]
    inner_LL.diagonal().add_(damping)
    correction_LD = torch.cholesky_solve(owed_DL.t(), torch.linalg.cholesky(inner_LL))
    fitted: Tensor = (weight[:, kept_L] + correction_LD.t()).to(torch.float32)
    return fitted


def narrow(
    network: Network,
    moments: Mapping[str, Tensor],
    *,
    intermediate_size: int | None = None,
    num_kv_heads: int | None = None,
) -> Network:
    """A network with fewer feed-forward channels and key heads; every layer keeps its own heaviest.

    Args:
        network: fp32; not changed.
        moments: second moments of the inputs of every matrix (`kweek.compress.hessians.collect`).
        intermediate_size: channels to keep, None all.
        num_kv_heads: key heads to keep, None all; the queries per key head stay as many.

    Raises:
        ConfigError: a size that is not below the present one, below one, or gives a width no multiple of 32.
    """
    config = narrowed(network.config, intermediate_size, num_kv_heads)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for layer in range(config.num_layers):
        at = f"model.layers.{layer}."
        if config.intermediate_size < network.config.intermediate_size:
            kept_L = heaviest(ffn_weights(network, moments, layer), config.intermediate_size)
            _keep_rows(state, [f"{at}mlp.gate_proj", f"{at}mlp.up_proj"], kept_L)
            state[down_name(layer)] = refit(state[down_name(layer)], moments[down_name(layer)], kept_L)
        if config.num_kv_heads < network.config.num_kv_heads:
            groups = heaviest(kv_weights(network, moments, layer), config.num_kv_heads)
            kept_L = _rows_of(groups, network.config.query_size // network.config.num_kv_heads)
            _keep_rows(state, [f"{at}self_attn.q_proj"], kept_L)
            pairs = [f"{at}self_attn.k_proj", f"{at}self_attn.v_proj"]
            _keep_rows(state, pairs, _rows_of(groups, config.head_dim))
            state[output_name(layer)] = refit(state[output_name(layer)], moments[output_name(layer)], kept_L)
    return filled(config, state)


def narrowed(config: ModelConfig, intermediate_size: int | None, num_kv_heads: int | None) -> ModelConfig:
    """The shape after the cut. Raises ConfigError as `narrow`."""
    sizes = {"intermediate_size": intermediate_size, "num_kv_heads": num_kv_heads}
    for name, size in sizes.items():
        present = getattr(config, name)
        if size is not None and not 1 <= size <= present:
            raise ConfigError(
                f"{size} cannot be kept of {present}", where=name, fix="keep from 1 to all of them"
            )
    groups = num_kv_heads or config.num_kv_heads
    result = replace(
        config,
        intermediate_size=intermediate_size or config.intermediate_size,
        num_kv_heads=groups,
        num_heads=config.num_heads // config.num_kv_heads * groups,
    )
    for name, width in (("intermediate_size", result.intermediate_size), ("key heads", result.kv_size)):
        if width % MULTIPLE:
            raise ConfigError(
                f"a width of {width} is no multiple of {MULTIPLE}, which 4-bit formats need",
                where=name,
                fix=f"keep a number that gives a multiple of {MULTIPLE}",
            )
    return result


def filled(config: ModelConfig, state: Mapping[str, Tensor]) -> Network:
    """A network of this shape with these weights, by Hugging Face name."""
    network = Network(config)
    network.load_state_dict(dict(state))
    return network


def _keep_rows(state: dict[str, Tensor], names: Sequence[str], rows: Tensor) -> None:
    for name in names:
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in state:
                state[f"{name}.{kind}"] = state[f"{name}.{kind}"][rows]


def _rows_of(groups: Tensor, size: int) -> Tensor:
    """The rows of some groups of `size` neighbours each."""
    return (groups[:, None] * size + torch.arange(size, device=groups.device)).flatten()
