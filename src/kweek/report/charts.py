"""Charts: small, quiet, inline SVG; the only place that draws.

Colours come from classes (`s0` to `s7`), so one drawing serves both themes; every series also has a marker
and a dash of its own, so nothing depends on telling colours apart. A chart is one image to a screen reader,
with a title and a description; the numbers stand in a table beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kweek.report.markup import Child, Markup, join, plain, tag
from kweek.report.scales import Axis

WIDE, NARROW = 820, 348  # pixels of a full-width chart beside the headings and on a phone
PANEL = 268  # pixels of one of several small multiples
CHAR = 6.3  # mean width in pixels of a character of the 12 px chart type
Point = tuple[float, float]


def series_class(index: int) -> str:
    """The class that gives the colour of a series; after eight they begin anew, paler."""
    return f"s{index % 8} again" if index >= 8 else f"s{index}"


def marker(index: int, x: float, y: float, radius: float = 4.0) -> Markup:
    """The mark of a series: circle, square, triangle, diamond in turn."""
    shape, r = index % 4, radius
    if shape == 0:
        return tag("circle", cx=x, cy=y, r=r, class_="dot")
    if shape == 1:
        return tag("rect", x=x - r * 0.9, y=y - r * 0.9, width=r * 1.8, height=r * 1.8, class_="dot")
    if shape == 2:
        corners: list[Point] = [(x, y - r * 1.2), (x + r * 1.1, y + r * 0.8), (x - r * 1.1, y + r * 0.8)]
    else:
        corners = [(x, y - r * 1.25), (x + r * 1.25, y), (x, y + r * 1.25), (x - r * 1.25, y)]
    return tag("polygon", points=" ".join(f"{plain(a)},{plain(b)}" for a, b in corners), class_="dot")


def path_of(points: Sequence[Point]) -> str:
    """SVG path data through points."""
    return "M" + "L".join(f"{plain(x)} {plain(y)}" for x, y in points)


@dataclass
class Plot:
    """A chart with two axes that marks are added to.

    Args:
        key: unique on the page; ids of title and description are made of it.
        title: what the chart shows, for a screen reader and as a tooltip.
        description: what a reader would take from it, one sentence.
    """

    key: str
    title: str
    description: str
    x: Axis
    y: Axis
    width: int = WIDE
    height: int = 300
    marks: list[Markup] = field(default_factory=list)
    head: int = 22  # pixels above the frame, where the name of the y axis stands
    right: int = 14

    def __post_init__(self) -> None:
        self.y_ticks = list(self.y.ticks) or self.y.scale(0, 1).ticks(4 if self.height < 260 else 5)
        self.x_ticks = list(self.x.ticks) or self.x.scale(0, 1).ticks(max(4, self.width // 110))
        widest = max((len(self.y.write(tick)) for tick in self.y_ticks), default=1)
        self.left = 10 + widest * CHAR
        self.bottom = self.height - 42
        self.to_x = self.x.scale(self.left, self.width - self.right)
        self.to_y = self.y.scale(self.bottom, self.head)

    def line(self, points: Sequence[Point], series: int, *, style: str = "line") -> None:
        """A line through points in data units; `style` is a class (`line`, `dashed`, `faint`)."""
        if len(points) > 1:
            path = path_of([(self.to_x(x), self.to_y(y)) for x, y in points])
            self.marks.append(tag("path", d=path, class_=[style, series_class(series)]))

    def band(self, low: Sequence[Point], high: Sequence[Point], series: int) -> None:
        """What lies between two lines, paler."""
        if len(low) > 1 and len(low) == len(high):
            edge = [(self.to_x(x), self.to_y(y)) for x, y in [*low, *reversed(high)]]
            self.marks.append(tag("path", d=f"{path_of(edge)}Z", class_=["band", series_class(series)]))

    def column(self, stretch: tuple[float, float], height: float, series: int, tooltip: str) -> None:
        """An upright bar from zero to a height over a stretch of the x axis."""
        left, right, top = self.to_x(stretch[0]), self.to_x(stretch[1]), self.to_y(height)
        bottom = self.to_y(0.0)
        box = tag("rect", x=left, y=top, width=max(right - left, 0.5), height=bottom - top, class_="box")
        self.marks.append(tag("g", tag("title", tooltip), box, class_=series_class(series)))

    def dot(
        self, point: Point, series: int, tooltip: str, *, radius: float = 4.0, nudge: float = 0.0
    ) -> None:
        """A mark with a tooltip, moved sideways by `nudge` pixels where series would hide one another."""
        x, y = self.to_x(point[0]) + nudge, self.to_y(point[1])
        mark = marker(series, x, y, radius)
        self.marks.append(tag("g", tag("title", tooltip), mark, class_=series_class(series)))

    def whisker(
        self, x: float, lo: float, hi: float, series: int, *, nudge: float = 0.0, cap: float = 4.0
    ) -> None:
        """An upright interval with caps."""
        at, top, low = self.to_x(x) + nudge, self.to_y(hi), self.to_y(lo)
        strokes = [path_of([(at, top), (at, low)])]
        strokes += [path_of([(at - cap, end), (at + cap, end)]) for end in (top, low)]
        self.marks.append(tag("path", d="".join(strokes), class_=["whisker", series_class(series)]))

    def note(self, x: float, y: float, words: str, series: int, *, dx: float = 0, dy: float = 0) -> None:
        """Words to the right of a mark, in its colour."""
        at = {"x": self.to_x(x) + dx, "y": self.to_y(y) + dy}
        self.marks.append(tag("text", words, class_=["said", series_class(series)], **at))

    def svg(self) -> Markup:
        """The finished chart."""
        grid, labels = [], []
        for tick in self.y_ticks:
            at, zero = self.to_y(tick), tick == 0 and self.y.lo < 0
            ends = [(self.left, at), (self.width - self.right, at)]
            grid.append(tag("path", d=path_of(ends), class_="zero" if zero else "grid"))
            label = self.y.write(tick)
            labels.append(tag("text", label, x=self.left - 6, y=at + 4, text_anchor="end", class_="tick"))
        for tick, text in self._spaced():
            at = self.to_x(tick)
            grid.append(tag("path", d=path_of([(at, self.bottom), (at, self.bottom + 4)]), class_="axis"))
            place = "end" if at + len(text) * CHAR / 2 > self.width else "middle"
            x = self.width if place == "end" else at
            labels.append(tag("text", text, x=x, y=self.bottom + 18, text_anchor=place, class_="tick"))
        base = path_of([(self.left, self.bottom), (self.width - self.right, self.bottom)])
        names = [
            tag("text", self.y.label, x=0, y=11, class_="name"),
            tag(
                "text",
                self.x.label,
                x=self.width - self.right,
                y=self.height - 5,
                text_anchor="end",
                class_="name",
            ),
        ]
        body = [
            tag("g", grid),
            tag("path", d=base, class_="axis"),
            tag("g", self.marks),
            tag("g", labels, names),
        ]
        return image(self.key, self.title, self.description, self.width, self.height, body)

    def _spaced(self) -> list[tuple[float, str]]:
        """Ticks of the x axis whose labels do not run into one another."""
        kept: list[tuple[float, str]] = []
        edge = -1e9
        for tick in self.x_ticks:
            text = self.x.write(tick)
            half = len(text) * CHAR / 2 + 4
            if self.to_x(tick) - half >= edge:
                kept.append((tick, text))
                edge = self.to_x(tick) + half
        return kept


def image(key: str, title: str, description: str, width: int, height: float, body: Child) -> Markup:
    """An SVG that a screen reader announces by title and description."""
    names = [f"{key}-title", f"{key}-text"]
    return tag(
        "svg",
        tag("title", title, id=names[0]),
        tag("desc", description, id=names[1]),
        body,
        viewBox=f"0 0 {width} {plain(height)}",
        role="img",
        aria_labelledby=names,
        class_="chart",
    )


def both(draw: Callable[[str, int], Markup]) -> Markup:
    """A chart drawn twice, for a wide page and for a phone; the style sheet shows one.

    `draw(suffix, width)` must use the suffix in its key.
    """
    return join(
        tag("div", draw("wide", WIDE), class_="wide"),
        tag("div", draw("narrow", NARROW), class_="narrow"),
    )


def panels(charts: Sequence[tuple[Child, Markup]], *, level: int = 3, four: bool = True) -> Markup:
    """Small multiples: charts of one make side by side, each under its heading of a level.

    Args:
        four: whether four of them stand in one row, drawn as `panel_width` says.
    """
    cells = [tag("div", tag(f"h{level}", heading), chart, class_="panel") for heading, chart in charts]
    return tag("div", cells, class_=["panels", "four"] if four and len(charts) == 4 else "panels")


def panel_width(count: int) -> int:
    """Pixels of each of `count` small multiples: four stand in one row, else three."""
    return 204 if count == 4 else PANEL


def legend(entries: Sequence[tuple[int, str, str]]) -> Markup:
    """What the series are: (series, style, words), style `dot`, `line`, `dashed` or `box`."""
    items = []
    for series, style, words in entries:
        if style == "dot":
            sample: list[Markup] = [marker(series, 11, 7)]
        elif style == "box":
            sample = [tag("rect", x=3, y=2, width=16, height=10, rx=1, class_=style)]
        else:
            sample = [tag("path", d="M1 7L21 7", class_=style)]
        swatch = tag(
            "svg", sample, viewBox="0 0 22 14", class_=["swatch", series_class(series)], aria_hidden="true"
        )
        items.append(tag("li", swatch, words))
    return tag("ul", items, class_="legend")


def figure(chart: Child, caption: Child, keys: Child = None) -> Markup:
    """A chart under its legend and above a sentence that says how to read it."""
    return tag("figure", keys, chart, tag("figcaption", caption) if caption is not None else None)


def thinned(points: Sequence[Point], most: int = 240) -> list[Point]:
    """At most `most` points of a long curve, each the mean of its neighbours, the last kept as it is."""
    if len(points) <= most:
        return list(points)
    size = -(-len(points) // most)
    kept = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        kept.append((part[len(part) // 2][0], sum(y for _, y in part) / len(part)))
    return [*kept, points[-1]]
