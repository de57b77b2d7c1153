"""Whether a confidence means what it says."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kweek.stats.intervals import Numbers

BINS = 10  # the usual number (Guo et al. 2017)


def brier(confidences: Numbers, right: Numbers) -> npt.NDArray[np.float64]:
    """(confidence - right)^2 of every answer, right being 1 or 0 (Brier 1950): proper, and one figure per item, so
    that two models can be compared item by item. 0.25 is what confidences of one half earn."""
    said, true = _checked(confidences, right)
    return np.asarray((said - true) ** 2)


def calibration_error(confidences: Numbers, right: Numbers, bins: int = BINS) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over bins of equal width, by their size
    (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599, equation 3). Biased upwards with few items in a bin.

    >>> calibration_error([0.95, 0.95], [1.0, 0.0])
    0.45
    """
    said, true = _checked(confidences, right)
    places = np.minimum((said * bins).astype(np.int64), bins - 1)
    gaps = [abs(float((said - true)[places == place].sum())) for place in np.unique(places)]
    return round(sum(gaps) / len(said), 12)


def _checked(confidences: Numbers, right: Numbers) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    said, true = np.asarray(confidences, np.float64), np.asarray(right, np.float64)
    if said.shape != true.shape or said.ndim != 1 or not said.size:
        raise ValueError(f"not one judgement for each of some confidences: {said.shape} and {true.shape}")
    if not ((said >= 0) & (said <= 1)).all():
        raise ValueError("a confidence is a number from 0 to 1")
    return said, true
