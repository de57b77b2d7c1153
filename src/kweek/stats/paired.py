"""Paired comparison of two models on the same items: the difference, its interval, and who won how often."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from kweek.stats.intervals import Numbers


class Paired(NamedTuple):
    """The mean of a - b with its interval; `won` counts the items where a is larger, `lost` where b is."""

    difference: float
    lo: float
    hi: float
    won: int
    lost: int
    n: int
    p_value: float


def paired_difference(
    a: Numbers, b: Numbers, confidence: float = 0.95, weights: Numbers | None = None
) -> Paired:
    """Compare two scores of the same items, item by item.

    Right-or-wrong scores (0 and 1 only) get McNemar's exact test and the adjusted Wald interval of Bonett &
    Price (2012); real scores get Student's t. `weights` make it a difference of ratios: with bits per byte
    as scores and bytes as weights, that of the two models' bits per byte over the whole text (linearised,
    Cochran 1977, section 2.11). Raises ValueError when the lengths differ or there are fewer than two
    items.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 1 or left.size < 2:
        raise ValueError(f"not two scores for each of at least two items: {left.shape} and {right.shape}")
    gains = left - right
    won, lost = int((gains > 0).sum()), int((gains < 0).sum())
    if weights is None and np.isin(left, (0, 1)).all() and np.isin(right, (0, 1)).all():
        return _binary(won, lost, left.size, confidence)
    relative = np.ones_like(gains) if weights is None else np.asarray(weights, dtype=np.float64)
    if relative.shape != gains.shape or (relative < 0).any() or not relative.any():
        raise ValueError("weights must be one number per item, none negative, not all zero")
    difference = float((relative * gains).sum() / relative.sum())
    residuals = relative / relative.mean() * (gains - difference)
    return _real(difference, residuals, won, lost, confidence)


def _binary(won: int, lost: int, n: int, confidence: float) -> Paired:
    """The comparison of right-or-wrong scores."""
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    up, down = (won + 1) / (n + 2), (lost + 1) / (n + 2)
    half = z * float(np.sqrt((up + down - (up - down) ** 2) / (n + 2)))
    lo, hi = max(-1.0, up - down - half), min(1.0, up - down + half)
    p_value = float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
    return Paired((won - lost) / n, lo, hi, won, lost, n, p_value)


def _real(
    difference: float, residuals: npt.NDArray[np.float64], won: int, lost: int, confidence: float
) -> Paired:
    """The comparison of real scores, from the residuals around the (weighted) mean difference."""
    n = residuals.size
    error = float(np.sqrt((residuals**2).sum() / (n - 1) / n))
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * error
    if error:
        p_value = 2 * float(stats.t.sf(abs(difference) / error, n - 1))
    else:  # all items agree to the bit
        p_value = 0.0 if difference else 1.0
    return Paired(difference, difference - half, difference + half, won, lost, n, p_value)
