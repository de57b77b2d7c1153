"""Texts that break programs: very long, deeply nested, of strange characters; and how time grows with their length."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kweek.align.audit.bench import Bench

MAX_GROWTH = 1.7  # exponent of time over length: linear is 1, and caches blur it; squares are 2
_SIZES = (500, 2_000, 8_000, 32_000)  # characters; the last is ten times the longest answers of small models
_NOTICEABLE = 0.02  # seconds for the longest text; below it nobody minds how time grows
_TIMES = 3  # the fastest counts: whatever else a machine does only ever adds

#: Name of a shape, and a text of about so many characters in it.
SHAPES: dict[str, Callable[[int], str]] = {
    "digits": lambda n: "9" * n,
    "letters": lambda n: "a" * n,
    "letters and a mark": lambda n: "a" * n + "!",
    "digits and a mark": lambda n: "9" * n + "!",
    "blanks": lambda n: " " * n,
    "blanks before a word": lambda n: " " * n + "x",
    "lines": lambda n: "\n" * n,
    "points": lambda n: "." * n,
    "brackets": lambda n: "(" * n,
    "lists": lambda n: "[" * n,
    "objects": lambda n: '{"a":' * (n // 5),
    "boxes": lambda n: "\\boxed{" * (n // 7),
    "fractions": lambda n: "\\frac{" * (n // 6),
    "thousands": lambda n: "1" + ",111" * (n // 4),
    "slashes": lambda n: "1/" * (n // 2),
    "minus signs": lambda n: "-" * n,
    "powers": lambda n: "9^" * (n // 2) + "9",
    "claims": lambda n: "answer is " * (n // 10),
    "quotation marks": lambda n: '"' * n,
    "fences": lambda n: "```\n" * (n // 4),
    "tags": lambda n: "<think>" * (n // 7),
    "accents": lambda n: "a" + "\u0301\u0316" * (n // 2),
    "control characters": lambda n: "\x00\x1b\x7f" * (n // 3),
    "surrogates": lambda n: "\ud800" * n,
    "emoji": lambda n: "👩‍👩‍👧" * (n // 5),
    "numbers": lambda n: " ".join(str(number) for number in range(n // 4)),
}


@dataclass(frozen=True)
class Growth:
    """How the time of a judgement grew with a text.

    Attributes:
        exponent: of time over length between the two longest texts; 0 where the longest is judged too fast to tell.
        shape: of the texts for which it is greatest.
        unjudged: shapes on which the judge raised, hung or died, with the length.
    """

    exponent: float
    shape: str
    unjudged: Sequence[str]


def growth(bench: Bench) -> Growth:
    """Judge texts of every shape and growing length."""
    worst, where, unjudged = 0.0, "", []
    for name, make in SHAPES.items():
        found, broken_at = _exponent(bench, make)
        if broken_at is not None:
            unjudged.append(f"{name} of {broken_at:,} characters")
        if found > worst:
            worst, where = found, name
    return Growth(worst, where, unjudged)


def _exponent(bench: Bench, make: Callable[[int], str]) -> tuple[float, int | None]:
    times: list[float] = []
    for size in _SIZES:
        seconds = bench.seconds((0, make(size)), _TIMES)
        if seconds is None:
            return 0.0, size
        times.append(seconds)
    if times[-1] < _NOTICEABLE:
        return 0.0, None
    last, before = _SIZES[-1], _SIZES[-2]
    again = bench.seconds((0, make(last)), _TIMES) or times[-1]
    exponent = math.log(min(times[-1], again) / max(times[-2], 1e-6)) / math.log(last / before)
    return exponent, None
