"""What a program may use, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from kweek.errors import ConfigError, KweekError

#: Which layer runs the program: namespaces of Linux, or WebAssembly.
Tier = Literal["ns", "wasm"]
#: What a program was ended for: the limit of that name, or "call", a system call of a foreign architecture.
Reason = Literal["seconds", "cpu_seconds", "memory_bytes", "output_bytes", "call"]

#: The one command that gets the tier which needs nothing of the kernel.
PORTABLE = "get the portable tier: pip install 'kweek[wasm]'"

MIB = 1 << 20
#: The least of each limit with which Python itself starts.
_LEAST = {"seconds": 0.1, "cpu_seconds": 0.1, "memory_bytes": 64 * MIB, "disk_bytes": MIB, "processes": 1}


class SandboxError(KweekError):
    """A program that is not run, because what was asked for cannot be enforced here. Nothing of it has run."""


@dataclass(frozen=True)
class Limits:
    """What one run may use in all, over every process that it starts.

    Args:
        seconds: from its start to its end.
        cpu_seconds: processor time, all processes together.
        memory_bytes: memory, all processes together.
        disk_bytes: files, the given ones included; they are held in memory, beside `memory_bytes`.
        processes: processes and threads at once.
        output_bytes: standard output and standard error together.

    Raises:
        ConfigError: a limit with which no program would start.
    """

    seconds: float = 10.0  # a test of a function takes milliseconds; this tells slow from never
    cpu_seconds: float = 10.0  # one processor for all of the time
    memory_bytes: int = 512 * MIB  # twice what the standard library ever needs for small data
    disk_bytes: int = 64 * MIB  # some source files and their results
    processes: int = 16  # a pool of workers on a small machine
    output_bytes: int = MIB  # more than anyone reads; enough for a long traceback

    def __post_init__(self) -> None:
        for limit in fields(self):
            value, least = getattr(self, limit.name), _LEAST.get(limit.name, 0)
            if not (math.isfinite(value) and value >= least):
                raise ConfigError(
                    f"{value!r} is less than a program needs to start"
                    if value < least
                    else "it is not finite",
                    where=limit.name,
                    fix=f"give at least {least}",
                )


@dataclass(frozen=True)
class Result:
    """How a program ended and what it left. The bytes are the program's own: nothing of them is to be trusted.

    Args:
        exit: its exit status, or the negative number of the signal that ended it.
        truncated: whether output or files were left out because there were too many.
        reason: the limit that it was ended for; None when it ended by itself, also where it failed because memory,
            files or processes ran out (it then saw MemoryError, "no space left" or "temporarily unavailable").
        cpu_seconds: processor time of all its processes.
        peak_memory_bytes: the largest sum over its processes that was seen, at least that of its largest process.
        files: what it made or changed in its folder, by name.
        tier: the layer that ran it.
    """

    exit: int
    stdout: bytes
    stderr: bytes
    truncated: bool
    reason: Reason | None
    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    tier: Tier
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with status 0."""
        return self.exit == 0 and self.reason is None
