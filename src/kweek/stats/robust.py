"""What is usual: the middle and the spread of some values, which single strange ones do not move."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kweek.stats.intervals import Numbers

NORMAL = 1.4826  # makes the median absolute deviation that of a normal distribution (Rousseeuw & Croux 1993)


class Usual(NamedTuple):
    """Median, and median absolute deviation in units of a normal distribution's standard deviation."""

    middle: float
    spread: float


def usual(values: Numbers) -> Usual:
    """Of at least one value. Half of them may be anything.

    >>> usual([1.0, 2.0, 3.0, 4.0, 1e9]).middle
    3.0
    """
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        raise ValueError("nothing is usual among no values")
    middle = float(np.median(array))
    return Usual(middle, NORMAL * float(np.median(np.abs(array - middle))))
