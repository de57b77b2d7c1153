"""Sets of characters as sequences of byte ranges: what an automaton over bytes reads."""

from __future__ import annotations

import functools

LAST = 0x10FFFF  # the last code point
_LENGTHS = ((0x0, 0x7F), (0x80, 0x7FF), (0x800, 0xFFFF), (0x10000, LAST))  # code points of 1 to 4 bytes

ByteSequence = tuple[tuple[int, int], ...]  # a range of bytes for each place


@functools.lru_cache(maxsize=4096)
def byte_sequences(ranges: tuple[tuple[int, int], ...]) -> tuple[ByteSequence, ...]:
    """The UTF-8 of every character of some ranges, as sequences of byte ranges that do not overlap.

    The method of Thompson's grep and of Cox, "Regular Expression Matching in the Wild" (2010): a range of code points
    is cut until first and last differ only where all bytes after are free.

    Args:
        ranges: of code points without surrogates, ends included.
    """
    found: list[ByteSequence] = []
    for low, high in ranges:
        for first, last in _LENGTHS:
            if low <= last and high >= first:
                _split(max(low, first), min(high, last), found)
    return tuple(found)


def _split(low: int, high: int, found: list[ByteSequence]) -> None:
    """Append the sequences of code points whose UTF-8 has one length."""
    for places in (1, 2, 3):  # continuation bytes, from the last one on
        mask = (1 << (6 * places)) - 1
        if low & ~mask == high & ~mask:
            break
        if low & mask:
            _split(low, low | mask, found)
            _split((low | mask) + 1, high, found)
            return
        if high & mask != mask:
            _split(low, (high & ~mask) - 1, found)
            _split(high & ~mask, high, found)
            return
        if high < 0x80:
            break
    found.append(tuple(zip(chr(low).encode(), chr(high).encode(), strict=True)))
