"""Tables: a caption, headings that belong to their columns, and numbers that a program can read back.

Every recorded number stands in `<data value="...">` with the value as it was recorded, so that what the
page shows can be checked against the records; a number that the report computed has the class `computed`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kweek.report import figures
from kweek.report.markup import Child, Markup, join, tag


@dataclass(frozen=True)
class Column:
    """A heading and how its cells stand: numbers to the right, marks without padding."""

    heading: Child
    kind: str = "text"  # "text", "number" or "mark"


def number(
    value: float | None, write: Callable[[float], str] = figures.value, *, computed: bool = False
) -> Markup:
    """A number on the page and, exactly, behind it."""
    if value is None:
        return tag("span", figures.NONE, class_="none", title="not recorded")
    return tag("data", write(value), value=repr(value), class_="computed" if computed else None)


def interval(lo: float | None, hi: float | None, write: Callable[[float], str], unit: str = "") -> Markup:
    """Both ends of an interval."""
    if lo is None or hi is None:
        return number(None)
    between = figures.DASH if write(lo)[:1].isdigit() and write(hi)[:1].isdigit() else " to "
    return tag("span", number(lo, write), between, number(hi, write), unit, class_="span")


def table(
    caption: Child,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Child]],
    *,
    name: str,
    note: Child = None,
) -> Markup:
    """A table in a frame that scrolls sideways on its own where a page is narrow.

    The first cell of a row is its heading; a column without a single recorded number is left out. `name` is
    what a screen reader calls the frame.
    """
    missing = number(None)
    kept = [at for at in range(len(columns)) if not rows or any(row[at] != missing for row in rows)]
    columns, rows = [columns[at] for at in kept], [[row[at] for at in kept] for row in rows]
    head = [tag("th", c.heading, scope="col", class_=c.kind) for c in columns]
    body = []
    for row in rows:
        cells = [tag("th", row[0], scope="row", class_=columns[0].kind)]
        cells += [tag("td", cell, class_=c.kind) for cell, c in zip(row[1:], columns[1:], strict=True)]
        body.append(tag("tr", cells))
    content = tag("table", tag("caption", caption), tag("thead", tag("tr", head)), tag("tbody", body))
    frame = tag("div", content, class_="frame", role="group", aria_label=name, tabindex=0)
    return join(frame, tag("p", note, class_="note") if note is not None else None)


def pairs(entries: Sequence[tuple[Child, Child]]) -> Markup:
    """Names and values where a table would have a single row."""
    return tag(
        "dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in entries], class_="pairs"
    )


def behind(summary: Child, *content: Child) -> Markup:
    """Something for those who want it: closed until opened, printed open."""
    return tag("details", tag("summary", summary), content)
