"""Scales: from a quantity to a place on a chart, with ticks at numbers people would choose."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

TINY = 1e-12  # below this share of the range two numbers are one
SMALLEST = 1e-200  # the least that a log scale shows; its square can still be written


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic axis from `lo` to `hi` drawn from pixel `start` to `end`."""

    lo: float
    hi: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value; values beyond the ends are drawn at most one range outside."""
        lo, hi, at = self._plain(self.lo), self._plain(self.hi), self._plain(value)
        share = (at - lo) / (hi - lo) if hi > lo else 0.5
        return self.start + min(max(share, -1.0), 2.0) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round values within the range."""
        return log_ticks(self.lo, self.hi, count) if self.log else linear_ticks(self.lo, self.hi, count)

    def _plain(self, value: float) -> float:
        return math.log10(max(value, SMALLEST / 100)) if self.log else value


@dataclass(frozen=True)
class Axis:
    """What an axis shows: its words, its range, how its ticks are written."""

    label: str
    lo: float
    hi: float
    write: Callable[[float], str]
    log: bool = False
    ticks: tuple[float, ...] = ()

    def scale(self, start: float, end: float) -> Scale:
        return Scale(self.lo, self.hi, start, end, self.log)


def extent(values: Iterable[float], *, pad: float = 0.06, log: bool = False) -> tuple[float, float]:
    """Smallest and largest value, widened by a share of the range, so that no mark sits on the frame."""
    found = [value for value in values if math.isfinite(value) and (value > SMALLEST or not log)]
    if not found:
        return (1.0, 10.0) if log else (0.0, 1.0)
    lo, hi = min(found), max(found)
    if log:
        spread = max(math.log10(hi) - math.log10(lo), 0.3) * pad
        return max(lo / 10**spread, SMALLEST / 10), min(hi * 10**spread, 1e300)
    spread = (hi - lo) * pad or abs(hi) * pad or 1.0
    return lo - spread, hi + spread


def share_extent(values: Iterable[float]) -> tuple[float, float]:
    """A range for shares that always shows 0 to 1, since a cut axis makes small differences look large."""
    found = [*values, 0.0, 1.0]
    return min(found), max(found)


def linear_ticks(lo: float, hi: float, count: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within the range."""
    span = hi - lo
    if not (math.isfinite(span) and span > 0 and span > TINY * max(abs(lo), abs(hi))):
        return [lo]
    rough = span / max(count, 1)
    base = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 0.0
    if base == 0:
        return [lo]
    step = next(base * factor for factor in (1, 2, 2.5, 5, 10, 20) if base * factor >= rough * 0.999)
    first = math.ceil(lo / step - 1e-9)
    last = math.floor(hi / step + 1e-9)
    return [0.0 if number == 0 else number * step for number in range(first, min(last, first + 50) + 1)] or [
        lo
    ]


def log_ticks(lo: float, hi: float, count: int = 5) -> list[float]:
    """Powers of ten within the range; where there are fewer than three, also 2 and 5 times them."""
    bottom, top = math.log10(max(lo, SMALLEST)), math.log10(max(hi, SMALLEST))
    decades = range(math.floor(bottom), math.ceil(top) + 1)
    every = max(1, math.ceil(len(decades) / max(count, 1)))
    whole = [10.0**d for d in decades if d % every == 0 and bottom - 1e-9 <= d <= top + 1e-9]
    if len(whole) >= 3:
        return whole
    fine = [m * 10.0**d for d in decades if d < 300 for m in (1, 2, 5)]
    return [v for v in fine if lo * (1 - 1e-9) <= v <= hi * (1 + 1e-9)] or whole or [lo]
