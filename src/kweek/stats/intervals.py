"""Intervals: for proportions, means and any statistic by resampling; and how good an interval was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Numbers = Sequence[float] | npt.NDArray[Any]


class Interval(NamedTuple):
    """An estimate and the interval around it."""

    mid: float
    lo: float
    hi: float


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The proportion `successes / n` with its score interval (Wilson 1927), sane near 0 and 1.

    Raises ValueError unless 0 <= successes <= n and n > 0: the proportion of nothing is undefined.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"no proportion: {successes} of {n}")
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    lo = 0.0 if successes == 0 else max(0.0, centre - half)  # exactly the ends, not 1e-17 beside them
    hi = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(share, lo, hi)


def mean_interval(values: Numbers, confidence: float = 0.95) -> Interval:
    """The mean with Student's t interval, for few values, as over seeds. Raises ValueError below two."""
    array = np.asarray(values, dtype=np.float64)
    if array.size < 2:
        raise ValueError(f"a mean of {array.size} values has no interval")
    mean = float(array.mean())
    half = float(stats.t.ppf(0.5 + confidence / 2, array.size - 1) * stats.sem(array))
    return Interval(mean, mean - half, mean + half)


def bootstrap(
    values: npt.ArrayLike,
    statistic: Callable[[npt.NDArray[Any]], float],
    confidence: float = 0.95,
    num_samples: int = 2000,  # the ends of a 95% interval then rest on 50 samples each
    seed: int = 0,
) -> Interval:
    """A percentile interval for any statistic of independent items (Efron 1979).

    `values` has one row per item: a column of bits and one of bytes resample together, as a ratio needs.
    Use it with some twenty items or more: below, percentile intervals are too narrow. Raises ValueError
    without items.
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        raise ValueError("a statistic of no items is undefined")
    generator = np.random.default_rng(seed)
    samples = [statistic(array[generator.integers(0, len(array), len(array))]) for _ in range(num_samples)]
    lo, hi = np.quantile(samples, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(float(statistic(array)), float(lo), float(hi))


def interval_score(lo: float, hi: float, y: float, alpha: float) -> float:
    """How good the interval [lo, hi] at level 1 - alpha was for the outcome `y`; less is better.

    Its width, plus 2 / alpha times the distance by which it missed (Gneiting & Raftery 2007, equation 43):
    the one score that neither a wide interval nor a bold one can fool.
    """
    return (hi - lo) + 2 / alpha * (max(lo - y, 0.0) + max(y - hi, 0.0))
