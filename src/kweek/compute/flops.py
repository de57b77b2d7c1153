"""Counting arithmetic: precisions, the standardised figure, and quantities as people read them.

A FLOP is one addition or multiplication; a fused multiply-add is two. The standardised figure converts to
16-bit equivalents by a fixed table, so that it does not change with the machine. The table is a convention,
the ratio of the widths, not a measurement: what a device really reaches is measured in `hardware`.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal, get_args

Precision = Literal["fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

#: 16-bit equivalents of one FLOP. TF32 counts as 16-bit: it multiplies 10 bits of mantissa, as FP16 does.
STANDARD_FACTOR: dict[Precision, float] = {
    "fp64": 4.0,
    "fp32": 2.0,
    "tf32": 1.0,
    "bf16": 1.0,
    "fp16": 1.0,
    "fp8": 0.5,
    "int8": 0.5,
    "int4": 0.25,
}

SECONDS_PER_YEAR = 365.25 * 86400  # Julian year

_DURATIONS = (("y", SECONDS_PER_YEAR), ("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))
_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def standardised(flop: float, precision: Precision) -> float:
    """`flop` operations of a precision in 16-bit equivalents."""
    return flop * STANDARD_FACTOR[precision]


def format_flop(flop: float) -> str:
    """1.6e13 -> "1.6e13 FLOP"; two digits, because no forecast deserves more."""
    if not flop:
        return "0 FLOP"
    if math.isnan(flop):
        return "unknown FLOP"
    mantissa, exponent = f"{flop:.1e}".split("e")
    return f"{mantissa}e{int(exponent)} FLOP"


def format_seconds(seconds: float) -> str:
    """Two units at most: "0.25 s", "12 s", "3 min 20 s", "2 h 5 min", "4 d 3 h", "1.7e5 y"."""
    if seconds < 0.01:
        return f"{seconds * 1e3:.2g} ms" if seconds else "0 s"
    if seconds < 10:
        return f"{seconds:.2g} s"
    seconds = round(seconds)
    if seconds >= 100 * SECONDS_PER_YEAR:
        years = seconds / SECONDS_PER_YEAR
        return f"{years:.0f} y" if years < 1000 else f"{years:.1e} y".replace("e+0", "e").replace("e+", "e")
    for (unit, size), (smaller, step) in itertools.pairwise(_DURATIONS):
        if seconds >= size:
            whole, rest = divmod(round(seconds / step), round(size / step))
            return f"{whole} {unit} {rest} {smaller}" if rest else f"{whole} {unit}"
    return f"{seconds} s"


def format_bytes(num_bytes: float) -> str:
    """Decimal units, three digits: "512 B", "1.53 MB", "240 GB"."""
    if num_bytes < 1000:
        return f"{num_bytes:.0f} B"
    power = min(int(math.log10(num_bytes) / 3), len(_BYTE_UNITS) - 1)
    if float(f"{num_bytes / 1000**power:.3g}") >= 1000 and power < len(_BYTE_UNITS) - 1:
        power += 1  # 999,999 B rounds to 1 MB, not to 1000 kB
    return f"{num_bytes / 1000**power:.3g} {_BYTE_UNITS[power]}"
