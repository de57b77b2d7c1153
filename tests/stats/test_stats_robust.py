"""What is usual: half of the values may be anything."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.stats.robust import usual


def test_known_values():
    assert usual([3.0]) == (3.0, 0.0)
    assert usual([1.0, 2.0, 4.0]) == (2.0, pytest.approx(1.4826))


def test_nothing_is_usual_among_nothing():
    with pytest.raises(ValueError, match="no values"):
        usual([])


@given(st.lists(st.floats(-1, 1), min_size=5, max_size=30), st.floats(-1e12, 1e12))
def test_a_few_strange_values_do_not_move_it(values, strange):
    assert -1 <= usual([*values, *[strange] * ((len(values) - 1) // 2)]).middle <= 1


def test_the_spread_is_that_of_a_normal_distribution():
    values = np.random.default_rng(0).normal(7, 3, 20_000)
    assert usual(values) == (pytest.approx(7, abs=0.1), pytest.approx(3, rel=0.03))
