"""Two zeros in every four weights: the pattern that sparse tensor cores of GPUs multiply at twice the speed.

SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774, algorithm 1) on the same second moments as GPTQ: of four
neighbours of a row the two go whose loss costs least once the weights to their right have made it good.
On a CPU and in GGUF such zeros save nothing; narrower or shallower networks do (see `kweek.compress.prune`).
Shapes: R rows, C columns, S the 4 neighbours of a group.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kweek.compress.gptq import inverse_factor
from kweek.errors import ConfigError
from kweek.model.network import Network

GROUP, ZEROS = 4, 2
#: Columns after which the columns further right are corrected in one product; a multiple of `GROUP`.
_BLOCK = 64


def sparsify(network: Network, moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Set two of every four weights of every matrix to zero, in place; embedding and head stay whole.

    Args:
        moments: second moments of the inputs by parameter name (`kweek.compress.hessians.collect`).

    Returns:
        bool masks by parameter name, true where a weight is kept.

    Raises:
        ConfigError: a matrix whose columns do not divide into fours.
    """
    masks = {}
    with torch.no_grad():
        for name, moments_CC in moments.items():
            parameter = network.get_parameter(name)
            if parameter.shape[1] % GROUP:
                raise ConfigError(
                    f"{parameter.shape[1]} columns do not divide into groups of {GROUP}", where=name
                )
            weight_RC, masks[name] = sparse(parameter.detach(), moments_CC)
            parameter.copy_(weight_RC)
    return masks


def sparse(weight_RC: Tensor, moments_CC: Tensor) -> tuple[Tensor, Tensor]:
    """The weights with two zeros in every four, and the mask of those kept, (R, C) fp32 and bool."""
    factor_CC = inverse_factor(moments_CC)
    left_RC = weight_RC.to(torch.float32).clone()
    mask_RC = torch.ones_like(left_RC, dtype=torch.bool)
    num_columns = left_RC.shape[1]
    for start in range(0, num_columns, _BLOCK):
        end = min(start + _BLOCK, num_columns)
        error_RK = torch.zeros_like(left_RC[:, start:end])
        for column in range(start, end):
            if column % GROUP == 0:
                group = slice(column, column + GROUP)
                cost_RS = (left_RC[:, group] / factor_CC.diagonal()[group]).square()
                zeros = cost_RS.topk(ZEROS, dim=1, largest=False).indices
                mask_RC[:, group] = mask_RC[:, group].scatter(1, zeros, False)
            lost_R = torch.where(mask_RC[:, column], 0.0, left_RC[:, column])
            error_R = lost_R / factor_CC[column, column]
            left_RC[:, column:end] -= error_R[:, None] * factor_CC[column, column:end]
            error_RK[:, column - start] = error_R
        left_RC[:, end:] -= error_RK @ factor_CC[start:end, end:]
    return left_RC * mask_RC, mask_RC
