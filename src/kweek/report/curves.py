"""Curves: one small chart of a quantity over the steps of a stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kweek.report import figures
from kweek.report.charts import PANEL, Plot, Point, thinned
from kweek.report.history import Record
from kweek.report.markup import Markup
from kweek.report.scales import Axis, extent

HEIGHT = 200
Writer = Callable[[float], str]


def points(records: Sequence[Record], across: str, key: str, within: str | None = None) -> list[Point]:
    """What records say of a quantity along another; those without either are passed over.

    Args:
        within: the field that holds the quantity among others.
    """
    found = []
    for record in records:
        x, y = record.number(across), (record.inner(within) if within else record).number(key)
        if x is not None and y is not None:
            found.append((x, y))
    return found


@dataclass(frozen=True)
class Around:
    """What lies about a curve.

    Attributes:
        band: low and high ends of what most of it lies between, as points at the same places.
        whiskers: (place, low, high) of single points, which are then marked.
        limit: a threshold, drawn as a dashed line; None where there is none.
    """

    band: tuple[Sequence[Point], Sequence[Point]] = ((), ())
    whiskers: Sequence[tuple[float, float, float]] = ()
    limit: Sequence[Point] = ()

    @property
    def heights(self) -> list[float]:
        """Everything that the chart must have room for."""
        ends = [end for _, low, high in self.whiskers for end in (low, high)]
        return [*ends, *(y for side in (*self.band, self.limit) for _, y in side)]


def curve(
    key: str,
    unit: str,
    label: str,
    lines: Sequence[Sequence[Point]],
    *,
    names: Sequence[str] = (),
    write: Writer = figures.tick,
    around: Around | None = None,
    width: int = PANEL,
) -> Markup | None:
    """A chart of lines, or None for fewer than two points.

    Args:
        key: unique on the page; its parts, parted by hyphens, are the chart's title.
        label: what the lines run along.
        names: of the lines, for the description.
    """
    every = [point for line in lines for point in line]
    if len(every) < 2:
        return None
    about = around or Around()
    lines = [thinned(line) for line in lines]
    first, last = min(x for x, _ in every), max(x for x, _ in every)
    heights = [y for line in lines for _, y in line] + about.heights
    low, high = extent(heights)
    if min([y for _, y in every] + about.heights) >= 0:
        low = max(low, 0.0)
    ends = "; ".join(
        f"{name + ' ' if name else ''}from {figures.value(line[0][1])} to {figures.value(line[-1][1])}"
        for name, line in zip(names or [""] * len(lines), lines, strict=True)
        if line
    )
    what = key.replace("-", ", ").replace("_", " ")
    plot = Plot(
        f"curve-{key}",
        f"{what} by {label}",
        f"{ends}.",
        Axis(label, first, last, figures.tick),
        Axis(unit, low, high, write),
        width=width,
        height=HEIGHT,
    )
    plot.band(*about.band, 0)
    plot.line(about.limit, 2, style="dashed")
    for index, line in enumerate(lines):
        plot.line(line, index)
    for x, bottom, top in about.whiskers:
        plot.whisker(x, bottom, top, 0, cap=3)
    return plot.svg()
