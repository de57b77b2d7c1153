"""Bars: shares of a whole, rows that compare, and the small interval marks that stand inside tables."""

from __future__ import annotations

from collections.abc import Sequence

from kweek.report.charts import CHAR, image, marker, path_of, series_class
from kweek.report.markup import Markup, tag
from kweek.report.scales import Scale

ROW = 34  # pixels from one row to the next
BAR = 18  # pixels that a bar is high
INTERVAL_WIDTH, INTERVAL_HEIGHT = 120, 18

#: One part of a stacked bar: series, size, tooltip, words inside where there is room.
Part = tuple[int, float, str, str]


def stacked(
    key: str,
    title: str,
    description: str,
    rows: Sequence[tuple[str, Sequence[Part], str]],
    width: int,
    *,
    most: float | None = None,
) -> Markup:
    """Rows of stacked bars: (name, parts, total in words). `most` is the size drawn at full length.

    Without `most` every row is drawn at full length, as shares of its own total.
    """
    above = width < 500  # on a phone names stand above their bars
    name_width = 0 if above else min(190.0, max((len(name) for name, _, _ in rows), default=0) * CHAR + 16)
    total_width = max((len(total) for _, _, total in rows), default=0) * CHAR + 10
    step = ROW + 16 if above else ROW
    full = width - name_width - (0 if above else total_width)
    marks = []
    for index, (name, parts, total) in enumerate(rows):
        top = index * step + (18 if above else 4)
        base = sum(size for _, size, _, _ in parts) if most is None else most
        marks.append(tag("text", name, x=0, y=top - 5 if above else top + 13, class_="row"))
        x = name_width
        for series, size, tooltip, words in parts:
            length = full * size / base if base > 0 else 0.0
            if length <= 0:
                continue
            box = tag("rect", x=x, y=top, width=max(length - 1, 0.5), height=BAR, class_="box")
            inside = None
            if words and length > len(words) * CHAR + 8:
                inside = tag("text", words, x=x + 5, y=top + 13, class_="inside")
            marks.append(tag("g", tag("title", tooltip), box, inside, class_=series_class(series)))
            x += length
        at = (width, "end", top - 5) if above else (x + 7, "start", top + 13)
        marks.append(tag("text", total, x=at[0], y=at[2], text_anchor=at[1], class_="total"))
    return image(key, title, description, width, len(rows) * step + 4, marks)


def dot_rows(
    key: str,
    title: str,
    description: str,
    rows: Sequence[tuple[str, float, float | None, float | None, int, str]],
    width: int,
) -> Markup:
    """Shares of one with their intervals, a row for each: (name, share, lo, hi, series, share in words)."""
    scale = Scale(0.0, 1.0, 6, width - 6)
    marks = []
    for index, (name, mid, lo, hi, series, words) in enumerate(rows):
        top = index * 46 + 14
        track = path_of([(scale(0), top + 13), (scale(1), top + 13)])
        drawn = [tag("path", d=track, class_="grid")]
        if lo is not None and hi is not None:
            drawn.append(
                tag("path", d=path_of([(scale(lo), top + 13), (scale(hi), top + 13)]), class_="range")
            )
        drawn.append(marker(series, scale(mid), top + 13, 5.5))
        marks.append(tag("g", drawn, class_=series_class(series)))
        marks.append(tag("text", name, x=0, y=top, class_="row"))
        marks.append(tag("text", words, x=width, y=top, text_anchor="end", class_="total"))
    return image(key, title, description, width, len(rows) * 46, marks)


def interval_mark(
    mid: float,
    lo: float | None,
    hi: float | None,
    domain: tuple[float, float],
    series: int,
    *,
    zero: bool = False,
) -> Markup:
    """A value and its interval on a common axis, small enough for a table cell; hidden from screen readers,
    since the numbers stand in the cells beside it. `zero` draws the line of no difference."""
    scale = Scale(domain[0], domain[1], 5, INTERVAL_WIDTH - 5)
    middle = INTERVAL_HEIGHT / 2
    marks = [tag("path", d=path_of([(0, middle), (INTERVAL_WIDTH, middle)]), class_="grid")]
    if zero:
        marks.append(tag("path", d=path_of([(scale(0), 0), (scale(0), INTERVAL_HEIGHT)]), class_="axis"))
    if lo is not None and hi is not None:
        marks.append(tag("path", d=path_of([(scale(lo), middle), (scale(hi), middle)]), class_="range"))
    marks.append(marker(series, scale(mid), middle, 4))
    return tag(
        "svg",
        marks,
        viewBox=f"0 0 {INTERVAL_WIDTH} {INTERVAL_HEIGHT}",
        class_=["interval", series_class(series)],
        aria_hidden="true",
    )


def size_mark(share: float, series: int = 0) -> Markup:
    """A bar for a share of the largest in a column, for a table cell."""
    length = max(min(share, 1.0), 0.0) * INTERVAL_WIDTH
    box = tag("rect", x=0, y=4, width=length, height=10, class_="box")
    return tag(
        "svg",
        box,
        viewBox=f"0 0 {INTERVAL_WIDTH} {INTERVAL_HEIGHT}",
        class_=["interval", series_class(series)],
        aria_hidden="true",
    )
