"""How many bits each tensor gets: the same everywhere, or one number for each, by Hugging Face name.

16 means fp16, anything less codes with a scale per group (`kweek.model.quantized`). Norms and biases are always fp16.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kweek.errors import ConfigError
from kweek.model.config import ModelConfig
from kweek.model.layout import tensor_shapes
from kweek.model.quantized import BIT_WIDTHS, GROUP_SIZE, SUFFIXES, num_words, stored_bytes

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
#: A tensor that stays in fp16.
FULL = 16
_SHAPE_BYTES = 16  # of `weight_shape`


def uniform(config: ModelConfig, num_bits: int, embedding_bits: int = FULL) -> dict[str, int]:
    """The same bits for every matrix but the embedding, which other readers want in floating point.

    Args:
        config: of the network.
        num_bits: of every linear matrix and of an untied head, one of `BIT_WIDTHS`.
        embedding_bits: of the embedding, and so of a tied head; one of `BIT_WIDTHS` or 16.

    Raises:
        ConfigError: another number of bits.
    """
    for bits, key, known in (
        (num_bits, "--bits", BIT_WIDTHS),
        (embedding_bits, "--embedding-bits", (*BIT_WIDTHS, FULL)),
    ):
        if bits not in known:
            choices = ", ".join(map(str, known))
            raise ConfigError(f"there are no codes of {bits} bits", where=key, fix=f"use one of {choices}")
    matrices = [name for name, shape in tensor_shapes(config).items() if len(shape) == 2]
    return {name: embedding_bits if name == EMBEDDING else num_bits for name in matrices}


def check(config: ModelConfig, widths: Mapping[str, int]) -> None:
    """See that the widths name every matrix of the network, and none other, and that groups divide the columns.

    Raises:
        ConfigError: a matrix whose columns are no multiple of 32.
        ValueError: names or numbers that do not fit; a matrix other than embedding and head in fp16.
    """
    shapes = {name: shape for name, shape in tensor_shapes(config).items() if len(shape) == 2}
    if set(widths) != set(shapes):
        raise ValueError(f"widths are not those of this network: {sorted(set(widths) ^ set(shapes))[:2]}")
    for name, bits in widths.items():
        if bits == FULL and name in (EMBEDDING, HEAD):
            continue
        if bits not in BIT_WIDTHS:
            raise ValueError(f"{name} cannot have {bits} bits")
        if shapes[name][1] % GROUP_SIZE:
            raise ConfigError(
                f"{shapes[name][1]} columns do not divide into groups of {GROUP_SIZE}",
                where=name,
                fix=f"quantise a network whose widths are multiples of {GROUP_SIZE}",
            )


def file_bytes(config: ModelConfig, widths: Mapping[str, int]) -> int:
    """Bytes of `model.safetensors` with these widths, to the byte."""
    shapes = tensor_shapes(config)
    values = sum(stored_bytes(shape, widths.get(name, FULL)) for name, shape in shapes.items())
    packed = sum(widths.get(name, FULL) != FULL for name in shapes)
    return header_bytes(config, widths) + values + packed * _SHAPE_BYTES


def header_bytes(config: ModelConfig, widths: Mapping[str, int]) -> int:
    """Bytes of the header of that file (see `kweek.model.tensors.write_tensors`); they grow with the bits."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in tensor_shapes(config).items():
        bits = widths.get(name, FULL)
        for part, dtype, size, num_bytes in _parts(name, shape, bits):
            offsets = [position, position + num_bytes]
            header[part] = {"dtype": dtype, "shape": list(size), "data_offsets": offsets}
            position += num_bytes
    length = len(json.dumps(header, separators=(",", ":")))
    return 8 + length + -length % 8


def _parts(name: str, shape: tuple[int, ...], bits: int) -> list[tuple[str, str, tuple[int, ...], int]]:
    """What is stored of a tensor: name, dtype, shape and bytes."""
    if bits == FULL:
        return [(name, "F16", shape, stored_bytes(shape, FULL))]
    rows, columns = shape
    words, groups = num_words(columns, bits), columns // GROUP_SIZE
    sizes = [("I32", (rows, words), 4 * rows * words), ("F16", (rows, groups), 2 * rows * groups)]
    base = name.removesuffix(".weight")
    stored = [*sizes, ("I64", (2,), _SHAPE_BYTES)]
    return [(f"{base}.{suffix}", *part) for suffix, part in zip(SUFFIXES, stored, strict=True)]
