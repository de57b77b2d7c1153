"""GGUF files, read with every length, count and offset checked against the file before it is believed.

Layout (the format's specification, versions 2 and 3, little-endian): magic, version, number of tensors, number of
metadata entries, the entries, the descriptions of the tensors, padding, the data. Shapes are stored last dimension
first; here they are given first dimension first, as in torch.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kweek.errors import CheckpointError

_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4  # the format's own limit
_MAX_DEPTH = 2  # arrays of arrays occur nowhere deeper
_ROWS_AT_ONCE = 4096  # bounds the temporaries of dequantisation
#: Stored types that are read: id to name.
_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 30: "BF16",
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: its shape (first dimension first), stored type, first byte in the file, length."""

    shape: tuple[int, ...]
    type_id: int
    start: int
    num_bytes: int

    @property
    def type_name(self) -> str:
        """Name of the stored type ("Q4_0"), or its number where it is not one that is read."""
        return _TYPES.get(self.type_id, f"type {self.type_id}")


class GGUFFile:
    """An open GGUF file; use it in a `with` block.

    Attributes:
        fields: metadata key to plain Python value (numbers, strings, lists).
        tensors: name to `TensorInfo`.

    Raises:
        CheckpointError: not a GGUF file, another version, or anything that points beyond the file's end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fields: dict[str, Any] = {}
        self.tensors: dict[str, TensorInfo] = {}
        try:
            with path.open("rb") as stream:
                self._data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"the file cannot be read ({error})", where=str(path)) from error
        self._position = 0
        try:
            self._parse()
        except BaseException:
            self._data.close()
            raise

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._data.close()

    def read(self, name: str) -> NDArray[np.float32]:
        """One tensor, dequantised to fp32.

        Raises:
            CheckpointError: it is missing or of a type that is not read.
        """
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        info = self.tensors.get(name)
        if info is None:
            raise self._broken(f"tensor {name} is missing")
        if info.type_id not in _TYPES:
            raise self._broken(f"tensor {name} is of {info.type_name}, which is not supported")
        kind = GGMLQuantizationType(info.type_id)
        rows = int(np.prod(info.shape[:-1], dtype=np.int64))
        result = np.empty((rows, info.shape[-1]), dtype=np.float32)
        row_bytes = info.num_bytes // max(rows, 1)
        for first in range(0, rows, _ROWS_AT_ONCE):
            last = min(first + _ROWS_AT_ONCE, rows)
            part = self._data[info.start + first * row_bytes : info.start + last * row_bytes]
            raw = np.frombuffer(part, dtype=np.uint8).reshape(last - first, row_bytes)
            plain = {"F32": np.float32, "F16": np.float16}.get(info.type_name)
            result[first:last] = raw.view(plain) if plain else dequantize(raw, kind)
        return result.reshape(info.shape)

    def _broken(self, what: str) -> CheckpointError:
        return CheckpointError(what, where=str(self.path), fix="fetch the file again or use another one")

    def _parse(self) -> None:
        if self._take(4) != b"GGUF":
            raise self._broken("it is not a GGUF file")
        version = self._scalar("I")
        if version not in (2, 3):
            raise self._broken(f"GGUF version {version} is not supported")
        num_tensors, num_fields = self._scalar("Q"), self._scalar("Q")
        for _ in range(self._count(num_fields, 13)):  # key length 8, key 0, type 4, value 1
            key = self._string()
            self.fields[key] = self._value(self._scalar("I"), 0)
        found = [self._tensor_description() for _ in range(self._count(num_tensors, 24))]
        alignment = self.fields.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._broken(f"alignment {alignment!r} is not a power of two")
        base = -(-self._position // alignment) * alignment
        for name, shape, type_id, offset in found:
            self._place(name, shape, type_id, base, offset, alignment)

    def _place(
        self, name: str, shape: tuple[int, ...], type_id: int, base: int, offset: int, alignment: int
    ) -> None:
        from gguf.constants import GGML_QUANT_SIZES

        if name in self.tensors:
            raise self._broken(f"tensor {name} occurs twice")
        num_bytes = 0
        if type_id in _TYPES:
            block, block_bytes = GGML_QUANT_SIZES[type_id]
            if shape[-1] % block:
                raise self._broken(f"tensor {name} has rows of {shape[-1]}, not a multiple of {block}")
            num_values = 1
            for size in shape:
                num_values *= size  # Python's whole numbers do not overflow
            num_bytes = num_values // block * block_bytes
        if offset % alignment or base + offset + num_bytes > len(self._data):
            raise self._broken(f"tensor {name} lies beyond the end of the file (truncated?)")
        self.tensors[name] = TensorInfo(shape, type_id, base + offset, num_bytes)

    def _take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise self._broken(f"it ends at byte {len(self._data)} where {end} are needed (truncated?)")
        part = self._data[self._position : end]
        self._position = end
        return part

    def _scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def _count(self, number: int, smallest: int) -> int:
        """`number`, if so many records of at least `smallest` bytes can still follow."""
        if number * smallest > len(self._data) - self._position:
            raise self._broken(f"it announces {number} entries, more than its size allows (truncated?)")
        return number

    def _string(self) -> str:
        # Names and tokens are UTF-8; a stray byte in a description must not make a model unreadable.
        return self._take(self._count(self._scalar("Q"), 1)).decode("utf-8", "replace")

    def _value(self, kind: int, depth: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind != _ARRAY or depth >= _MAX_DEPTH:
            raise self._broken(f"metadata of type {kind} is not part of the format")
        inner, number = self._scalar("I"), self._scalar("Q")
        if inner in _SCALARS:
            size = struct.calcsize("<" + _SCALARS[inner])
            part = self._take(self._count(number, size) * size)
            return np.frombuffer(part, dtype=np.dtype("<" + _SCALARS[inner])).tolist()
        return [self._value(inner, depth + 1) for _ in range(self._count(number, 8))]

    def _tensor_description(self) -> tuple[str, tuple[int, ...], int, int]:
        name, num_dimensions = self._string(), self._scalar("I")
        if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
            raise self._broken(f"tensor {name} has {num_dimensions} dimensions")
        shape = tuple(reversed([self._scalar("Q") for _ in range(num_dimensions)]))
        if 0 in shape:
            raise self._broken(f"tensor {name} is empty")
        return name, shape, self._scalar("I"), self._scalar("Q")
