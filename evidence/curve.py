"""The picture of what fewer bytes cost: bits per byte lost over the size of the file, both by factors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 20, 24, 52
#: Colours that can be told apart by everyone (Okabe and Ito 2008), with a dash each.
_LOOKS = (("#777777", "5 4"), ("#0072b2", ""), ("#d55e00", "1 4"), ("#009e73", "8 3"))
_LEAST = 1e-5  # bits per byte: below it differences are noise


@dataclass(frozen=True)
class Series:
    """A method's points: (bytes, bits per byte lost)."""

    name: str
    points: Sequence[tuple[float, float]]


def draw(series: Sequence[Series]) -> str:
    """An SVG with both axes logarithmic; losses below 0.00001 are drawn there."""
    sizes = [size for one in series for size, _ in one.points]
    losses = [max(loss, _LEAST) for one in series for _, loss in one.points]
    x_of = _scale(min(sizes) / 1.08, max(sizes) * 1.08, _LEFT, WIDTH - _RIGHT)
    y_of = _scale(min(losses) / 1.6, max(losses) * 1.6, HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12" role="img" aria-label="Bits per byte lost over size of the weights">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for value in _ticks(min(losses), max(losses)):
        y = y_of(value)
        parts += [
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>',
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>',
        ]
    for size in sorted({size for size, _ in series[0].points}):
        x = x_of(size)
        parts += [
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT - _BOTTOM}" y2="{HEIGHT - _BOTTOM + 5}" stroke="#444444"/>',
            f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 20}" text-anchor="middle">{size / 1e6:.2f}</text>',
        ]
    parts += [
        f'<text x="{(WIDTH + _LEFT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">weights, MB</text>',
        f'<text x="18" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 18 {HEIGHT / 2})">'
        "bits per byte lost</text>",
    ]
    for number, one in enumerate(series):
        parts += _line(one, number, x_of, y_of)
    return "\n".join([*parts, "</svg>", ""])


def _line(one: Series, number: int, x_of: _Map, y_of: _Map) -> list[str]:
    colour, dash = _LOOKS[number % len(_LOOKS)]
    points = [(x_of(size), y_of(max(loss, _LEAST))) for size, loss in sorted(one.points)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points]
    y = _TOP + 16 + 18 * number
    key = WIDTH - _RIGHT - 150
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>',
        *marks,
        f'<line x1="{key}" x2="{key + 26}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="2" '
        f'stroke-dasharray="{dash}"/>',
        f'<text x="{key + 34}" y="{y}">{escape(one.name)}</text>',
    ]


class _Map:
    """A logarithmic axis."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._factor = math.log(low), (end - start) / (math.log(high) - math.log(low))
        self._start = start

    def __call__(self, value: float) -> float:
        return self._start + (math.log(value) - self._low) * self._factor


_scale = _Map


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten, and their double and fivefold, between two values."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    values = [step * 10.0**power for power in range(first, last + 1) for step in (1, 2, 5)]
    return [value for value in values if low / 1.6 <= value <= high * 1.6]
