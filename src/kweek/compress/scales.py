"""Scales of groups, and rounding to the nearest code.

A group is 32 neighbours of a row; a weight becomes code * scale with a code of b bits, from -2^(b-1) to 2^(b-1) - 1.
Scales may be negative: the range is lopsided, and a negative scale puts its longer side where the group's largest
weight lies. All scales are rounded to fp16 here, before any code is chosen, so what is chosen is what is stored.
Shapes: R rows, C columns, G groups per row, S the 32 weights of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kweek.model.quantized import GROUP_SIZE, NUM_BITS, code_range

#: Steps between zero and the group's largest weight that a searched scale may have, as shares of the longer side of
#: the range. Above 1 the largest weight is clipped, below that the grid is coarser than it need be; both can pay. With
#: four or eight codes in all, far more clipping pays, and much coarser grids too.
_SEARCHED_SHARES = torch.linspace(0.625, 1.125, 33)
_SEARCHED_SHARES_FEW_CODES = torch.arange(12, 51) / 40
_FEW_BITS = 3
_SMALLEST = 2.0**-24  # the least positive fp16, for groups of zeros
_LARGEST = 65504.0  # the greatest fp16


def nearest_scales(weight_RC: Tensor, num_bits: int = NUM_BITS) -> Tensor:
    """The rule of llama.cpp's Q4_0 (`quantize_row_q4_0_ref`): the largest weight of a group gets the lowest code.

    Args:
        weight_RC: fp32, columns a multiple of 32.

    Returns:
        fp32 (R, G) holding fp16 values, of either sign, never zero.
    """
    return storable(_extremes(_groups(weight_RC)) / code_range(num_bits)[0])


def absmax_scales(weight_RC: Tensor, num_bits: int = NUM_BITS) -> Tensor:
    """The rule of most introductions: at 4 bits a group's largest magnitude gets 7 or -7, and -8 goes unused."""
    return storable(_groups(weight_RC).abs().amax(-1) / code_range(num_bits)[1])


def searched_scales(weight_RC: Tensor, num_bits: int = NUM_BITS) -> Tensor:
    """Of 66 to 78 candidates per group, both signs, the scale with the least squared rounding error; as above."""
    lowest, highest = code_range(num_bits)
    shares = _SEARCHED_SHARES if num_bits > _FEW_BITS else _SEARCHED_SHARES_FEW_CODES
    steps_S = -lowest * shares
    weight_RGS = _groups(weight_RC)
    extreme_RG = _extremes(weight_RGS)
    best_RG, error_RG = torch.empty_like(extreme_RG), torch.full_like(extreme_RG, torch.inf)
    for steps in (*steps_S.tolist(), *(-steps_S).tolist()):
        scale_RG = storable(extreme_RG / steps)
        wide = scale_RG.unsqueeze(-1)
        codes = torch.round(weight_RGS / wide).clamp_(lowest, highest)
        found_RG = codes.mul_(wide).sub_(weight_RGS).square_().sum(-1)
        better = found_RG < error_RG
        error_RG = torch.where(better, found_RG, error_RG)
        best_RG = torch.where(better, scale_RG, best_RG)
    return best_RG


def nearest_codes(weight_RC: Tensor, scale_RG: Tensor, num_bits: int = NUM_BITS) -> Tensor:
    """The code nearest to each weight, int8 (R, C)."""
    codes = torch.round(_groups(weight_RC) / scale_RG.unsqueeze(-1)).clamp_(*code_range(num_bits))
    return codes.flatten(1).to(torch.int8)


def dequantize(codes_RC: Tensor, scale_RG: Tensor) -> Tensor:
    """Codes times scales, (R, C) in the dtype of the scales; differentiable in the scales."""
    return (_groups(codes_RC).to(scale_RG.dtype) * scale_RG.unsqueeze(-1)).flatten(1)


def storable(scale_RG: Tensor) -> Tensor:
    """Scales rounded to what fp16 holds: finite and never zero; fp32 (R, G)."""
    rounded = scale_RG.clamp(-_LARGEST, _LARGEST).to(torch.float16).to(torch.float32)
    return torch.where(rounded == 0, _SMALLEST, rounded)


def _groups(x_RC: Tensor) -> Tensor:
    return x_RC.reshape(x_RC.shape[0], -1, GROUP_SIZE)


def _extremes(weight_RGS: Tensor) -> Tensor:
    """The weight of largest magnitude of each group, with its sign; the first of equals."""
    at = weight_RGS.abs().argmax(-1, keepdim=True)
    return weight_RGS.gather(-1, at).squeeze(-1)
