"""Stop texts in a stream of bytes: what may already be shown, and where the writing ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

Mark = TypeVar("Mark")


class StopFilter(Generic[Mark]):
    """Passes bytes on as soon as they cannot be the beginning of a stop text.

    A token may stand for something else than its bytes (the end of a thought); such a mark passes through whole,
    at its place, but its bytes still count, because the engine looks for stop texts in them too.

    Args:
        stops: the stop texts in UTF-8, none of them empty.

    Attributes:
        stopped: whether one has been found; nothing passes any more then.
    """

    def __init__(self, stops: Sequence[bytes]) -> None:
        self._stops = tuple(stops)
        self._buffer = b""
        self._marks: list[tuple[int, int, Mark]] = []  # start and end in the buffer
        self.stopped = False

    def feed(self, data: bytes, mark: Mark | None = None) -> list[bytes | Mark]:
        """Take the bytes of one token; returns what may be shown."""
        if self.stopped:
            return []
        if mark is not None:
            self._marks.append((len(self._buffer), len(self._buffer) + len(data), mark))
        self._buffer += data
        starts = [at for at in map(self._buffer.find, self._stops) if at >= 0]
        if starts:
            self.stopped = True
            return self._release(min(starts))
        return self._release(len(self._buffer) - self._num_held())

    def finish(self) -> list[bytes | Mark]:
        """What was held back, once nothing more comes."""
        return [] if self.stopped else self._release(len(self._buffer))

    def _num_held(self) -> int:
        """Length of the longest end of the buffer that begins a stop text."""
        longest = min(len(self._buffer), max(map(len, self._stops), default=1) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._buffer[-length:]) for stop in self._stops):
                return length
        return 0

    def _release(self, end: int) -> list[bytes | Mark]:
        """Take the first `end` bytes out of the buffer, up to a mark that does not fit in whole."""
        released: list[bytes | Mark] = []
        at = 0
        while self._marks and self._marks[0][0] < end:
            start, stop, mark = self._marks[0]
            if stop > end:
                end = start
                break
            released += [self._buffer[at:start], mark] if start > at else [mark]
            at = stop
            del self._marks[0]
        if end > at:
            released.append(self._buffer[at:end])
        self._buffer = self._buffer[end:]
        self._marks = [(start - end, stop - end, mark) for start, stop, mark in self._marks]
        return released
