from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.report.scales import Scale, extent, linear_ticks, log_ticks

NUMBERS = st.floats(-1e300, 1e300, allow_nan=False)


def test_a_linear_scale_maps_its_ends_and_middle() -> None:
    scale = Scale(10, 20, 100, 300)
    assert [scale(10), scale(15), scale(20)] == [100, 200, 300]


def test_a_log_scale_maps_its_geometric_middle() -> None:
    scale = Scale(1e10, 1e14, 0, 400, log=True)
    assert scale(1e12) == pytest.approx(200)


def test_ticks_are_round() -> None:
    assert linear_ticks(0, 1, 4) == [0, 0.25, 0.5, 0.75, 1]
    assert linear_ticks(-3, 7, 5) == [-2, 0, 2, 4, 6]
    assert log_ticks(1e10, 1e13, 5) == [1e10, 1e11, 1e12, 1e13]
    assert log_ticks(2e11, 3e12) == pytest.approx([2e11, 5e11, 1e12, 2e12])


@given(NUMBERS, NUMBERS, st.integers(1, 10))
def test_ticks_lie_in_their_range_in_order(a: float, b: float, count: int) -> None:
    lo, hi = sorted((a, b))
    ticks = linear_ticks(lo, hi, count)
    slack = 1e-6 * (hi - lo)
    assert 1 <= len(ticks) <= 51
    assert all(lo - slack <= tick <= hi + slack for tick in ticks)
    assert ticks == sorted(set(ticks))


@given(st.floats(1e-199, 1e300), st.floats(1e-199, 1e300), st.integers(1, 10))
def test_log_ticks_lie_in_their_range_in_order(a: float, b: float, count: int) -> None:
    lo, hi = sorted((a, b))
    ticks = log_ticks(lo, hi, count)
    assert ticks
    assert all(lo * (1 - 1e-6) <= tick <= hi * (1 + 1e-6) for tick in ticks)
    assert ticks == sorted(ticks)


@given(st.lists(NUMBERS, max_size=5), NUMBERS, st.booleans())
def test_every_value_has_a_finite_place(values: list[float], value: float, log: bool) -> None:
    lo, hi = extent(values, log=log)
    assert lo < hi
    place = Scale(lo, hi, 0, 100, log)(value)
    assert math.isfinite(place)
    assert -100 <= place <= 200


def test_an_extent_leaves_room() -> None:
    lo, hi = extent([1.0, 2.0], pad=0.1)
    assert (lo, hi) == (0.9, 2.1)
    assert extent([5.0])[0] < 5 < extent([5.0])[1]
