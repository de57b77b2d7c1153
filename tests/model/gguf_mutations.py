"""Structured damage to GGUF files: numbers of the header set to telling values; parts cut, doubled, swapped; noise."""

from __future__ import annotations

import mmap
import random
import struct
from pathlib import Path
from typing import Any

from kweek.model import gguf_file
from kweek.model.gguf_fields import Cursor

#: What numbers are set to, besides their neighbours and noise: edges of 8, 16, 31, 32, 62, 63 and 64 bits.
TELLING = (
    0,
    1,
    2,
    7,
    255,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)


_ENDS = 3  # of the lengths in a list of texts, so many from either end: the vocabulary would drown all else


class Places(Cursor):
    """Remembers where the numbers of the header lie and how they are coded."""

    def __init__(self, data: mmap.mmap, where: str) -> None:
        super().__init__(data, where)
        self.found: list[tuple[int, str]] = []

    def scalar(self, code: str) -> Any:
        self.found.append((self.position, code))
        return super().scalar(code)

    def skip_value(self, kind: int, depth: int = 0) -> None:
        before = len(self.found)
        super().skip_value(kind, depth)
        if depth == 0 and len(self.found) > before + 2 + 2 * _ENDS:
            del self.found[before + 2 + _ENDS : -_ENDS]


def header_numbers(path: Path) -> tuple[list[tuple[int, str]], int]:
    """Place and `struct` letter of every number before the data, and where the data begins."""
    original, gguf_file.Cursor = gguf_file.Cursor, Places  # type: ignore[misc]
    try:
        with gguf_file.GGUFFile(path) as file:
            found = list(file._cursor.found)  # type: ignore[attr-defined]
            return found, min(info.start for info in file.tensors.values())
    finally:
        gguf_file.Cursor = original  # type: ignore[misc]


def damaged(content: bytes, numbers: list[tuple[int, str]], data_start: int, seed: int) -> bytes:
    """The content with one to three faults, by a seed."""
    generator = random.Random(seed)
    result = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        kind = generator.random()
        if kind < 0.55:
            _set_number(result, *generator.choice(numbers), generator)
        elif kind < 0.70:
            at = generator.randrange(max(1, min(data_start, len(result))))
            result[at] = generator.randrange(256)
        elif kind < 0.80:
            _spoil_data(result, data_start, generator)
        elif kind < 0.86:
            del result[generator.randrange(len(result)) :]
        else:
            _move(result, data_start, generator)
        if not result:
            break
    return bytes(result)


def _set_number(content: bytearray, at: int, code: str, generator: random.Random) -> None:
    size = struct.calcsize("<" + code)
    if at + size > len(content):
        return
    old = int.from_bytes(content[at : at + size], "little")
    near = old + generator.choice((-33, -32, -2, -1, 1, 2, 31, 32))
    flipped = old ^ 1 << generator.randrange(8 * size)
    value = generator.choice((near, flipped, generator.choice(TELLING), generator.getrandbits(8 * size)))
    content[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "little")


def _spoil_data(content: bytearray, data_start: int, generator: random.Random) -> None:
    if len(content) <= data_start:
        return
    at = generator.randrange(data_start, len(content))
    size = min(generator.choice((1, 2, 4, 64)), len(content) - at)
    content[at : at + size] = generator.choice((generator.randbytes(size), b"\xff" * size, bytes(size)))


def _move(content: bytearray, data_start: int, generator: random.Random) -> None:
    """A piece of the header taken out, doubled, or exchanged for another."""
    end = min(data_start, len(content))
    first, second = sorted(generator.randrange(end + 1) for _ in range(2))
    size = min(generator.choice((1, 4, 8, 24, 60)), end - second)
    match generator.randrange(3):
        case 0:
            del content[second : second + size]
        case 1:
            content[first:first] = content[second : second + size]
        case _:
            content[first : first + size], content[second : second + size] = (
                content[second : second + size],
                content[first : first + size],
            )
