"""GPTQ: rounding in an order, each column's error made good by the columns not yet rounded.

Frantar et al. 2022 (arXiv 2210.17323), algorithm 1, with the order of falling second moments ("act-order") and
scales fixed before the first column, so that codes and scales fit formats with one scale per 32 neighbours.
Shapes: R rows, C columns, G groups per row, K columns of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kweek.model.quantized import GROUP_SIZE, NUM_BITS, code_range

#: Share of the mean second moment added to the diagonal, as in the paper; ten times more measured no better.
DAMPING = 0.01
#: Columns after which the columns further right are corrected in one product. Any number gives the same codes but
#: for rounding; 64 keeps a block in cache.
_BLOCK = 64


def compensated_codes(
    weight_RC: Tensor, hessian: Tensor, scale_RG: Tensor, num_bits: int = NUM_BITS
) -> Tensor:
    """Codes with a small sum over rows of e H e', e a row's difference between the weights and code * scale.

    Args:
        weight_RC: fp32.
        hessian: second moments of the inputs, (C, C) for all rows or (R, C, C) one for each; positive
            semidefinite, of any size; columns without any input allowed.
        scale_RG: fp32 scales of groups of 32, not zero.
        num_bits: of a code.

    Returns:
        int8 (R, C), within `code_range`.
    """
    diagonal_C = hessian.diagonal(dim1=-2, dim2=-1).reshape(-1, hessian.shape[-1]).mean(0)
    order = torch.argsort(diagonal_C, descending=True, stable=True)
    factor = inverse_factor(hessian[..., order, :][..., order])
    left_RC = weight_RC[:, order]  # advanced indexing copies, so this is ours to change
    scale_RC = scale_RG.repeat_interleave(GROUP_SIZE, dim=1)[:, order]
    codes_RC = torch.empty_like(left_RC)
    num_columns, limits = left_RC.shape[1], code_range(num_bits)
    for start in range(0, num_columns, _BLOCK):
        end = min(start + _BLOCK, num_columns)
        error_RK = torch.empty_like(left_RC[:, start:end])
        for column in range(start, end):
            scale_R = scale_RC[:, column]
            code_R = torch.round(left_RC[:, column] / scale_R).clamp_(*limits)
            error_R = (left_RC[:, column] - code_R * scale_R) / factor[..., column, column]
            left_RC[:, column + 1 : end] -= error_R[:, None] * factor[..., column, column + 1 : end]
            codes_RC[:, column] = code_R
            error_RK[:, column - start] = error_R
        right = factor[..., start:end, end:]
        left_RC[:, end:] -= error_RK @ right if right.dim() == 2 else (error_RK[:, None] @ right)[:, 0]
    result = torch.empty_like(codes_RC, dtype=torch.int8)
    result[:, order] = codes_RC.to(torch.int8)
    return result


def output_error(change_RC: Tensor, hessian_CC: Tensor) -> float:
    """trace(E H E'): mean over tokens of the squared change of all outputs."""
    return float(((change_RC @ hessian_CC) * change_RC).sum())


def inverse_factor(hessian: Tensor) -> Tensor:
    """Upper Cholesky factors of the inverses of the damped matrices (..., C, C), fp32; formed in fp64."""
    damped = hessian.to(torch.float64, copy=True)
    diagonal = damped.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(-1, keepdim=True)
    diagonal.add_(torch.where(mean > 0, DAMPING * mean, 1.0))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.to(torch.float32)
