"""Intervals against scipy, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kweek.stats.intervals import Interval, bootstrap, interval_score, mean_interval, wilson


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(case: tuple[int, int]) -> None:
    successes, n = case
    found = wilson(successes, n, 0.9)
    expected = stats.binomtest(successes, n).proportion_ci(confidence_level=0.9, method="wilson")
    assert found.mid == successes / n
    assert (found.lo, found.hi) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= found.lo <= found.mid <= found.hi <= 1


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_the_proportion_of_nothing_is_undefined(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson(successes, n)


def test_a_mean_over_seeds_is_scipys() -> None:
    values = [0.91, 0.93, 0.88, 0.95]
    lo, hi = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx(Interval(float(np.mean(values)), lo, hi))
    with pytest.raises(ValueError, match="no interval"):
        mean_interval([1.0])


def test_the_bootstrap_covers_a_ratio() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        sizes = generator.gamma(2.0, 500.0, 60)
        bits = sizes * generator.normal(2.0, 0.3, 60)
        found = bootstrap(
            np.stack([bits, sizes], axis=1),
            lambda rows: float(rows[:, 0].sum() / rows[:, 1].sum()),
            0.9,
            300,
            seed,
        )
        covered += found.lo <= 2.0 <= found.hi
    assert 80 <= covered <= 97


def test_the_bootstrap_is_a_function_of_its_seed() -> None:
    def median(rows: np.ndarray) -> float:
        return float(np.median(rows))

    values = np.random.default_rng(1).normal(size=50)
    assert bootstrap(values, median, seed=1) == bootstrap(values, median, seed=1)
    assert bootstrap(values, median, seed=1) != bootstrap(values, median, seed=2)
    with pytest.raises(ValueError, match="no items"):
        bootstrap([], median)


def test_the_interval_score_is_least_for_the_true_quantiles() -> None:
    outcomes = np.random.default_rng(2).normal(size=4000)

    def score(half: float) -> float:
        return float(np.mean([interval_score(-half, half, y, 0.1) for y in outcomes]))

    assert interval_score(1.0, 2.0, 1.5, 0.1) == 1.0
    assert interval_score(1.0, 2.0, 2.5, 0.1) == 1.0 + 20 * 0.5
    assert interval_score(1.0, 2.0, 0.5, 0.1) == 1.0 + 20 * 0.5
    best = min(np.linspace(0.5, 4, 36), key=score)
    assert math.isclose(best, 1.645, abs_tol=0.2)
