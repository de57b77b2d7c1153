"""Matrices of 4-bit codes with a scale per group, in the "pack-quantized" layout of compressed-tensors.

A weight is code * scale, the code from -8 to 7, the scale shared by 32 neighbours of a row. On disk (as in
compressed-tensors 0.20, `pack_quantized/helpers.py`): `weight_packed` int32 (R, C / 8), eight codes plus 8 in
a word, the first in the lowest bits; `weight_scale` (R, G); `weight_shape` int64 (2,).
Shapes: R rows, C columns, G groups per row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kweek.errors import CheckpointError

#: Neighbours that share a scale; what GGUF's Q4_0 and the native kernels use.
GROUP_SIZE = 32
NUM_BITS = 4
_CODES_PER_WORD = 32 // NUM_BITS
_OFFSET = 1 << (NUM_BITS - 1)
SUFFIXES = ("weight_packed", "weight_scale", "weight_shape")


def pack(codes_RC: Tensor) -> Tensor:
    """Codes from -8 to 7 (any integer dtype) to int32 words (R, ceil(C / 8)); a last short word has zeros."""
    rows, columns = codes_RC.shape
    padded = torch.nn.functional.pad(codes_RC.to(torch.int64) + _OFFSET, (0, -columns % _CODES_PER_WORD))
    shifts = torch.arange(_CODES_PER_WORD) * NUM_BITS
    words = (padded.view(rows, -1, _CODES_PER_WORD) << shifts).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def unpack(words: Tensor, num_columns: int) -> Tensor:
    """The inverse of `pack`: int8 codes (R, `num_columns`)."""
    shifts = torch.arange(_CODES_PER_WORD, dtype=torch.int32) * NUM_BITS
    codes = (words.unsqueeze(-1) >> shifts) & 0xF
    return (codes.flatten(-2)[:, :num_columns] - _OFFSET).to(torch.int8)


@dataclass(frozen=True)
class QuantizedTensor:
    """A matrix of 4-bit codes.

    Attributes:
        packed: int32 (R, C / 8).
        scale_RG: fp16, one scale per group.
        shape: (R, C).
    """

    packed: Tensor
    scale_RG: Tensor
    shape: tuple[int, int]

    @classmethod
    def from_codes(cls, codes_RC: Tensor, scale_RG: Tensor) -> QuantizedTensor:
        """From codes in -8 .. 7 and a scale per group; scales are rounded to fp16, so round them first.

        Raises:
            ValueError: codes outside the range, or groups that do not divide the columns.
        """
        rows, columns = codes_RC.shape
        if codes_RC.min() < -_OFFSET or codes_RC.max() >= _OFFSET:
            raise ValueError(f"codes must lie in {-_OFFSET} .. {_OFFSET - 1}")
        if scale_RG.shape[0] != rows or columns % scale_RG.shape[1]:
            raise ValueError(f"{tuple(scale_RG.shape)} scales do not fit a matrix of {rows} x {columns}")
        return cls(pack(codes_RC), scale_RG.to(torch.float16), (rows, columns))

    def codes(self) -> Tensor:
        """int8 (R, C)."""
        return unpack(self.packed, self.shape[1])

    def dequantize(self) -> Tensor:
        """fp32 (R, C); exact, because a 4-bit code times an fp16 scale fits into 24 bits."""
        rows, columns = self.shape
        scale = self.scale_RG.to(torch.float32)
        codes = self.codes().to(torch.float32).view(rows, scale.shape[1], -1)
        return (codes * scale.unsqueeze(-1)).view(rows, columns)

    @property
    def num_bytes(self) -> int:
        """Bytes of codes and scales."""
        return self.packed.numel() * 4 + self.scale_RG.numel() * 2

    def tensors(self) -> dict[str, Tensor]:
        """What is stored in place of `weight`, by the last part of the name."""
        return dict(zip(SUFFIXES, (self.packed, self.scale_RG, torch.tensor(self.shape)), strict=True))


def quantization_config(ignore: Sequence[str]) -> dict[str, Any]:
    """The `quantization_config` of config.json by which transformers and vLLM load the folder.

    Args:
        ignore: names of linear modules that are not quantised ("lm_head").
    """
    weights = {
        "num_bits": NUM_BITS,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": GROUP_SIZE,
        "dynamic": False,
    }
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group | {"format": "pack-quantized"}},
        "ignore": list(ignore),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def check_quantization(document: Mapping[str, Any], where: str) -> None:
    """Refuse a `quantization_config` other than 4-bit symmetric pack-quantized weights.

    Raises:
        CheckpointError: naming what is not supported.
    """
    if not isinstance(document, Mapping):
        raise CheckpointError("quantization_config is not an object", where=where)
    fix = "use a checkpoint in fp32, fp16, bf16 or compressed-tensors int4"
    method = document.get("quant_method")
    if method != "compressed-tensors" or document.get("format") != "pack-quantized":
        named = f"{method} {document.get('format') or ''}".strip()
        raise CheckpointError(f"quantisation by {named} is not supported", where=where, fix=fix)
    groups = document.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) and groups else [None]:
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(weights, Mapping):
            raise CheckpointError(
                "config_groups does not say how weights are quantised", where=where, fix=fix
            )
        kind = (weights.get("num_bits"), weights.get("type", "int"), weights.get("symmetric", True))
        if kind != (NUM_BITS, "int", True) or weights.get("strategy") not in ("group", "channel"):
            raise CheckpointError(
                "only weights of 4 bits, symmetric, scaled by group or row are supported",
                where=where,
                fix=fix,
            )
        if isinstance(group, Mapping) and group.get("input_activations"):
            raise CheckpointError("quantised activations are not supported", where=where, fix=fix)


def check_parts(name: str, shapes: Mapping[str, tuple[int, ...]], shape: tuple[int, ...], where: str) -> None:
    """Check the shapes of the stored parts of the matrix `name` (without ".weight") against its own.

    Raises:
        CheckpointError: a missing part or a wrong shape.
    """
    for suffix in SUFFIXES:
        if f"{name}.{suffix}" not in shapes:
            raise CheckpointError(f"tensor {name}.{suffix} is missing", where=where)
    rows, columns = shape
    packed, scale = shapes[f"{name}.weight_packed"], shapes[f"{name}.weight_scale"]
    words = -(-columns // _CODES_PER_WORD)
    if packed != (rows, words):
        raise CheckpointError(
            f"tensor {name}.weight_packed is {packed} instead of {(rows, words)}", where=where
        )
    if len(scale) != 2 or scale[0] != rows or scale[1] < 1 or columns % scale[1]:
        raise CheckpointError(
            f"tensor {name}.weight_scale is {scale}, which does not fit {shape}", where=where
        )
