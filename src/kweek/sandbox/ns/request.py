"""What the caller asks of the supervisor: everything is decided before, so that nothing is looked up afterwards."""

from __future__ import annotations

import os

from .wire import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .wire import Value

_NAMES = (
    *("parent", "outer_user", "stage", "binds", "hidden", "links", "group", "filter"),
    *("argv", "environment", "files", "stdin"),
    *("microseconds", "cpu_microseconds", "memory", "disk", "processes", "output"),
)
_LENGTH_BYTES = 8


class Request:
    """One run. Paths and names are bytes, as the kernel has them.

    `parent` is the caller's process id; `outer_user` the user to become outside, or -1 to stay who one is; `stage` a
    folder to build the program's root over; `binds` are (source, place inside), `hidden` folders inside to cover,
    `links` (place inside, target); `group` a control group's folder, or empty; `files` (name, content).
    """

    parent: int
    outer_user: int
    stage: bytes
    binds: list[tuple[bytes, bytes]]
    hidden: list[bytes]
    links: list[tuple[bytes, bytes]]
    group: bytes
    filter: bytes
    argv: list[bytes]
    environment: list[bytes]
    files: list[tuple[bytes, bytes]]
    stdin: bytes
    microseconds: int
    cpu_microseconds: int
    memory: int
    disk: int
    processes: int
    output: int

    def __init__(self, **values: object) -> None:
        """All of the names above, each once."""
        if set(values) != set(_NAMES):
            raise ValueError(f"not the fields of a request: {sorted(values)}")
        self.__dict__.update(values)


def send(request: Request) -> bytes:
    """The request as it goes through a pipe: its length in 8 bytes, then itself."""
    return frame([getattr(request, name) for name in _NAMES])


def receive(descriptor: int) -> Request:
    """Read one request from a pipe, which stays open.

    Raises:
        ValueError: what came is none, or the pipe ended before.
    """
    values = read_frame(descriptor)
    if not isinstance(values, list) or len(values) != len(_NAMES):
        raise ValueError("not a request")
    return Request(**dict(zip(_NAMES, values, strict=True)))


def frame(value: Value) -> bytes:
    """A value with its length before it."""
    data = encode(value)
    return len(data).to_bytes(_LENGTH_BYTES, "little") + data


def read_frame(descriptor: int) -> Value | None:
    """The next value from a pipe; None at its end.

    Raises:
        ValueError: it ends within a value, or what came is none.
    """
    length = _read(descriptor, _LENGTH_BYTES)
    if not length:
        return None
    size = int.from_bytes(length, "little")
    data = _read(descriptor, size)
    if len(length) < _LENGTH_BYTES or len(data) < size:
        raise ValueError("the message ends before its end")
    return decode(data)


def _read(descriptor: int, size: int) -> bytes:
    """So many bytes, or fewer at the end of the pipe."""
    pieces = []
    while size and (piece := os.read(descriptor, min(size, 1 << 20))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
