"""Spreads: columns of how a quantity is distributed, for several groups side by side."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from kweek.report import figures
from kweek.report.charts import PANEL, Plot
from kweek.report.curves import HEIGHT, Writer
from kweek.report.history import Record
from kweek.report.markup import Markup
from kweek.report.scales import Axis

FILLED = 0.94  # share of a column's stretch that its bars take where columns touch
APART = 0.7  # the same where each value stands for itself


@dataclass(frozen=True)
class Group:
    """One series: its name, how many fell into each column, and the mean as it was recorded."""

    name: str
    counts: list[float]
    mean: float | None
    n: float | None


@dataclass(frozen=True)
class Spread:
    """A record `distribution`.

    Attributes:
        edges: of the columns, rising.
        ticks: the values themselves where each has a column of its own, else none.
    """

    quantity: str
    unit: str
    of: str
    edges: list[float]
    ticks: list[float]
    groups: list[Group]


def spread_of(record: Record) -> Spread | None:
    """What a record says; None where it is damaged."""
    edges, ticks = record.numbers_of("edges"), record.numbers_of("ticks")
    groups = []
    for item in record.items("series"):
        counts = [max(count, 0.0) for count in item.numbers_of("counts")]
        if len(counts) == len(edges) - 1 and sum(counts) > 0:
            groups.append(Group(item.name("name"), counts, item.number("mean"), item.number("n")))
    if not groups or any(b <= a for a, b in itertools.pairwise(edges)):
        return None
    kept = ticks if len(ticks) == len(edges) - 1 else []
    words = record.text("unit") or "", record.text("of") or ""
    return Spread(record.name("quantity"), *words, edges, kept, groups)


def columns(
    key: str, title: str, spread: Spread, *, write: Writer = figures.tick, width: int = PANEL
) -> Markup:
    """The chart: for every group its share in each column.

    Args:
        key: unique on the page.
    """
    apart = bool(spread.ticks)  # columns then stand at places in a row, not on a scale
    ends = [float(at) for at in range(len(spread.edges))] if apart else spread.edges
    names = {at + 0.5: write(tick) for at, tick in enumerate(spread.ticks)}
    axis = (
        Axis("", ends[0], ends[-1], lambda at: names.get(at, ""), ticks=tuple(names))
        if apart
        else Axis(spread.unit, ends[0], ends[-1], write)
    )
    shares = [[count / sum(group.counts) for count in group.counts] for group in spread.groups]
    told = "; ".join(f"{group.name}: mean {figures.value(group.mean)}" for group in spread.groups)
    top = max(max(row) for row in shares) * 1.06
    plot = Plot(
        f"columns-{key}",
        title,
        f"{told}.",
        axis,
        Axis("share", 0.0, top, lambda v: figures.percent(v, 0)),
        width=width,
        height=HEIGHT,
    )
    for place, (left, right) in enumerate(itertools.pairwise(ends)):
        wide = (right - left) * (APART if apart else FILLED) / len(shares)
        start = (left + right - wide * len(shares)) / 2
        where = names[place + 0.5] if apart else _stretch(spread.edges[place], spread.edges[place + 1], write)
        for index, (group, row) in enumerate(zip(spread.groups, shares, strict=True)):
            told = f"{group.name}, {where}: {group.counts[place]:.0f} of {sum(group.counts):.0f}"
            ends_of_bar = (start + wide * index, start + wide * (index + 1))
            plot.column(ends_of_bar, row[place], index, told)
    return plot.svg()


def _stretch(low: float, high: float, write: Writer) -> str:
    return f"{write(low)} to {write(high)}"
