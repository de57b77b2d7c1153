"""This machine: what it is, what it really reaches, and how much memory was used. Unknown stays None.

Nothing here comes from a table of products: peaks are measured, because a virtual core, a power limit or a
neighbour on the same processor makes a data sheet's figure wrong by a factor.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: Names of Linux's cpu flags (x86 and Arm) and macOS's sysctl keys, and the one word used here.
_FEATURES = {
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx512f": "avx512",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "amx_tile": "amx_tile",
    "amx_bf16": "amx_bf16",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "neon": "neon",
    "bf16": "arm_bf16",
    "i8mm": "arm_i8mm",
    "sve": "sve",
    "hw.optional.neon": "neon",
    "hw.optional.arm.feat_bf16": "arm_bf16",
    "hw.optional.arm.feat_i8mm": "arm_i8mm",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512",
}

_SIZE = 1024  # side of the measured matrices: large enough for the peak, small enough for a cache
_READ_BYTES = 256 << 20  # larger than the last-level cache of a laptop; a server's share is seldom larger


@dataclass(frozen=True)
class Machine:
    """What could be found out. `num_cores` are those this process may use, `memory_bytes` likewise."""

    cpu: str | None
    num_cores: int
    memory_bytes: int | None
    features: frozenset[str]
    accelerator: str | None

    @property
    def has_fast_bf16(self) -> bool:
        """Whether the processor multiplies bf16 itself. Without, bf16 on a CPU is slower than fp32."""
        return bool(self.features & {"avx512_bf16", "amx_bf16", "arm_bf16"})


@dataclass(frozen=True)
class Peak:
    """What `threads` threads reached: matrix product (FLOP/s) and reading from memory (bytes/s)."""

    fp32_flop_per_second: float
    bf16_flop_per_second: float | None
    memory_bytes_per_second: float
    threads: int


def detect() -> Machine:
    """Find out what this machine is."""
    if sys.platform == "darwin":
        cpu, features = parse_sysctl(_output("sysctl", "-a"))
    else:
        cpu, features = parse_cpuinfo(_text(Path("/proc/cpuinfo")))
    return Machine(
        cpu=cpu or platform.processor() or None,
        num_cores=_num_cores(),
        memory_bytes=_memory_bytes(),
        features=features,
        accelerator=_accelerator(),
    )


def parse_cpuinfo(text: str) -> tuple[str | None, frozenset[str]]:
    """Processor name and known features from the text of Linux's /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())  # the first core speaks for all
    flags = f"{fields.get('flags', '')} {fields.get('features', '')}".split()
    name = fields.get("model name") or fields.get("hardware") or None
    return name, frozenset(_FEATURES[flag] for flag in flags if flag in _FEATURES)


def parse_sysctl(text: str) -> tuple[str | None, frozenset[str]]:
    """Processor name and known features from the output of macOS's `sysctl -a`."""
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    found = {_FEATURES.get(key.lower()) for key, value in fields.items() if value.strip() == "1"}
    return fields.get("machdep.cpu.brand_string"), frozenset(name for name in found if name)


def measure_peak(threads: int, seconds: float = 0.5) -> Peak:
    """Measure the peak of `threads` threads; takes about `seconds` (three quarters for the products).

    The median of the repeats: the best would be a neighbour's pause, the mean a neighbour's burst.
    """
    import torch  # here, because it takes a second that the readers of texts need not spend

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            fp32 = _product_rate(torch.float32, seconds * 0.4)
            try:
                bf16 = _product_rate(torch.bfloat16, seconds * 0.4)
            except RuntimeError:  # no such product on this processor
                bf16 = None
            values = torch.ones(_READ_BYTES // 4, dtype=torch.float32)
            memory = _READ_BYTES / _median_seconds(lambda: values.sum(), seconds * 0.2)
    finally:
        torch.set_num_threads(before)
    return Peak(fp32, bf16, memory, threads)


def peak_memory_bytes() -> int:
    """The most memory this process has held, plus the most that any one of its ended children held.

    An upper bound for children that ran one after the other. On Windows, this process alone.
    """
    if sys.platform == "win32":
        return _windows_peak_bytes()
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    own = _linux_peak_bytes() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return own + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit


def _linux_peak_bytes() -> int | None:
    """The peak of this very program: getrusage begins with what the process that started it held at that moment."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _product_rate(dtype: object, seconds: float) -> float:
    """FLOP/s of square matrix products in `dtype`."""
    import torch

    assert isinstance(dtype, torch.dtype)
    left, right = torch.ones(_SIZE, _SIZE, dtype=dtype), torch.ones(_SIZE, _SIZE, dtype=dtype)
    out = torch.empty(_SIZE, _SIZE, dtype=dtype)
    return 2.0 * _SIZE**3 / _median_seconds(lambda: torch.mm(left, right, out=out), seconds)


def _median_seconds(work: Callable[[], object], seconds: float) -> float:
    """Median time of one call; calls once to warm up, then at least three times and for about `seconds`."""
    work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _num_cores() -> int:
    """Cores this process may use: its affinity, and the quota of its container where there is one."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = _text(Path("/sys/fs/cgroup/cpu.max")).split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, max(1, round(int(quota[0]) / int(quota[1]))))
    return cores


def _memory_bytes() -> int | None:
    """Memory this process may use: the machine's, or the limit of its container where that is lower."""
    if sys.platform == "darwin":
        size = _output("sysctl", "-n", "hw.memsize").strip()
        return int(size) if size.isdigit() else None
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None  # Windows
    limit = _text(Path("/sys/fs/cgroup/memory.max")).strip()
    return min(total, int(limit)) if limit.isdigit() else total


def _accelerator() -> str | None:
    """The first accelerator that torch can use."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    if torch.backends.mps.is_available():
        return "Apple GPU"
    return None


def _text(file: Path) -> str:
    """The content of a file of the system, empty when there is none."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _output(*command: str) -> str:
    """What a command of the system prints, empty when it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""


if sys.platform == "win32":
    import ctypes

    class _Counters(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS of psapi.h."""

        _fields_ = (
            ("size", ctypes.c_uint32),
            ("page_faults", ctypes.c_uint32),
            ("peak_working_set", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 7),
        )

    def _windows_peak_bytes() -> int:
        """Peak working set of this process, from the process status API."""
        counters = _Counters(size=ctypes.sizeof(_Counters))
        process = ctypes.c_void_p(-1)  # the pseudo handle of the calling process
        ctypes.windll.psapi.GetProcessMemoryInfo(process, ctypes.byref(counters), counters.size)
        return int(counters.peak_working_set)
