"""Scaling laws: fits of known laws, published data, and forecasts that keep what their intervals promise."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.stats.intervals import interval_score
from kweek.stats.scaling import Forecast, fit_chinchilla, fit_power_law, forecast

Case = tuple[list[tuple[float, float]], float, float]  # small runs, the target's x, its outcome


@settings(max_examples=60, deadline=None)
@given(
    floor=st.floats(0.0, 3.0),
    scale=st.floats(0.2, 3.0),
    exponent=st.floats(0.15, 0.75),
    unit=st.floats(-3, 20),
)
def test_an_exact_law_is_found(floor: float, scale: float, exponent: float, unit: float) -> None:
    x = 10**unit * np.geomspace(1, 100, 9)
    y = floor + scale * (x / x[0]) ** -exponent
    law = fit_power_law(x, y)
    assert [law(value) for value in x] == pytest.approx(y.tolist(), rel=1e-5)
    assert law.exponent == pytest.approx(exponent, rel=0.02)
    assert law(x[-1] * 8) == pytest.approx(floor + scale * 800**-exponent, rel=1e-3)


def test_a_law_cannot_fall_below_zero_or_rise() -> None:
    x = [1.0, 2.0, 4.0, 8.0]
    steep = fit_power_law(x, [value**-0.9 for value in x])
    assert steep.floor == 0 and steep.exponent == pytest.approx(0.8, abs=1e-3)
    rising = fit_power_law(x, [1.0, 1.1, 1.2, 1.3])
    assert rising.scale == 0 and rising.floor == pytest.approx(1.13, abs=0.03)


def test_weights_decide_what_is_fitted() -> None:
    x = np.geomspace(1, 64, 7)
    y = 2 + x**-0.4
    y[0] *= 1.2
    law = fit_power_law(x, y, weights=[0, 1, 1, 1, 1, 1, 1])
    assert law(200) == pytest.approx(2 + 200**-0.4, rel=1e-4)
    assert fit_power_law(x, y)(200) != pytest.approx(2 + 200**-0.4, rel=1e-3)


@pytest.mark.parametrize(
    ("x", "y"),
    [([1, 2], [1, 2]), ([1, 2, 3], [1, 2]), ([1, 2, -3], [1, 1, 1]), ([1, 2, 3], [1, math.nan, 1])],
)
def test_what_cannot_be_fitted(x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="fit"):
        fit_power_law(x, y)


def simulate(
    generator: np.random.Generator, num_runs: int, decades: float, noise: float, bend: float
) -> Case:
    """Runs of a random law; `bend` is how fast its exponent drifts, which no fit of it can know."""
    x = np.geomspace(1, 10**decades, num_runs)
    exponent, share = generator.uniform(0.15, 0.5), generator.uniform(0.4, 1.0)
    drift = generator.uniform(-bend, bend)

    def law(at: np.ndarray) -> np.ndarray:
        distance = np.log(at / x[-1])
        noisy = np.exp(noise * generator.standard_normal(len(at)))
        return ((1 - share) + share * np.exp(-exponent * distance + drift * distance**2)) * noisy

    target = float(x[-1] * math.exp(generator.uniform(math.log(4), math.log(8))))
    return list(zip(x.tolist(), law(x).tolist(), strict=True)), target, float(law(np.array([target]))[0])


def trial(
    predict: Callable[[list[tuple[float, float]], float], tuple[float, float]],
    num_runs: int,
    decades: float,
    noise: float,
    bend: float = 0.0,
    repeats: int = 200,
) -> tuple[float, float, float]:
    """Coverage, median half-width and mean interval score (both as shares of the outcome)."""
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(repeats):
        points, x, y = simulate(generator, num_runs, decades, noise, bend)
        lo, hi = predict(points, x)
        rows.append((lo <= y <= hi, (hi - lo) / 2 / y, interval_score(lo, hi, y, 0.1) / y))
    inside, widths, scores = np.array(rows).T
    return float(inside.mean()), float(np.median(widths)), float(scores.mean())


def ours(points: list[tuple[float, float]], x: float) -> tuple[float, float]:
    found = forecast(points, x)
    return found.lo, found.hi


@pytest.mark.parametrize(
    ("num_runs", "decades", "noise", "coverage", "half_width"),
    [
        (6, 1.0, 0.003, 0.90, 0.055),
        (8, 1.3, 0.003, 0.90, 0.035),
        (8, 1.3, 0.005, 0.90, 0.045),
        (9, 1.5, 0.005, 0.90, 0.040),
        (8, 1.3, 0.010, 0.88, 0.085),
    ],
)
def test_the_interval_covers_four_to_eight_times_beyond(
    num_runs: int, decades: float, noise: float, coverage: float, half_width: float
) -> None:
    found, width, _ = trial(ours, num_runs, decades, noise)
    assert found >= coverage - 0.02  # two standard errors of 200 repeats are 4%; the seed is fixed
    assert width <= half_width


def test_the_interval_covers_laws_that_bend() -> None:
    assert trial(ours, 8, 1.3, 0.005, bend=0.005)[0] >= 0.88


def test_it_beats_simpler_intervals() -> None:
    def last_run(points: list[tuple[float, float]], x: float) -> tuple[float, float]:
        return points[-1][1], points[-1][1]

    def residuals_of_the_fit(points: list[tuple[float, float]], x: float) -> tuple[float, float]:
        law = fit_power_law([x for x, _ in points], [y for _, y in points])
        spread = 1.645 * float(np.std([math.log(y / law(x)) for x, y in points], ddof=3))
        return law(x) * math.exp(-spread), law(x) * math.exp(spread)

    for noise in (0.003, 0.01):
        score = trial(ours, 8, 1.3, noise, bend=0.005)[2]
        assert score < 0.7 * trial(residuals_of_the_fit, 8, 1.3, noise, bend=0.005)[2]
        assert score < 0.1 * trial(last_run, 8, 1.3, noise, bend=0.005)[2]


def test_larger_runs_weigh_more_because_it_helps_where_laws_bend(monkeypatch: pytest.MonkeyPatch) -> None:
    bent, straight = trial(ours, 9, 1.5, 0.002, bend=0.01)[2], trial(ours, 9, 1.5, 0.005)[2]
    monkeypatch.setattr("kweek.stats.scaling._WEIGHT_EXPONENT", 0.0)
    assert bent < trial(ours, 9, 1.5, 0.002, bend=0.01)[2]
    assert straight < 1.05 * trial(ours, 9, 1.5, 0.005)[2]


def test_a_forecast_shows_its_backtest() -> None:
    points, x, _ = simulate(np.random.default_rng(3), 8, 1.3, 0.005, 0.0)
    found = forecast(points[::-1], x)
    assert found == forecast(points, x)
    assert [one.num_runs for one in found.backtest] == [4] * 4 + [5] * 3 + [6] * 2 + [7]
    assert found.coverage == sum(one.inside for one in found.backtest) / 10
    assert found.lo < found.mid < found.hi
    assert found.half_width == pytest.approx((found.hi - found.lo) / 2 / found.mid)
    wider = forecast(points, x, confidence=0.98)
    assert wider.lo < found.lo and wider.hi > found.hi
    assert forecast(points, 10 * x).half_width > found.half_width


def test_the_unit_of_x_does_not_matter() -> None:
    points, x, _ = simulate(np.random.default_rng(4), 8, 1.3, 0.005, 0.0)
    scaled = forecast([(1e13 * at, y) for at, y in points], 1e13 * x)
    assert scaled[:3] == pytest.approx(forecast(points, x)[:3])


def test_repeats_of_one_size_are_not_predicted_by_each_other() -> None:
    points = [(x, 2 + x**-0.3 + e) for x in (1.0, 2.0, 4.0, 8.0, 16.0) for e in (-0.01, 0.01)]
    found = forecast(points, 64.0)
    assert {one.num_runs for one in found.backtest} == {8}
    assert found.lo < 2 + 64**-0.3 < found.hi


@pytest.mark.parametrize("num_sizes", [1, 3, 4])
def test_too_few_sizes(num_sizes: int) -> None:
    with pytest.raises(ValueError, match="runs"):
        forecast([(float(1 + index % num_sizes), 2.0) for index in range(8)], 20.0)


def test_a_known_chinchilla_law_is_found_in_spite_of_runs_gone_wrong() -> None:
    generator = np.random.default_rng(5)
    n, d = 10 ** generator.uniform(7.5, 10, 150), 10 ** generator.uniform(9, 11.5, 150)
    losses = 1.8 + 480 * n**-0.35 + 2100 * d**-0.37
    losses[:6] *= 1.3
    law = fit_chinchilla(n, d, losses)
    assert law.floor == pytest.approx(1.8, rel=1e-3)
    assert (law.alpha, law.beta) == pytest.approx((0.35, 0.37), rel=5e-3)
    assert law(1e10, 1e12) == pytest.approx(1.8 + 480 * 1e10**-0.35 + 2100 * 1e12**-0.37, rel=1e-3)


@pytest.fixture(scope="module")
def chinchilla() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parameters, training FLOP and loss of 240 runs, read from a figure (Besiroglu et al. 2024)."""
    file = Path(os.environ.get("KWEEK_DATA", "")) / "chinchilla_epoch" / "svg_extracted_data.csv"
    if "KWEEK_DATA" not in os.environ or not file.exists():
        pytest.skip("KWEEK_DATA/chinchilla_epoch is absent")
    with file.open(newline="") as lines:
        rows = [
            (float(r["Model Size"]), float(r["Training FLOP"]), float(r["loss"]))
            for r in csv.DictReader(lines)
        ]
    n, flop, losses = np.array(rows).T
    kept = losses < np.sort(losses)[-5]  # the five that the replication leaves out
    return n[kept], flop[kept], losses[kept]


def test_the_published_fit_of_chinchilla(chinchilla: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    n, flop, losses = chinchilla
    law = fit_chinchilla(n, flop / 6 / n, losses)
    assert (law.a, law.b) == pytest.approx((477.8, 2143.4), rel=1e-3)
    assert (law.floor, law.alpha, law.beta) == pytest.approx((1.8172, 0.3473, 0.3672), abs=1e-4)
    assert 1.775 <= law.floor <= 1.878 and 0.317 <= law.alpha <= 0.370 and 0.335 <= law.beta <= 0.423


def test_forecasts_of_real_runs(chinchilla: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """The best run in each of fifteen bands of FLOP, forecast from the smaller ones, 3 to 10 times ahead."""
    _, flop, losses = chinchilla
    band = np.digitize(flop, np.geomspace(flop.min(), flop.max() * 1.01, 16))
    best = [np.flatnonzero(band == b)[losses[band == b].argmin()] for b in np.unique(band)]
    points = [(float(flop[i]), float(losses[i])) for i in best]
    found: list[tuple[Forecast, float]] = [
        (forecast(points[:k], x), y)
        for k in range(6, len(points))
        for x, y in points[k:]
        if 3 < x / points[k - 1][0] < 10
    ]
    assert len(found) > 12
    assert np.mean([f.lo <= y <= f.hi for f, y in found]) > 0.7  # neighbouring forecasts miss together
    assert max(f.half_width for f, _ in found) < 0.04
