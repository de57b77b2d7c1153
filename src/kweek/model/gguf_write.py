"""GGUF files, written as a stream: header, metadata, descriptions of the tensors, then their bytes one by one.

Version 3 of the format, little-endian, data aligned to 32 bytes. What the numbers mean is said in `gguf_file`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from kweek.errors import CheckpointError
from kweek.model.gguf_blocks import TYPE_IDS, num_bytes
from kweek.model.gguf_file import MAGIC

_VERSION = 3
_ALIGNMENT = 32  # the format's default, which needs no metadata
_MAX_NAME_BYTES = 63  # ggml's buffer for names, less the zero at its end
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9

#: A whole number is written as uint32, in a list as int32; llama.cpp wants exactly these types.
Value = bool | int | float | str | Sequence[str] | Sequence[int]


@dataclass(frozen=True)
class TensorToWrite:
    """A tensor: its name and shape (first dimension first), stored type, and its bytes in pieces when asked for."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    pieces: Callable[[], Iterable[bytes]]


def write_gguf(stream: BinaryIO, fields: Mapping[str, Value], tensors: Sequence[TensorToWrite]) -> None:
    """Write a whole file.

    Args:
        stream: takes the bytes, from its beginning.
        fields: the metadata, in the order of the file.
        tensors: in the order of the file.

    Raises:
        CheckpointError: a name too long for llama.cpp, or a number that does not fit into 32 bits.
    """
    head = MAGIC + struct.pack("<IQQ", _VERSION, len(tensors), len(fields))
    head += b"".join(_text(key) + _typed(key, value) for key, value in fields.items())
    sizes = [num_bytes(tensor.shape, tensor.type_name) for tensor in tensors]
    offset = 0
    for tensor, size in zip(tensors, sizes, strict=True):
        if len(tensor.name.encode()) > _MAX_NAME_BYTES:
            raise CheckpointError(f"the name is longer than {_MAX_NAME_BYTES} bytes", where=tensor.name)
        head += _text(tensor.name) + struct.pack("<I", len(tensor.shape))
        head += struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
        head += struct.pack("<IQ", TYPE_IDS[tensor.type_name], offset)
        offset += size + -size % _ALIGNMENT
    stream.write(head + bytes(-len(head) % _ALIGNMENT))
    for tensor, size in zip(tensors, sizes, strict=True):
        written = 0
        for piece in tensor.pieces():
            written += len(piece)
            stream.write(piece)
        if written != size:
            raise ValueError(f"{tensor.name}: {written} bytes instead of {size}")
        stream.write(bytes(-size % _ALIGNMENT))


def _text(value: str) -> bytes:
    # Lone surrogates cannot be written; no published vocabulary holds one.
    data = value.encode("utf-8", "replace")
    return struct.pack("<Q", len(data)) + data


def _typed(key: str, value: Value) -> bytes:
    """Type and value of an entry."""
    try:
        if isinstance(value, bool):
            return struct.pack("<I?", _BOOL, value)
        if isinstance(value, int):
            return struct.pack("<II", _U32, value)
        if isinstance(value, float):
            return struct.pack("<If", _F32, value)
        if isinstance(value, str):
            return struct.pack("<I", _STRING) + _text(value)
        items = list(value)
        texts = [item for item in items if isinstance(item, str)]
        if len(texts) == len(items):
            return struct.pack("<IIQ", _ARRAY, _STRING, len(items)) + b"".join(map(_text, texts))
        return struct.pack("<IIQ", _ARRAY, _I32, len(items)) + struct.pack(f"<{len(items)}i", *items)
    except (struct.error, OverflowError) as error:
        raise CheckpointError(f"the value does not fit into 32 bits ({error})", where=key) from error
