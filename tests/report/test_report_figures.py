from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.report import figures


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (figures.whole(2_211_840), "2,211,840"),
        (figures.compact(2_211_840), "2.21\u202fM"),
        (figures.compact(512), "512"),
        (figures.tick(2_000_000), "2\u202fM"),
        (figures.tick(10_500), "10.5\u202fk"),
        (figures.tick(0.25), "0.25"),
        (figures.percent(0.92), "92.0%"),
        (figures.percent(0.92, 0), "92%"),
        (figures.points(0.682), "+68.2"),
        (figures.points(-0.015), "−1.5"),
        (figures.points(-0.0001), "0.0"),
        (figures.bits(1.9573), "1.957"),
        (figures.change(-0.0104), "−0.010"),
        (figures.flop(1.42e13), "1.4 × 10¹³\u202fFLOP"),
        (figures.power(1e12, 0), "10¹²"),
        (figures.power(9.99e12), "1.0 × 10¹³"),
        (figures.power(3.2e-7), "3.2 × 10⁻⁷"),
        (figures.seconds(0.0042), "4.20\u202fms"),
        (figures.seconds(4.21), "4.21\u202fs"),
        (figures.seconds(59.99), "1\u202fmin 00\u202fs"),
        (figures.seconds(372.2), "6\u202fmin 12\u202fs"),
        (figures.seconds(3_599.7), "1\u202fh 00\u202fmin"),
        (figures.seconds(3_780), "1\u202fh 03\u202fmin"),
        (figures.num_bytes(823_296), "823\u202fkB"),
        (figures.num_bytes(999_999), "1.00\u202fMB"),
        (figures.num_bytes(12), "12\u202fB"),
        (figures.joules(0.0042), "4.20\u202fmJ"),
        (figures.value(0.0025), "0.0025"),
        (figures.value(1.3e-6), "1.30 × 10⁻⁶"),
        (figures.probability(2e-9), "<\u202f0.001"),
        (figures.probability(0.0312), "0.031"),
    ],
)
def test_numbers_as_people_read_them(shown: str, expected: str) -> None:
    assert shown == expected


WRITERS: list[Callable[[float | None], str]] = [
    figures.whole, figures.compact, figures.tick, figures.percent, figures.share, figures.points, figures.bits,
    figures.change, figures.decimal, figures.flop, figures.seconds, figures.num_bytes, figures.joules, figures.value,
    figures.probability,
]  # fmt: skip


@pytest.mark.parametrize("write", WRITERS)
def test_nothing_recorded_is_a_dash(write: Callable[[float | None], str]) -> None:
    assert write(None) == figures.NONE


@pytest.mark.parametrize("write", WRITERS)
@given(number=st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_can_be_shown(write: Callable[[float | None], str], number: float) -> None:
    assert write(number)
