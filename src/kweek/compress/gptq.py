"""GPTQ: rounding in an order, each column's error made good by the columns not yet rounded.

Frantar et al. 2022 (arXiv 2210.17323), algorithm 1, with the order of falling second moments ("act-order") and
scales fixed before the first column, so that codes and scales fit formats with one scale per 32 neighbours.
Shapes: R rows, C columns, G groups per row, K columns of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kweek.compress.scales import HIGHEST, LOWEST
from kweek.model.quantized import GROUP_SIZE

#: Share of the mean second moment added to the diagonal, as in the paper; ten times more measured no better.
DAMPING = 0.01
#: Columns after which the columns further right are corrected in one product. Any number gives the same codes but
#: for rounding; 64 keeps a block in cache.
_BLOCK = 64


def compensated_codes(weight_RC: Tensor, hessian_CC: Tensor, scale_RG: Tensor) -> Tensor:
    """Codes with a small trace(E H E'), E the difference between the weights and code * scale.

    Args:
        weight_RC: fp32.
        hessian_CC: second moments of the inputs, positive semidefinite, any scale; columns without any input allowed.
        scale_RG: fp32 scales of groups of 32, not zero.

    Returns:
        int8 (R, C), from -8 to 7.
    """
    order = torch.argsort(hessian_CC.diagonal(), descending=True, stable=True)
    factor_CC = _inverse_factor(hessian_CC[order][:, order])
    left_RC = weight_RC[:, order]  # advanced indexing copies, so this is ours to change
    scale_RC = scale_RG.repeat_interleave(GROUP_SIZE, dim=1)[:, order]
    codes_RC = torch.empty_like(left_RC)
    num_columns = left_RC.shape[1]
    for start in range(0, num_columns, _BLOCK):
        end = min(start + _BLOCK, num_columns)
        error_RK = torch.empty_like(left_RC[:, start:end])
        for column in range(start, end):
            scale_R = scale_RC[:, column]
            code_R = torch.round(left_RC[:, column] / scale_R).clamp_(LOWEST, HIGHEST)
            error_R = (left_RC[:, column] - code_R * scale_R) / factor_CC[column, column]
            left_RC[:, column + 1 : end].addr_(error_R, factor_CC[column, column + 1 : end], alpha=-1)
            codes_RC[:, column] = code_R
            error_RK[:, column - start] = error_R
        left_RC[:, end:].addmm_(error_RK, factor_CC[start:end, end:], alpha=-1)
    result = torch.empty_like(codes_RC, dtype=torch.int8)
    result[:, order] = codes_RC.to(torch.int8)
    return result


def output_error(change_RC: Tensor, hessian_CC: Tensor) -> float:
    """trace(E H E'): mean over tokens of the squared change of all outputs."""
    return float(((change_RC @ hessian_CC) * change_RC).sum())


def _inverse_factor(hessian_CC: Tensor) -> Tensor:
    """Upper Cholesky factor of the inverse of the damped matrix, fp32; formed in fp64."""
    damped = hessian_CC.to(torch.float64)
    mean = damped.diagonal().mean()
    damped.diagonal().add_(DAMPING * mean if mean > 0 else 1.0)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.to(torch.float32)
