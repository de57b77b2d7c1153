"""The yardsticks: all of the design's figures are there, and their arithmetic is done, not copied."""

from __future__ import annotations

import math

import pytest

from kweek.compute.yardsticks import YARDSTICKS

BY_NAME = {yardstick.name: yardstick for yardstick in YARDSTICKS}


def test_each_has_a_source_a_unit_and_a_ratio() -> None:
    assert len(BY_NAME) == len(YARDSTICKS) == 13
    for yardstick in YARDSTICKS:
        assert yardstick.claim and yardstick.source and yardstick.unit and yardstick.note
        assert yardstick.ratio == pytest.approx(yardstick.computed / yardstick.value)


@pytest.mark.parametrize(
    ("name", "ratio", "tolerance"),
    [
        ("training GPT-4", 1.09, 0.01),
        ("all people doing sums", 0.62, 0.01),
        ("reading the training text", 1.0, 0.01),
        ("one token of GPT-4", 0.001, 1e-9),  # 2 FLOP per active parameter give a thousandth
        ("GPT-4 speaking", 3.92 / 3, 0.01),
        ("a 405B model speaking", 1 / 53, 0.001),
        ("price span", 0.97, 0.01),
        ("synapses", 1.4, 0.01),
        ("one rack", 1.0, 1e-9),
        ("one rack, standardised", 1 / 8, 1e-9),
    ],
)
def test_what_the_claims_come_to(name: str, ratio: float, tolerance: float) -> None:
    assert BY_NAME[name].ratio == pytest.approx(ratio, abs=tolerance)


def test_claims_that_do_not_hold_are_shown_and_not_smoothed() -> None:
    assert BY_NAME["a question to o3"].ratio < 0.05
    assert BY_NAME["the same question to a person"].ratio < 0.1
    assert BY_NAME["a brain's work"].ratio < 0.01
    assert BY_NAME["a brain's work"].value == pytest.approx(math.sqrt(20) * 1e18)
