"""What compression costs in bits per byte, and how much of the cost of plain rounding a method recovers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kweek.evaluate.bits import BitsPerByte
from kweek.stats.intervals import Interval, bootstrap


def recovered_share(exact: BitsPerByte, plain: BitsPerByte, better: BitsPerByte) -> Interval:
    """The share of the bits that `plain` loses against `exact` which `better` does not lose, with a 95% interval.

    1 means nothing is lost, 0 as much as by `plain`. Documents are resampled, the three figures of one document
    together.

    Raises:
        ValueError: the three were measured on different documents.
    """
    for other in (plain, better):
        if not np.array_equal(exact.document_bytes, other.document_bytes):
            raise ValueError("the models were not measured on the same documents")
    return bootstrap(np.stack([m.document_bits for m in (exact, plain, better)], axis=1), _share)


def _share(columns: npt.NDArray[np.float64]) -> float:
    exact, plain, better = columns.sum(axis=0)
    return float((plain - better) / (plain - exact)) if plain != exact else 0.0
