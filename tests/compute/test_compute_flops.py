"""Precisions, the standardised figure, and quantities as people read them."""

from __future__ import annotations

import pytest

from kweek.compute.flops import (
    PRECISIONS,
    SECONDS_PER_YEAR,
    STANDARD_FACTOR,
    format_bytes,
    format_flop,
    format_seconds,
    standardised,
)


def test_the_table_is_the_ratio_of_the_widths() -> None:
    assert set(STANDARD_FACTOR) == set(PRECISIONS)
    assert standardised(1e12, "fp32") == 2e12
    assert standardised(1e12, "int4") == 0.25e12
    widths = {"fp64": 64, "fp32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "int4": 4}
    for precision, bits in widths.items():
        assert STANDARD_FACTOR[precision] == bits / 16  # type: ignore[index]


@pytest.mark.parametrize(
    ("flop", "text"), [(0, "0 FLOP"), (1.6e13, "1.6e13 FLOP"), (9.99e9, "1.0e10 FLOP"), (2, "2.0e0 FLOP")]
)
def test_flop(flop: float, text: str) -> None:
    assert format_flop(flop) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0042, "4.2 ms"),
        (0.25, "0.25 s"),
        (12.4, "12 s"),
        (59.7, "1 min"),
        (200, "3 min 20 s"),
        (3599.9, "1 h"),
        (7500, "2 h 5 min"),
        (86400 * 4.125, "4 d 3 h"),
        (2.5 * SECONDS_PER_YEAR, "2 y 183 d"),
        (500 * SECONDS_PER_YEAR, "500 y"),
        (171_000 * SECONDS_PER_YEAR, "1.7e5 y"),
        (1e9 * SECONDS_PER_YEAR, "1.0e9 y"),
        (3e12 * SECONDS_PER_YEAR, "3.0e12 y"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1.534e6, "1.53 MB"), (999_999, "1 MB"), (2.4e11, "240 GB")],
)
def test_bytes(num_bytes: float, text: str) -> None:
    assert format_bytes(num_bytes) == text
