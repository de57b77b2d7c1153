"""GGUF files, read with every length, count and offset checked against the file before it is believed.

Layout (the format's specification, versions 2 and 3, little-endian): magic, version, number of tensors, number of
metadata entries, the entries, the descriptions of the tensors, padding, the data. Shapes are stored last dimension
first; here they are given first dimension first, as in torch.
"""

from __future__ import annotations

import itertools
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from kweek.errors import CheckpointError
from kweek.model.gguf_fields import Cursor, Metadata

MAGIC = b"GGUF"
_VERSIONS = (2, 3)  # the first counted in 32 bits and is no longer met
_MAX_DIMENSIONS = 4  # the format's own limit
_MAX_TENSORS = 1 << 14  # ten times what the largest dense models have
_SMALLEST_DESCRIPTION = 32  # bytes: name length 8, name 0, dimensions 4 + 8, type 4, offset 8
_VALUES_AT_ONCE = 1 << 18  # bounds the temporaries of dequantisation to some megabytes
#: Stored types that are read: id to name.
TYPE_NAMES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 20: "IQ4_NL", 23: "IQ4_XS", 30: "BF16",
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: its shape (first dimension first), stored type, first byte in the file, length.

    The length is 0 where the type is not one that is read.
    """

    shape: tuple[int, ...]
    type_id: int
    start: int
    num_bytes: int

    @property
    def type_name(self) -> str:
        """Name of the stored type ("Q4_0"), or its number where it is not one that is read."""
        return TYPE_NAMES.get(self.type_id, f"type {self.type_id}")


class GGUFFile:
    """An open GGUF file; use it in a `with` block.

    Opening it takes less memory than twice the file: nothing but names, places and sizes is kept.

    Attributes:
        fields: metadata key to plain Python value (numbers, strings, lists), while the file is open.
        tensors: name to `TensorInfo`; no two share a byte.

    Raises:
        CheckpointError: not a GGUF file, another version, one part of several, or anything that points beyond the
            file's end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: dict[str, TensorInfo] = {}
        try:
            with path.open("rb") as stream:
                self._data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"the file cannot be read ({error})", where=str(path)) from error
        self._cursor = Cursor(self._data, str(path))
        try:
            self.fields = self._parse()
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
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize

        info = self.tensors.get(name)
        if info is None:
            raise self._cursor.broken(f"tensor {name!r} is missing")
        if info.type_id not in TYPE_NAMES:
            raise self._cursor.broken(f"tensor {name!r} is of {info.type_name}, which is not supported")
        kind = GGMLQuantizationType(info.type_id)
        block, block_bytes = GGML_QUANT_SIZES[kind]
        plain = {"F32": "<f4", "F16": "<f2"}.get(info.type_name)
        result = np.empty(math.prod(info.shape), dtype=np.float32)
        step = _VALUES_AT_ONCE // block
        for first in range(0, result.size // block, step):
            start = info.start + first * block_bytes
            part = self._data[start : min(start + step * block_bytes, info.start + info.num_bytes)]
            raw = np.frombuffer(part, dtype=np.uint8).reshape(-1, block_bytes)
            with np.errstate(all="ignore"):  # garbage is the caller's to judge
                values = raw.view(np.dtype(plain)) if plain else dequantize(raw, kind)
            result[first * block : first * block + values.size] = values.reshape(-1)
        return result.reshape(info.shape)

    def _parse(self) -> Metadata:
        cursor = self._cursor
        if self._data[: cursor.skip(len(MAGIC)) + len(MAGIC)] != MAGIC:
            raise cursor.broken("it is not a GGUF file")
        version = cursor.scalar("I")
        if version not in _VERSIONS:
            raise cursor.broken(f"GGUF version {version} is not supported")
        num_tensors, num_fields = cursor.scalar("Q"), cursor.scalar("Q")
        fields = Metadata(cursor, num_fields)
        if cursor.count(num_tensors, _SMALLEST_DESCRIPTION) > _MAX_TENSORS:
            raise cursor.broken(f"it holds {num_tensors} tensors, more than {_MAX_TENSORS}")
        found = [self._description() for _ in range(num_tensors)]
        alignment = fields.plain("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise cursor.broken(f"alignment {str(alignment)[:40]!r} is not a power of two")
        base = -(-cursor.position // alignment) * alignment
        for name, shape, type_id, offset in found:
            self._place(name, shape, type_id, base, offset, alignment)
        self._refuse_overlaps()
        return fields

    def _description(self) -> tuple[str, tuple[int, ...], int, int]:
        cursor = self._cursor
        name, num_dimensions = cursor.name(), cursor.scalar("I")
        if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
            raise cursor.broken(f"tensor {name!r} has {num_dimensions} dimensions")
        shape = tuple(reversed([cursor.scalar("Q") for _ in range(num_dimensions)]))
        if 0 in shape:
            raise cursor.broken(f"tensor {name!r} is empty")
        return name, shape, cursor.scalar("I"), cursor.scalar("Q")

    def _place(
        self, name: str, shape: tuple[int, ...], type_id: int, base: int, offset: int, alignment: int
    ) -> None:
        from gguf.constants import GGML_QUANT_SIZES

        if name in self.tensors:
            raise self._cursor.broken(f"tensor {name!r} occurs twice")
        num_bytes = 0
        if type_id in TYPE_NAMES:
            block, block_bytes = GGML_QUANT_SIZES[type_id]
            if shape[-1] % block:
                raise self._cursor.broken(
                    f"tensor {name!r} has rows of {shape[-1]}, not a multiple of {block}"
                )
            # Python's whole numbers do not overflow.
            num_bytes = math.prod(shape) // block * block_bytes
        if offset % alignment:
            raise self._cursor.broken(f"tensor {name!r} begins at {offset}, not a multiple of {alignment}")
        if base + offset + num_bytes > len(self._data):
            raise self._cursor.broken(f"tensor {name!r} lies beyond the end of the file (truncated?)")
        self.tensors[name] = TensorInfo(shape, type_id, base + offset, num_bytes)

    def _refuse_overlaps(self) -> None:
        """Tensors that share bytes would let a small file ask for any amount of memory."""
        ordered = sorted(self.tensors.items(), key=lambda item: (item[1].start, item[1].num_bytes))
        for (first, before), (second, after) in itertools.pairwise(ordered):
            if before.start + before.num_bytes > after.start:
                raise self._cursor.broken(f"tensors {first!r} and {second!r} share bytes")
