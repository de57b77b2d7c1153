"""Weights as the native library wants them: tiles of 16 outputs, in f32, f16, 8 or 4 bits.

Legend: O outputs, I inputs, G groups of 32 inputs, N tiles of 16 outputs.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from kweek.errors import KweekError

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
#: How matrices are held; norms, biases and rotations stay f32.
WeightFormat = Literal["f32", "f16", "q8", "q4"]
TYPES: dict[WeightFormat, int] = {name: number for number, name in enumerate(get_args(WeightFormat))}
TILE, GROUP = 16, 32
_ALIGNMENT = 64  # bytes: a vector never straddles two cache lines


def pack(weight_OI: Floats, form: WeightFormat) -> Bytes:
    """A matrix in tiles; see native/kernels.h for the layouts.

    Raises:
        KweekError: 8 or 4 bits, and the inputs are not whole groups of 32.
    """
    outputs, inputs = weight_OI.shape
    if form in ("q8", "q4") and inputs % GROUP:
        raise KweekError(
            f"a matrix with {inputs} inputs has no whole groups of {GROUP} for {form}", fix="use f16 or f32"
        )
    padded_OI = np.zeros((-(-outputs // TILE) * TILE, inputs), np.float32)
    padded_OI[:outputs] = weight_OI
    if form in ("f32", "f16"):
        tiles_NIO = padded_OI.reshape(-1, TILE, inputs).transpose(0, 2, 1)
        return aligned(tiles_NIO.astype(np.float32 if form == "f32" else np.float16))
    codes_OI, scale_OG = (eight_bits if form == "q8" else four_bits)(padded_OI)
    groups = inputs // GROUP
    if form == "q8":
        codes: npt.NDArray[np.uint8] = codes_OI.view(np.uint8).reshape(-1, TILE, groups, 8, 4)
        codes = codes.transpose(0, 2, 3, 1, 4)
    else:
        halves = (codes_OI + 8).view(np.uint8).reshape(-1, TILE, groups, 4, 2, 4)
        codes = (halves[:, :, :, :, 0] | halves[:, :, :, :, 1] << np.uint8(4)).transpose(0, 2, 3, 1, 4)
    scales = scale_OG.reshape(-1, TILE, groups).transpose(0, 2, 1)
    parts = [np.ascontiguousarray(part).view(np.uint8).reshape(len(scales), -1) for part in (codes, scales)]
    return aligned(np.concatenate(parts, axis=1))


def eight_bits(weight_OI: Floats) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """Codes from -127 to 127 and a scale per group (O, G), by the largest weight of the group (GGUF's Q8_0)."""
    groups_OGI = weight_OI.reshape(len(weight_OI), -1, GROUP)
    scale_OG = (np.abs(groups_OGI).max(-1) / 127).astype(np.float16)
    codes = np.rint(groups_OGI * _inverse(scale_OG)[..., None])
    return np.clip(codes, -127, 127).astype(np.int8).reshape(weight_OI.shape), scale_OG


def four_bits(weight_OI: Floats) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """Codes from -8 to 7 and a scale per group (O, G).

    A group that some 4-bit code with an fp16 scale already represents exactly keeps its codes: what GPTQ chose is
    not rounded a second time. All others follow the rule of GGUF's Q4_0: the largest weight gets code -8.
    """
    groups_OGI = weight_OI.reshape(len(weight_OI), -1, GROUP)
    index = np.abs(groups_OGI).argmax(-1)
    largest_OG = np.take_along_axis(groups_OGI, index[..., None], -1)[..., 0]
    scale_OG = (largest_OG / -8).astype(np.float16)
    codes = _codes(groups_OGI, scale_OG)
    undecided = (codes * scale_OG.astype(np.float32)[..., None] != groups_OGI).any(-1)
    for divisor in (-7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7):
        if not undecided.any():
            break
        trial_OG = (largest_OG[undecided] / divisor).astype(np.float16)
        trial = _codes(groups_OGI[undecided], trial_OG)
        exact = (trial * trial_OG.astype(np.float32)[..., None] == groups_OGI[undecided]).all(-1)
        where = tuple(axis[exact] for axis in np.nonzero(undecided))
        codes[where], scale_OG[where] = trial[exact], trial_OG[exact]
        undecided[where] = False
    return codes.astype(np.int8).reshape(weight_OI.shape), scale_OG


def _codes(groups_OGI: Floats, scale_OG: npt.NDArray[np.float16]) -> Floats:
    codes: Floats = np.clip(np.rint(groups_OGI * _inverse(scale_OG)[..., None]), -8, 7)
    return codes


def _inverse(scale_OG: npt.NDArray[np.float16]) -> Floats:
    scale = scale_OG.astype(np.float32)
    return np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)


def aligned(values: npt.NDArray[np.generic]) -> Bytes:
    """The bytes of an array, beginning at a multiple of 64."""
    raw = np.empty(values.nbytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    result = raw[start : start + values.nbytes]
    result[:] = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
    return result
