"""Counting what all processes of a program use together, from the /proc of their namespace.

The kernel bounds each process by itself. The sum is looked at 50 times a second, and up to 500 times where little is
left: as often as processes that fill fresh memory at full speed could reach the limit in between.
"""

from __future__ import annotations

import os
import resource

_SLOWEST, _FASTEST = 0.02, 0.002  # seconds from look to look
_BYTES_PER_SECOND = 4e9  # at which memory can fill, in small pages; about what four cores clear at once
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


class Watch:
    """The use of memory and processors by every process but the first of a namespace."""

    def __init__(self, processes: int, memory: int, cpu_microseconds: int) -> None:
        """`processes` is /proc, open; `memory` in bytes."""
        self._folder, self._memory, self._cpu = processes, memory, cpu_microseconds / 1e6
        self._last: dict[str, float] = {}
        self._gone, self._now = 0.0, 0
        self._before = _waited_for()
        self.peak = 0

    def look(self) -> str:
        """The limit that is exceeded now, or nothing."""
        names = [name for name in os.listdir(self._folder) if name.isdigit() and name != "1"]
        if self._used(names) > self._memory:
            return "memory_bytes"
        return "cpu_seconds" if self._seconds(names) > self._cpu else ""

    def pause(self) -> float:
        """Seconds until the next look."""
        return min(_SLOWEST, max(_FASTEST, (self._memory - self._now) / _BYTES_PER_SECOND))

    def cpu_seconds(self) -> float:
        """Of all processes that have ended, counted by the kernel and, where nobody waited for them, by looking."""
        return max(_waited_for() - self._before, self._gone)

    def _used(self, names: list[str]) -> int:
        """Bytes in memory. What processes share counts once, which is looked into only when it decides."""
        self._now = sum(map(self._resident, names))
        if self._now > self._memory:
            self._now = sum(map(self._proportional, names))
        self.peak = max(self.peak, self._now)
        return self._now

    def _resident(self, name: str) -> int:
        words = self._read(f"{name}/statm").split()
        return int(words[1]) * _PAGE if words else 0

    def _proportional(self, name: str) -> int:
        for line in self._read(f"{name}/smaps_rollup").splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
        return self._resident(name)  # it is ending, or hides; then all that it shares is counted as its own

    def _seconds(self, names: list[str]) -> float:
        """Processor time of the living and the dead."""
        living, waited = dict[str, float](), 0.0
        for name in names:
            words = self._read(f"{name}/stat").rpartition(b")")[2].split()
            if words:
                own, children = (
                    (int(words[at]) + int(words[at + 1])) / _TICKS for at in (11, 13)
                )  # utime + stime, and those of the children it waited for
                living[name] = own
                waited += children
        # Gone, or, where the number has passed to a new process, replaced.
        self._gone += sum(seconds for name, seconds in self._last.items() if living.get(name, -1.0) < seconds)
        self._last = living
        counted = _waited_for() - self._before + sum(living.values()) + waited
        return max(counted, self._gone + sum(living.values()))

    def _read(self, path: str) -> bytes:
        """The content of a file below /proc; empty when the process has ended."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder)
        except OSError:
            return b""
        try:
            return os.read(descriptor, 8192)
        except OSError:
            return b""
        finally:
            os.close(descriptor)


def _waited_for() -> float:
    """Processor time of all processes below this one that have ended and been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
