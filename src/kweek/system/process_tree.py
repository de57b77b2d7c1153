"""The processes below one, from /proc, and ending them all: frozen first, so that none starts another meanwhile."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from kweek.errors import KweekError

_PAUSE = 0.005  # seconds between two looks


def children(process: int) -> list[int]:
    """Processes that one has started and that still live, by number."""
    return sorted(number for number, parent in _parents().items() if parent == process)


def descendants(process: int) -> list[int]:
    """All processes below one."""
    parents = _parents()
    found, edge = list[int](), [process]
    while edge:
        edge = [number for number, parent in parents.items() if parent in edge]
        found += edge
    return found


def end_tree(process: int, deadline: float) -> None:
    """Kill a process and all below it.

    Args:
        process: the topmost.
        deadline: on the monotonic clock.

    Raises:
        KweekError: they have not ended by then.
    """
    frozen: set[int] = set()
    while fresh := {process, *descendants(process)} - frozen:
        if time.monotonic() > deadline:
            break  # what is frozen can at least be killed
        for number in fresh:
            _signal(number, signal.SIGSTOP)
        frozen |= fresh
    for number in frozen:
        _signal(number, signal.SIGKILL)
    while left := [number for number in frozen if _lives(number)]:
        if time.monotonic() > deadline:
            raise KweekError(
                f"{len(left)} processes have not ended", fix="look for a disk or driver that hangs"
            )
        time.sleep(_PAUSE)


def _parents() -> dict[int, int]:
    """Number of the parent by number of the process, for those that have not ended."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            state = _state(int(entry.name))
            if state is not None and state[0] not in "ZX":
                found[int(entry.name)] = state[1]
    return found


def _lives(process: int) -> bool:
    state = _state(process)
    return state is not None and state[0] not in "ZX"  # one that has ended and only waits to be asked for


def _state(process: int) -> tuple[str, int] | None:
    """State and parent; None where there is no such process."""
    try:
        words = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return words[0].decode(), int(words[1])


def _signal(process: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(process, number)
