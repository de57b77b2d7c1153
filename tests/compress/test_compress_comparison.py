"""The recovered share: its value, its ends, its refusal to compare different texts."""

import math

import numpy as np
import pytest

from kweek.compress.comparison import recovered_share
from kweek.evaluate.bits import BitsPerByte
from kweek.stats.intervals import Interval


def measured(bits, sizes):
    value = bits.sum() / sizes.sum()
    return BitsPerByte(bits.sum(), int(sizes.sum()), 0, Interval(value, -math.inf, math.inf), bits, sizes)


def three(share, noise):
    generator = np.random.default_rng(0)
    sizes = generator.integers(100, 3000, 80)
    exact = sizes * 1.5
    loss = sizes * 0.01 * generator.lognormal(0, 0.5, 80)
    plain = exact + loss
    better = exact + (1 - share) * loss + noise * generator.standard_normal(80) * loss
    return [measured(bits, sizes) for bits in (exact, plain, better)]


def test_share_and_interval():
    found = recovered_share(*three(0.6, 0.5))
    assert found.lo < 0.6 < found.hi
    assert found.hi - found.lo < 0.5
    exactly = recovered_share(*three(0.6, 0.0))
    assert exactly == pytest.approx((0.6, 0.6, 0.6))


def test_different_texts_are_refused():
    a, b, _ = three(0.5, 0.0)
    with pytest.raises(ValueError, match="same documents"):
        recovered_share(a, b, measured(a.document_bits[:-1], a.document_bytes[:-1]))
