"""The metadata of a GGUF file: walked once so that every length is checked, decoded only when asked for.

A list of two-letter tokens takes six times the memory of its bytes once it is Python objects. So nothing but keys
and positions is kept while a file is checked, and a hostile file costs no more than its own size.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kweek.errors import CheckpointError

_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MAX_DEPTH = 2  # arrays of arrays occur nowhere deeper
_MOST_SAID = 240  # characters of what is wrong: one line on a screen or three
_MAX_ENTRIES = 4096  # a hundred times what real files have
_MAX_NAME_BYTES = 1024  # ten times what real names have; the format allows 65,535
_MAX_TEXT_BYTES = 1 << 20  # the longest chat template of a published model is a fortieth of this
_SMALLEST_ENTRY = 13  # bytes: key length 8, key 0, type 4, value 1


class Cursor:
    """A place in an open file from which numbers and texts are read, never beyond the end.

    Args:
        data: the file.
        where: what errors call it.
    """

    def __init__(self, data: mmap.mmap, where: str) -> None:
        self.data, self.where, self.position = data, where, 0

    def broken(self, what: str) -> CheckpointError:
        """The error for this file. Names in a broken file may be long; of `what` both ends are said."""
        if len(what) > _MOST_SAID:
            what = f"{what[: _MOST_SAID // 2]} ... {what[-_MOST_SAID // 2 :]}"
        return CheckpointError(what, where=self.where, fix="fetch the file again or use another one")

    def skip(self, size: int) -> int:
        """Go on by `size` bytes; returns where they began. Raises CheckpointError when there are fewer."""
        start, end = self.position, self.position + size
        if end > len(self.data):
            raise self.broken(f"it ends at byte {len(self.data)} where {end} are needed (truncated?)")
        self.position = end
        return start

    def scalar(self, code: str) -> Any:
        """One number, by its letter in `struct`."""
        code = "<" + code
        return struct.unpack_from(code, self.data, self.skip(struct.calcsize(code)))[0]

    def count(self, number: int, smallest: int) -> int:
        """`number`, if so many records of at least `smallest` bytes can still follow."""
        if number * smallest > len(self.data) - self.position:
            raise self.broken(f"it announces {number} entries, more than its size allows (truncated?)")
        return number

    def name(self) -> str:
        """A key or the name of a tensor, which the format wants short and in ASCII."""
        size = self.count(self.scalar("Q"), 1)
        if size > _MAX_NAME_BYTES:
            raise self.broken(f"it holds a name of {size} bytes, more than {_MAX_NAME_BYTES}")
        start = self.skip(size)
        found = self.data[start : start + size]
        if not found.isascii():
            raise self.broken(f"the name at byte {start} is not ASCII")
        return found.decode("ascii")

    def skip_value(self, kind: int, depth: int = 0) -> None:
        """Go past a value of a type, checking all its lengths."""
        if kind == _STRING:
            self.skip(self.count(self.scalar("Q"), 1))
        elif kind in _SCALARS:
            self.skip(struct.calcsize("<" + _SCALARS[kind]))
        elif kind == _ARRAY and depth < _MAX_DEPTH:
            inner, number = self.scalar("I"), self.scalar("Q")
            if inner in _SCALARS:
                size = struct.calcsize("<" + _SCALARS[inner])
                self.skip(self.count(number, size) * size)
            else:
                for _ in range(self.count(number, 8)):
                    self.skip_value(inner, depth + 1)
        else:
            raise self.broken(f"metadata of type {kind} is not part of the format")

    def value(self, kind: int) -> Any:
        """A value of a type as plain Python; only after `skip_value` found it sound.

        Raises:
            CheckpointError: a text of more than a mebibyte, or a list of lists, which nothing here is.
        """
        if kind == _STRING:
            size = self.scalar("Q")
            if size > _MAX_TEXT_BYTES:
                raise self.broken(f"it holds a text of {size} bytes, more than {_MAX_TEXT_BYTES}")
            start = self.skip(size)
            # Tokens are UTF-8; a stray byte in a description must not make a model unreadable.
            return self.data[start : start + size].decode("utf-8", "replace")
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        inner, number = self.scalar("I"), self.scalar("Q")
        if inner == _STRING:
            return [self.value(inner) for _ in range(number)]
        if inner == _ARRAY:
            raise self.broken("it holds a list of lists where a list is needed")
        start = self.skip(number * struct.calcsize("<" + _SCALARS[inner]))
        return np.frombuffer(self.data[start : self.position], np.dtype("<" + _SCALARS[inner])).tolist()


class Metadata(Mapping[str, Any]):
    """Metadata key to plain Python value (number, text, list), decoded anew at every access.

    It reads from the file, so it is of use only while that is open.

    Raises:
        CheckpointError: a length that leads beyond the file's end, an unknown type, a key that occurs twice.
    """

    def __init__(self, cursor: Cursor, number: int) -> None:
        self._cursor = cursor
        self._places: dict[str, tuple[int, int]] = {}
        if cursor.count(number, _SMALLEST_ENTRY) > _MAX_ENTRIES:
            raise cursor.broken(f"it holds {number} entries of metadata, more than {_MAX_ENTRIES}")
        for _ in range(number):
            key, kind = cursor.name(), cursor.scalar("I")
            if key in self._places:
                raise cursor.broken(f"metadata {key!r} occurs twice")
            self._places[key] = kind, cursor.position
            cursor.skip_value(kind)

    def __getitem__(self, key: str) -> Any:
        kind, position = self._places[key]
        here, self._cursor.position = self._cursor.position, position
        try:
            return self._cursor.value(kind)
        finally:
            self._cursor.position = here

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def plain(self, key: str, default: Any = None) -> Any:
        """A number or text, or the default where there is none. Raises CheckpointError for a list, undecoded."""
        if self.list_length(key) is not None:
            raise self._cursor.broken(f"metadata {key} is a list")
        return self.get(key, default)

    def list_length(self, key: str) -> int | None:
        """Length of a list without decoding it; None when there is no such key or it is no list."""
        kind, position = self._places.get(key, (0, 0))
        if kind != _ARRAY:
            return None
        return int(struct.unpack_from("<Q", self._cursor.data, position + 4)[0])
