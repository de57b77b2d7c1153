"""Energy: the processor's own counter where it may be read (RAPL), and a stated constant for elsewhere.

RAPL counts the whole processor package. The share of this process is taken by CPU time: its own seconds over
the busy seconds of all cores, so that two runs side by side are not both charged with the whole package.
"""

from __future__ import annotations

from pathlib import Path

#: Watts of one busy core, for machines without a readable counter. Processors are specified between 4 W
#: (AMD EPYC 7763: 280 W for 64 cores) and 13 W (AMD Ryzen 7 7700X: 105 W for 8) a core, laptops and most
#: servers near 7 W (Intel i7-1185G7: 28 W for 4); memory, board and power supply add some 40%.
WATTS_PER_BUSY_CORE = 10.0

POWERCAP = Path("/sys/class/powercap")
CPU_TIMES = Path("/proc/stat")
_TICKS_PER_SECOND = 100.0  # USER_HZ, fixed for user space on every Linux architecture in use


class EnergyMeter:
    """Reads the package counters from its creation on. `powercap` and `cpu_times` are Linux's files."""

    def __init__(self, powercap: Path = POWERCAP, cpu_times: Path = CPU_TIMES) -> None:
        self._cpu_times = cpu_times
        self._counters = sorted(path for path in powercap.glob("intel-rapl:*") if path.name.count(":") == 1)
        self._start = [_read(counter / "energy_uj") for counter in self._counters]
        self._busy_start = _busy_seconds(cpu_times)

    def joules(self, cpu_seconds: float) -> float | None:
        """Joules since creation that fall to `cpu_seconds` of CPU time; None without a readable counter."""
        total = 0
        for counter, start in zip(self._counters, self._start, strict=True):
            now = _read(counter / "energy_uj")
            if now is None or start is None:
                return None
            used = now - start
            if used < 0:  # the counter has wrapped; it does so after minutes to hours
                used += _read(counter / "max_energy_range_uj") or 0
            total += used
        if not self._counters:
            return None
        busy = _busy_seconds(self._cpu_times)
        if busy is None or self._busy_start is None or busy <= self._busy_start:
            return total * 1e-6
        return total * 1e-6 * min(1.0, cpu_seconds / (busy - self._busy_start))


def _read(file: Path) -> int | None:
    """The number in a file of the kernel, None when it may not be read."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _busy_seconds(cpu_times: Path) -> float | None:
    """Seconds that all cores together have worked since the machine started."""
    try:
        fields = [int(field) for field in cpu_times.read_text().split("\n", 1)[0].split()[1:]]
    except (OSError, ValueError):
        return None
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts = fields[:7]
    return (user + nice + system + interrupts + soft_interrupts) / _TICKS_PER_SECOND
