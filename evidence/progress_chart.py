"""A picture of progress: curves with bands over a linear axis, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 24, 52
#: Colours that can be told apart by everyone (Okabe and Ito 2008), with a dash each.
_LOOKS = (("#0072b2", ""), ("#d55e00", "6 3"), ("#009e73", "2 3"), ("#cc79a7", "8 3 2 3"), ("#777777", "1 4"))


@dataclass(frozen=True)
class Curve:
    """A method's points: (x, lowest, middle, highest) over seeds."""

    name: str
    points: Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True)
class Level:
    """A horizontal line with a name, for what does not move along the axis."""

    name: str
    value: float


def draw(curves: Sequence[Curve], levels: Sequence[Level], *, x: str, y: str, scale: float) -> str:
    """An SVG of shares between 0 and 1.

    Args:
        x, y: what the axes are.
        scale: what the values on the x axis are divided by before they are written.
    """
    last = max(point[0] for curve in curves for point in curve.points)

    def at_x(value: float) -> float:
        return _LEFT + value / last * (WIDTH - _LEFT - _RIGHT)

    def at_y(value: float) -> float:
        return HEIGHT - _BOTTOM - value * (HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(y)} over {escape(x)}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for tenth in range(0, 11, 2):
        level = at_y(tenth / 10)
        parts += [
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{level:.1f}" y2="{level:.1f}" stroke="#dddddd"/>',
            f'<text x="{_LEFT - 8}" y="{level + 4:.1f}" text-anchor="end">{tenth * 10}%</text>',
        ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        place = at_x(last * share)
        parts.append(
            f'<text x="{place:.1f}" y="{HEIGHT - _BOTTOM + 20}" text-anchor="middle">{last * share / scale:.3g}</text>'
        )
    parts += [
        f'<text x="{(WIDTH + _LEFT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x)}</text>',
        f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 16 {HEIGHT / 2})">'
        f"{escape(y)}</text>",
    ]
    for level in levels:
        height = at_y(level.value)
        parts += [
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}" stroke="#444444" '
            'stroke-dasharray="3 3"/>',
            f'<text x="{WIDTH - _RIGHT}" y="{height - 5:.1f}" text-anchor="end">{escape(level.name)}</text>',
        ]
    for number, curve in enumerate(curves):
        colour, dash = _LOOKS[number % len(_LOOKS)]
        upper = [f"{at_x(px):.1f},{at_y(high):.1f}" for px, _, _, high in curve.points]
        lower = [f"{at_x(px):.1f},{at_y(low):.1f}" for px, low, _, _ in reversed(curve.points)]
        middle = " ".join(f"{at_x(px):.1f},{at_y(mid):.1f}" for px, _, mid, _ in curve.points)
        row = HEIGHT - _BOTTOM - 14 - 18 * (len(curves) - 1 - number)
        key = WIDTH - _RIGHT - 170
        parts += [
            f'<polygon points="{" ".join(upper + lower)}" fill="{colour}" fill-opacity="0.12"/>',
            f'<polyline points="{middle}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>',
            f'<line x1="{key}" x2="{key + 26}" y1="{row - 4}" y2="{row - 4}" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dash}"/>',
            f'<text x="{key + 34}" y="{row}">{escape(curve.name)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
