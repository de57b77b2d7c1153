"""What caller and supervisor say to each other: integers, bytes and lists of these, as one string of bytes.

The encoding is that of BitTorrent (BEP 3) without dictionaries: `i5e`, `3:abc`, `li5e3:abce`. It has one reading, is
checked while it is read, and needs no import.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Value = int | bytes | Sequence["Value"]

_DEEPEST = 8  # lists within lists; requests have three


def encode(value: Value) -> bytes:
    """The bytes of a value."""
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, bytes):
        return b"%d:%b" % (len(value), value)
    return b"l" + b"".join(map(encode, value)) + b"e"


def decode(data: bytes) -> Value:
    """The value that `data` is.

    Raises:
        ValueError: it is not the encoding of exactly one value.
    """
    value, end = _decode(data, 0, 0)
    if end != len(data):
        raise ValueError("bytes after the end")
    return value


def _decode(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    kind = data[at : at + 1]
    if kind == b"l":
        if depth == _DEEPEST:
            raise ValueError("lists within too many lists")
        at += 1
        items: list[Value] = []
        while data[at : at + 1] != b"e":
            item, at = _decode(data, at, depth + 1)
            items.append(item)
        return items, at + 1
    if kind == b"i":
        return _number(data, at + 1, b"e")
    length, at = _number(data, at, b":")
    if length < 0 or at + length > len(data):
        raise ValueError("a string longer than the data")
    return data[at : at + length], at + length


def _number(data: bytes, at: int, mark: bytes) -> tuple[int, int]:
    """The number that ends before `mark`, and where what follows begins."""
    end = data.find(mark, at, at + 21)  # 64 bits and a sign have at most 20 digits
    digits = data[at : max(end, at)]
    if end < 0 or not digits.removeprefix(b"-").isdigit() or digits != b"%d" % int(digits):
        raise ValueError("not a number")
    return int(digits), end + 1
