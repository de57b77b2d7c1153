"""Money: electricity, the machine's hour, and a remote model's tokens."""

import pytest

from kweek.compute.money import Prices


def test_own_work_costs_electricity_and_the_machine():
    prices = Prices(kwh=0.30, machine_hour=1.2)
    assert prices.own(3.6e6, 0) == pytest.approx(0.30)
    assert prices.own(0, 1800) == pytest.approx(0.6)


def test_a_remote_model_costs_what_its_tokens_cost_and_is_unknown_without_prices():
    assert Prices(million_read=2.0, million_written=8.0).remote(500_000, 250_000) == pytest.approx(3.0)
    assert Prices(million_read=2.0).remote(1, 1) is None
