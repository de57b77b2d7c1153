"""Matrices as the blocks of GGUF's types: rounded by llama.cpp's rules, or taken over from codes as they are.

A block of 32 neighbours of a row has an fp16 scale and 32 codes (ggml's `block_q4_0`, `block_q5_0`, `block_q8_0`).
Shapes: R rows, C columns, G groups per row, N blocks.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kweek.errors import CheckpointError

#: Types that are written: name to the format's id.
TYPE_IDS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q5_0": 6, "Q8_0": 8, "BF16": 30}
#: Neighbours that a quantised type stores together.
BLOCK_SIZE = 32
_BLOCK_BYTES = {"Q4_0": 2 + 16, "Q5_0": 2 + 4 + 16, "Q8_0": 2 + 32}
_LARGEST_F16 = 65504.0


def num_bytes(shape: tuple[int, ...], type_name: str) -> int:
    """Bytes of a tensor stored in a type."""
    num_values = math.prod(shape)
    if type_name in _BLOCK_BYTES:
        return num_values // BLOCK_SIZE * _BLOCK_BYTES[type_name]
    return num_values * (4 if type_name == "F32" else 2)


def encode(tensor: Tensor, type_name: str, name: str) -> bytes:
    """Values of any shape and floating dtype as the bytes of a type, in the order of rows.

    Args:
        tensor: rows a multiple of 32 long for the quantised types.
        type_name: one of `TYPE_IDS`.
        name: of the tensor, for errors.

    Raises:
        CheckpointError: a value that is not finite, or beyond what the fp16 of the type holds.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    values: NDArray[np.float32] = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    largest = float(np.abs(values).max(initial=0.0))
    if not math.isfinite(largest):
        raise CheckpointError("it holds values that are not finite", where=name)
    # A scale is an 8th (Q4_0) or a 127th (Q8_0) of the largest value, so only F16 itself can overflow early.
    if type_name == "F16" and largest > _LARGEST_F16:
        raise CheckpointError(f"it holds {largest:.3g}, more than fp16 can", where=name, fix="export as f32")
    if type_name == "F32":
        return values.astype("<f4", copy=False).tobytes()
    if type_name == "F16":
        return values.astype("<f2").tobytes()
    raw: NDArray[np.uint8] = quantize(values, GGMLQuantizationType(TYPE_IDS[type_name]))
    return raw.tobytes()


def lossless_type(num_bits: int, num_columns: int, num_groups: int) -> str | None:
    """The smallest type whose blocks hold codes and scales as they are; None where groups do not fill blocks.

    One scale for 64 or 128 neighbours, or for a row, fits too: it is stored once per block.

    Args:
        num_bits: of a code, at most 8.
        num_columns: of the matrix.
        num_groups: scales per row.
    """
    if num_columns % BLOCK_SIZE or num_columns // num_groups % BLOCK_SIZE:
        return None
    return "Q4_0" if num_bits <= 4 else "Q5_0" if num_bits == 5 else "Q8_0"


def encode_codes(codes_RC: Tensor, scale_RG: Tensor, type_name: str) -> bytes:
    """Codes and fp16 scales as blocks: the values that any reader makes of them are code * scale, to the bit.

    Args:
        codes_RC: integers within the reach of the type.
        scale_RG: floating; rounded to fp16, so give what fp16 holds.
        type_name: as `lossless_type` says.
    """
    columns = codes_RC.shape[1]
    per_row = columns // BLOCK_SIZE
    scale_N1 = scale_RG.repeat_interleave(per_row // scale_RG.shape[1], dim=1).reshape(-1, 1)
    scales = scale_N1.to(torch.float16).numpy().astype("<f2", copy=False).view(np.uint8)
    codes = codes_RC.reshape(-1, BLOCK_SIZE).to(torch.int16).numpy()
    return np.concatenate((scales, _pack(codes, type_name)), axis=1).tobytes()


def _pack(codes_NS: NDArray[np.int16], type_name: str) -> NDArray[np.uint8]:
    """The bytes of a block after its scale, (N, ...)."""
    if type_name == "Q8_0":
        return codes_NS.astype(np.uint8)  # in two's complement
    half = BLOCK_SIZE // 2  # the first 16 codes lie in the low half of the bytes, the others in the high half
    if type_name == "Q4_0":
        lifted = (codes_NS + 8).astype(np.uint8)
        return lifted[:, :half] | lifted[:, half:] * np.uint8(16)
    lifted = (codes_NS + 16).astype(np.uint8)
    fifth_bits = np.packbits(lifted >> 4, axis=1, bitorder="little")
    low = lifted % np.uint8(16)
    return np.concatenate((fifth_bits, low[:, :half] | low[:, half:] * np.uint8(16)), axis=1)
