"""Messages between a process and its worker: one line of JSON, then blobs whose sizes it names. Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import IO, Any

_MAX_BYTES = 1 << 28  # of a blob: a vocabulary of a million tokens, a table of 20,000 states, many times over


def write_frame(stream: IO[bytes], message: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
    """Write one message; `message` must not use the key "sizes"."""
    line = json.dumps({**message, "sizes": [len(blob) for blob in blobs]}).encode()
    stream.write(b"".join([line, b"\n", *blobs]))
    stream.flush()


def read_frame(stream: IO[bytes]) -> tuple[dict[str, Any], list[bytes]] | None:
    """Read one message and its blobs; None when the other side is gone, in the middle of one or between two.

    Raises:
        ValueError: what arrives is not a message.
    """
    line = stream.readline(_MAX_BYTES)
    if not line.endswith(b"\n"):
        return None
    message = json.loads(line)
    sizes = message.pop("sizes")
    if not all(isinstance(size, int) and 0 <= size <= _MAX_BYTES for size in sizes):
        raise ValueError("a blob of no possible size")
    blobs = [stream.read(size) for size in sizes]
    if any(len(blob) < size for blob, size in zip(blobs, sizes, strict=True)):
        return None
    return message, blobs
