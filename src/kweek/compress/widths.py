"""How many bits each tensor gets: the same everywhere, or one number for each, by Hugging Face name.

16 means fp16, anything less codes with a scale per group (`kweek.model.quantized`). Norms and biases are always fp16.
"""

from __future__ import annotations

from collections.abc import Mapping

from kweek.errors import ConfigError
from kweek.model.config import ModelConfig
from kweek.model.layout import tensor_shapes
from kweek.model.quantized import BIT_WIDTHS, GROUP_SIZE, SUFFIXES, stored_bytes

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
#: A tensor that stays in fp16.
FULL = 16
#: A tensor's entry in the header of a safetensors file is 90 to 125 bytes long, its name being most of it.
_HEADER_BYTES = 90


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
    """Bytes of `model.safetensors` with these widths, its header included (to a percent of the header)."""
    total = 8
    for name, shape in tensor_shapes(config).items():
        bits = widths.get(name, FULL)
        total += stored_bytes(shape, bits)
        parts = SUFFIXES if bits != FULL else ("weight",)
        total += len(parts) * (_HEADER_BYTES + len(name)) + (16 if bits != FULL else 0)
    return total
