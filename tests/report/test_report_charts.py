from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_reader import Element, read_page

from kweek.report import bars, charts
from kweek.report.scales import Axis, extent

NUMBERS = st.floats(-1e200, 1e200, allow_nan=False)


def coordinates(page: Element) -> list[float]:
    """All numbers that place something."""
    found = []
    for element in page.every():
        for name in ("d", "points", "x", "y", "cx", "cy", "width", "height"):
            found += [
                float(n) for n in re.findall(r"-?[\d.]+(?:e-?\d+)?|nan|inf", element.attributes.get(name, ""))
            ]
    return found


def plot(points: list[tuple[float, float]], log: bool = False) -> charts.Plot:
    x, y = extent([a for a, _ in points], log=log), extent([b for _, b in points])
    return charts.Plot(
        "k", "Title", "Text.", Axis("x", *x, "{:g}".format, log=log), Axis("y", *y, "{:g}".format)
    )


def test_a_chart_is_an_image_with_title_and_text() -> None:
    (svg,) = read_page(plot([(1, 1), (2, 2)]).svg()).all("svg")
    assert svg.attributes["role"] == "img"
    title, text = svg.attributes["aria-labelledby"].split()
    assert [e.text for e in svg.every() if e.attributes.get("id") in (title, text)] == ["Title", "Text."]


def test_marks_stand_where_their_values_are() -> None:
    drawn = plot([(0, 0), (10, 100)])
    drawn.dot((0, 0), 0, "low")
    drawn.dot((10, 100), 0, "high")
    low, high = read_page(drawn.svg()).all("circle")
    assert float(low.attributes["cx"]) == pytest.approx(drawn.to_x(0), abs=0.01)
    assert float(low.attributes["cx"]) < float(high.attributes["cx"])
    assert float(low.attributes["cy"]) > float(high.attributes["cy"])  # upwards is a smaller y


def test_an_interval_reaches_from_its_low_to_its_high_end() -> None:
    drawn = plot([(0, 0), (10, 100)])
    drawn.whisker(5, 20, 80, 1)
    (path,) = [p for p in read_page(drawn.svg()).all("path") if "whisker" in p.classes]
    numbers = [float(n) for n in re.findall(r"[\d.]+", path.attributes["d"])]
    assert max(numbers[1::2]) == pytest.approx(drawn.to_y(20), abs=0.01)
    assert min(numbers[1::2]) == pytest.approx(drawn.to_y(80), abs=0.01)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6), st.booleans())
def test_any_values_give_finite_coordinates(points: list[tuple[float, float]], log: bool) -> None:
    drawn = plot(points, log)
    drawn.line(points, 0)
    for point in points:
        drawn.dot(point, 3, "")
        drawn.whisker(point[0], point[1], point[1], 1)
    assert all(math.isfinite(number) for number in coordinates(read_page(drawn.svg())))


def test_series_differ_in_more_than_colour() -> None:
    shapes = {charts.marker(series, 0, 0) for series in range(4)}
    assert len(shapes) == 4
    assert len({charts.series_class(series) for series in range(16)}) == 16


def test_long_curves_keep_their_mean_and_end() -> None:
    points = [(float(i), float(i % 10)) for i in range(10_000)]
    kept = charts.thinned(points, 100)
    assert len(kept) <= 102
    assert kept[-1] == points[-1]
    assert sum(y for _, y in kept[:-1]) / len(kept[:-1]) == pytest.approx(4.5, abs=0.1)
    assert charts.thinned(points[:50]) == points[:50]


def test_stacked_bars_are_as_long_as_their_parts() -> None:
    rows = [("a", [(0, 1.0, "", ""), (1, 3.0, "", "")], "4"), ("b", [(0, 2.0, "", "")], "2")]
    boxes = read_page(bars.stacked("k", "t", "d", rows, 800, most=4.0)).all("rect")
    lengths = [float(box.attributes["width"]) + 1 for box in boxes]
    assert lengths[1] / lengths[0] == pytest.approx(3, rel=0.01)
    assert lengths[2] / lengths[0] == pytest.approx(2, rel=0.01)


def test_bars_of_nothing_are_not_drawn() -> None:
    page = read_page(bars.stacked("k", "t", "d", [("a", [(0, 0.0, "", "")], "0")], 800))
    assert page.all("rect") == []


def test_the_mark_in_a_table_lies_within_its_interval() -> None:
    page = read_page(bars.interval_mark(0.5, 0.25, 0.75, (0.0, 1.0), 0))
    (dot,) = page.all("circle")
    assert float(dot.attributes["cx"]) == pytest.approx(bars.INTERVAL_WIDTH / 2)
    assert page.all("svg")[0].attributes["aria-hidden"] == "true"
