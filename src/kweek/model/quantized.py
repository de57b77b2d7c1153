"""Matrices of small integer codes with a scale per group, in the "pack-quantized" layout of compressed-tensors.

A weight is code * scale. A code of b bits (2 to 8) lies in -2^(b-1) .. 2^(b-1) - 1; the scale is shared by 32
neighbours of a row. On disk (as in compressed-tensors 0.20, `pack_quantized/helpers.py`): `weight_packed` int32
(R, C b / 32), a row's codes plus 2^(b-1) as one stream of bits, the first in the lowest bits of the first word;
`weight_scale` (R, G); `weight_shape` int64 (2,). Codes of 3, 5 and 6 bits cross words, so no bit is wasted.
Shapes: R rows, C columns, G groups per row, N runs of 32 codes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kweek.errors import CheckpointError

#: Neighbours that share a scale; what GGUF's Q4_0 and the native kernels use.
GROUP_SIZE = 32
#: Bits of a code unless another number is asked for: the fewest at which trained models lose next to nothing.
NUM_BITS = 4
#: What a code may have. Seven is left out: no kernel or file format uses it.
BIT_WIDTHS = (2, 3, 4, 5, 6, 8)
#: Codes of b bits that fill b words exactly.
_RUN = 32
SUFFIXES = ("weight_packed", "weight_scale", "weight_shape")


def packed_bits(words: int, num_columns: int) -> int | None:
    """Bits of the codes in rows of so many words; None when no number of bits fits, or more than one."""
    found = [bits for bits in BIT_WIDTHS if num_words(num_columns, bits) == words]
    return found[0] if len(found) == 1 else None


def code_range(num_bits: int) -> tuple[int, int]:
    """The least and the greatest code: (-8, 7) for 4 bits."""
    return -(1 << (num_bits - 1)), (1 << (num_bits - 1)) - 1


def num_words(num_columns: int, num_bits: int) -> int:
    """int32 words of a packed row."""
    return -(-num_columns * num_bits // 32)


def pack(codes_RC: Tensor, num_bits: int = NUM_BITS) -> Tensor:
    """Codes (any integer dtype, within `code_range`) to int32 words (R, ceil(C b / 32)); unused bits are zero."""
    rows, columns = codes_RC.shape
    padded = torch.nn.functional.pad(codes_RC.to(torch.int64) - code_range(num_bits)[0], (0, -columns % _RUN))
    run_NC = padded.view(-1, _RUN)
    word_N = run_NC.new_zeros(len(run_NC), num_bits)
    for at in range(_RUN):
        word, shift = divmod(at * num_bits, 32)
        shifted_N = run_NC[:, at] << shift
        word_N[:, word] |= shifted_N & 0xFFFFFFFF
        if shift + num_bits > 32:
            word_N[:, word + 1] |= shifted_N >> 32
    words = torch.where(word_N >= 1 << 31, word_N - (1 << 32), word_N).to(torch.int32)
    return words.view(rows, -1)[:, : num_words(columns, num_bits)].contiguous()


def unpack(words: Tensor, num_columns: int, num_bits: int = NUM_BITS) -> Tensor:
    """The inverse of `pack`: int8 codes (R, `num_columns`)."""
    rows = words.shape[0]
    if num_bits == 4 and sys.byteorder == "little":  # 20 times as fast: two codes to a byte, the first below
        byte_RB = words.contiguous().view(torch.uint8)
        codes_RB2 = torch.stack((byte_RB & 15, byte_RB >> 4), -1).view(torch.int8).sub_(8)
        return codes_RB2.view(rows, -1)[:, :num_columns].contiguous()
    padded = torch.nn.functional.pad(words, (0, -words.shape[1] % num_bits))
    word_N = padded.view(-1, num_bits).to(torch.int64) & 0xFFFFFFFF
    run_NC = torch.empty(len(word_N), _RUN, dtype=torch.int8)
    lowest, mask = code_range(num_bits)[0], (1 << num_bits) - 1
    for at in range(_RUN):
        word, shift = divmod(at * num_bits, 32)
        code_N = word_N[:, word] >> shift
        if shift + num_bits > 32:
            code_N |= word_N[:, word + 1] << (32 - shift)
        run_NC[:, at] = ((code_N & mask) + lowest).to(torch.int8)
    return run_NC.view(rows, -1)[:, :num_columns].contiguous()


@dataclass(frozen=True)
class QuantizedTensor:
    """A matrix of codes.

    Attributes:
        packed: int32 (R, C b / 32).
        scale_RG: fp16, one scale per group.
        shape: (R, C).
        num_bits: b.
    """

    packed: Tensor
    scale_RG: Tensor
    shape: tuple[int, int]
    num_bits: int = NUM_BITS

    @classmethod
    def from_codes(cls, codes_RC: Tensor, scale_RG: Tensor, num_bits: int = NUM_BITS) -> QuantizedTensor:
        """From codes and a scale per group; scales are rounded to fp16, so round them first.

        Raises:
            ValueError: an unknown number of bits, codes outside its range, or groups that do not divide the columns.
        """
        rows, columns = codes_RC.shape
        if num_bits not in BIT_WIDTHS:
            raise ValueError(f"codes of {num_bits} bits are not among {BIT_WIDTHS}")
        lowest, highest = code_range(num_bits)
        if codes_RC.min() < lowest or codes_RC.max() > highest:
            raise ValueError(f"codes must lie in {lowest} .. {highest}")
        if scale_RG.shape[0] != rows or columns % scale_RG.shape[1]:
            raise ValueError(f"{tuple(scale_RG.shape)} scales do not fit a matrix of {rows} x {columns}")
        return cls(pack(codes_RC, num_bits), scale_RG.to(torch.float16), (rows, columns), num_bits)

    def codes(self) -> Tensor:
        """int8 (R, C)."""
        return unpack(self.packed, self.shape[1], self.num_bits)

    def dequantize(self) -> Tensor:
        """fp32 (R, C); exact, because a code of at most 8 bits times an fp16 scale fits into 24 bits."""
        rows, columns = self.shape
        scale = self.scale_RG.to(torch.float32)
        codes = self.codes().to(torch.float32).view(rows, scale.shape[1], -1)
        return codes.mul_(scale.unsqueeze(-1)).view(rows, columns)

    @property
    def num_bytes(self) -> int:
        """Bytes of codes and scales."""
        return self.packed.numel() * 4 + self.scale_RG.numel() * 2

    def tensors(self) -> dict[str, Tensor]:
        """What is stored in place of `weight`, by the last part of the name."""
        return dict(zip(SUFFIXES, (self.packed, self.scale_RG, torch.tensor(self.shape)), strict=True))


def stored_bytes(shape: tuple[int, ...], num_bits: int) -> int:
    """Bytes of a tensor's values and scales: fp16 at 16 bits, else codes with an fp16 scale per group of 32."""
    num_values = 1
    for size in shape:
        num_values *= size
    if num_bits == 16:
        return 2 * num_values
    rows, columns = shape
    return rows * (4 * num_words(columns, num_bits) + 2 * (columns // GROUP_SIZE))


def quantization_config(bits_by_module: Mapping[str, int], ignore: Sequence[str]) -> dict[str, Any]:
    """The `quantization_config` of config.json by which transformers and vLLM load the folder.

    Args:
        bits_by_module: bits of every quantised module by name ("model.layers.0.mlp.up_proj").
        ignore: names of linear modules that are not quantised ("lm_head").

    A single number of bits in all linear modules is said as such, the form that every reader knows; otherwise each
    number of bits has a group that names its modules.
    """
    linear = {name: bits for name, bits in bits_by_module.items() if not name.endswith("embed_tokens")}
    targets: dict[int, list[str]] = {}
    for name, bits in bits_by_module.items():
        targets.setdefault(bits, []).append(name)
    if len(set(linear.values())) == 1:
        bits = next(iter(linear.values()))
        rest = [name for name in targets[bits] if name not in linear]
        targets[bits] = ["Linear", *rest]
    groups = {f"group_{number}": _group(targets[bits], bits) for number, bits in enumerate(sorted(targets))}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": list(ignore),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _group(targets: list[str], num_bits: int) -> dict[str, Any]:
    weights = {
        "num_bits": num_bits,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": GROUP_SIZE,
        "dynamic": False,
    }
    return {
        "targets": targets,
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
        "format": "pack-quantized",
    }


def check_quantization(document: Mapping[str, Any], where: str) -> None:
    """Refuse a `quantization_config` other than symmetric pack-quantized weights of 2, 3, 4, 5, 6 or 8 bits.

    Raises:
        CheckpointError: naming what is not supported.
    """
    if not isinstance(document, Mapping):
        raise CheckpointError("quantization_config is not an object", where=where)
    fix = "use a checkpoint in fp32, fp16, bf16 or compressed-tensors int8 to int2"
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
        kind = (weights.get("type", "int"), weights.get("symmetric", True))
        known = kind == ("int", True) and weights.get("num_bits") in BIT_WIDTHS
        if not known or weights.get("strategy") not in ("group", "channel"):
            raise CheckpointError(
                "only integers of 2, 3, 4, 5, 6 or 8 bits, symmetric, scaled by group or row, are supported",
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
    if len(packed) != 2 or packed[0] != rows or packed_bits(packed[1], columns) is None:
        raise CheckpointError(
            f"tensor {name}.weight_packed is {packed}, which does not fit {shape}",
            where=where,
            fix="write it anew with compressed-tensors 0.20, which packs without gaps",
        )
    if len(scale) != 2 or scale[0] != rows or scale[1] < 1 or columns % scale[1]:
        raise CheckpointError(
            f"tensor {name}.weight_scale is {scale}, which does not fit {shape}", where=where
        )
