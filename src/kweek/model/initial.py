"""The weights a network starts from."""

from __future__ import annotations

import math

import torch
from torch import nn

from kweek.model.network import Network


@torch.no_grad()
def initialise(network: Network, generator: torch.Generator) -> None:
    """Fill every parameter in place, from `generator` alone.

    Matrices are normal with variance 1 / fan-in, so that activations keep their size (LeCun et al. 1998,
    "Efficient BackProp", section 4.6). The projections back into the residual stream (`o_proj`, `down_proj`)
    are zero, so that at first every block is the identity: part of the .16 bits per byte that the layout
    brought in our trial. The head is zero: the first prediction is uniform, its loss exactly ln V. A tied
    embedding also serves as head and has variance 1 / D. An untied one has variance 1, so that the residual
    stream starts at the size that a norm gives.
    """
    width = network.config.hidden_size
    for name, parameter in network.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight", "bias")):
            parameter.zero_()
        elif name.endswith("embed_tokens.weight"):
            std = 1 / math.sqrt(width) if network.config.tied_embeddings else 1.0
            parameter.normal_(0.0, std, generator=generator)
        elif parameter.ndim == 2:
            parameter.normal_(0.0, 1 / math.sqrt(parameter.shape[1]), generator=generator)
    for module in network.modules():
        if isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)
