"""Control groups: a second bound on memory, counted by the kernel, where this user may make one (cgroup v2).

A group holds the program alone. Its bound is that of memory and disk together, because the files lie in memory, and it
covers what the kernel holds for the program too: pipes, sockets, page tables.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from kweek.sandbox.limits import Limits

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "kweek-"
_REMOVE_SECONDS = 2.0  # the kernel lets go of a group some time after its last process has ended


class Group:
    """A group's folder, and whether the kernel has killed for want of memory in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exceeded(self) -> bool:
        """Whether something was killed because the group's memory was full."""
        words = (self.path / "memory.events").read_text().split()
        return int(dict(zip(words[::2], words[1::2], strict=True)).get("oom_kill", 0)) > 0


@lru_cache
def parent() -> Path | None:
    """The folder that groups can be made in: the one above this process's own, where it is given to this user.

    A group with processes in it cannot have groups below that count memory, so it is beside and not below.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
        above = (_ROOT / own.lstrip("/")).parent
        counted = (above / "cgroup.subtree_control").read_text().split()
    except (OSError, StopIteration):
        return None
    mine = own != "/" and "memory" in counted and os.access(above, os.W_OK)
    return above if mine and os.access(above / "cgroup.procs", os.W_OK) else None


@contextmanager
def group(limits: Limits) -> Iterator[Group | None]:
    """A group with the bound of the limits, gone afterwards; None where there can be none."""
    above = parent()
    if above is None:
        yield None
        return
    _sweep(above)
    path = above / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    path.mkdir()
    try:
        (path / "memory.max").write_text(str(limits.memory_bytes + limits.disk_bytes))
        with suppress(FileNotFoundError):  # a machine without swap space
            (path / "memory.swap.max").write_text("0")
        (path / "memory.oom.group").write_text("1")
        yield Group(path)
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    deadline = time.monotonic() + _REMOVE_SECONDS
    while time.monotonic() < deadline:
        try:
            path.rmdir()
            return
        except OSError:
            time.sleep(0.002)


def _sweep(above: Path) -> None:
    """Remove the groups of callers that were killed: with them all their processes are, and the groups are empty."""
    for folder in above.glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            with suppress(OSError):
                folder.rmdir()
