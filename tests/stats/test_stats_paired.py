"""Paired comparisons against scipy, and their coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kweek.stats.paired import paired_difference


def test_right_or_wrong_is_mcnemars_exact_test() -> None:
    a = [1] * 60 + [1] * 15 + [0] * 5 + [0] * 20
    b = [1] * 60 + [0] * 15 + [1] * 5 + [0] * 20
    found = paired_difference(a, b)
    assert (found.won, found.lost, found.n) == (15, 5, 100)
    assert found.difference == pytest.approx(0.10)
    assert found.p_value == pytest.approx(stats.binomtest(5, 20).pvalue)  # 0.0414
    assert found.p_value == pytest.approx(0.0414, abs=1e-4)
    assert 0 < found.lo < 0.10 < found.hi < 0.2
    turned = paired_difference(b, a)
    assert (turned.lo, turned.hi) == pytest.approx((-found.hi, -found.lo))


def test_real_scores_are_students_t() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(1.0, 1, 40), generator.normal(0.5, 1, 40)
    found, expected = paired_difference(a, b, 0.9), stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.9)
    assert found.difference == pytest.approx(float(np.mean(a - b)))
    assert (found.lo, found.hi) == pytest.approx((interval.low, interval.high))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.won + found.lost == 40


def test_two_equal_models() -> None:
    same = paired_difference([0.5, 0.7, 0.1], [0.5, 0.7, 0.1])
    assert (same.difference, same.lo, same.hi, same.p_value) == (0, 0, 0, 1)
    same = paired_difference([1, 0, 1], [1, 0, 1])
    assert same.p_value == 1
    assert same.lo < 0 < same.hi


def test_a_constant_difference_is_certain() -> None:
    found = paired_difference([1.5, 2.5, 3.5], [1.0, 2.0, 3.0])
    assert (found.difference, found.p_value) == (0.5, 0.0)


def test_the_binary_interval_covers() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(600):
        easy = generator.random(80)
        a = (generator.random(80) < 0.3 + 0.5 * easy).astype(int)
        b = (generator.random(80) < 0.2 + 0.5 * easy).astype(int)
        found = paired_difference(a, b)
        covered += found.lo <= 0.1 <= found.hi
    assert 0.93 <= covered / 600 <= 0.98


def test_weights_make_it_a_difference_of_ratios() -> None:
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        sizes = generator.gamma(2.0, 500.0, 60)
        base = generator.normal(2.0, 0.4, 60)
        a, b = base + generator.normal(0.05, 0.05, 60), base
        found = paired_difference(a, b, weights=sizes)
        ratio = (a * sizes).sum() / sizes.sum() - (b * sizes).sum() / sizes.sum()
        assert found.difference == pytest.approx(ratio)
        covered += found.lo <= 0.05 <= found.hi
    assert 0.91 <= covered / 300 <= 0.99
    alike = paired_difference([1.0, 2.0, 4.0], [0.5, 2.5, 3.0], weights=[3, 3, 3])
    assert alike == pytest.approx(paired_difference([1.0, 2.0, 4.0], [0.5, 2.5, 3.0]))


@pytest.mark.parametrize(
    ("a", "b", "weights"),
    [([1, 0], [1], None), ([1], [1], None), ([1.5, 2], [1, 2], [1, -1]), ([1.5, 2], [1, 2], [0, 0])],
)
def test_what_cannot_be_compared(a: list[float], b: list[float], weights: list[float] | None) -> None:
    with pytest.raises(ValueError, match="item"):
        paired_difference(a, b, weights=weights)
