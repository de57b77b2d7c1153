"""Whole numbers between two bounds as patterns over their decimal digits."""

from __future__ import annotations

from kweek.engine.constraints.pattern import (
    Characters,
    Either,
    Literal,
    Pattern,
    Repeat,
    chain,
    optional,
    text,
)

DIGIT = Characters(((48, 57),))
_NONZERO = Characters(((49, 57),))
_DIGITS = Repeat(DIGIT, 0, None)
_NATURAL = Either((text("0"), chain(_NONZERO, _DIGITS)))

#: JSON's integer and number (RFC 8259, section 6).
INTEGER = chain(optional(text("-")), _NATURAL)
NUMBER = chain(
    INTEGER,
    optional(chain(text("."), Repeat(DIGIT, 1, None))),
    optional(
        chain(
            Characters(((69, 69), (101, 101))),
            optional(Characters(((43, 43), (45, 45)))),
            Repeat(DIGIT, 1, None),
        )
    ),
)


def between(low: int | None, high: int | None) -> Pattern:
    """Whole numbers from `low` to `high`, both included, without leading zeros; None is no bound."""
    if low is None and high is None:
        return INTEGER
    options: list[Pattern] = []
    if low is None or low < 0:
        # The negative ones are a minus and the numbers from -high to -low, mirrored.
        nearest = 1 if high is None or high >= 0 else -high
        farthest = None if low is None else -low
        if farthest is None or farthest >= nearest:
            options.append(chain(text("-"), _natural_between(nearest, farthest)))
    if high is None or high >= 0:
        lowest = 0 if low is None else max(low, 0)
        if high is None or high >= lowest:
            options.append(_natural_between(lowest, high))
    return Either(tuple(options))


def _natural_between(low: int, high: int | None) -> Pattern:
    """Numbers of one length after another: of as many digits as `low`, then more."""
    options: list[Pattern] = []
    first, last = str(low), None if high is None else str(high)
    length = len(first)
    while last is None or length < len(last):
        options.append(_same_length(first, "9" * length))
        length += 1
        first = "1" + "0" * (length - 1)
        if last is None:
            options.append(chain(_NONZERO, Repeat(DIGIT, length - 1, None)))
            return Either(tuple(options))
    options.append(_same_length(first, last))
    return Either(tuple(options))


def _same_length(low: str, high: str) -> Pattern:
    """Digits between two texts of equal length."""
    if not low:
        return Literal(b"")
    if set(low) == {"0"} and set(high) == {"9"}:
        return Repeat(DIGIT, len(low), len(low))
    if low[0] == high[0]:
        return chain(text(low[0]), _same_length(low[1:], high[1:]))
    rest = len(low) - 1
    options: list[Pattern] = [chain(text(low[0]), _same_length(low[1:], "9" * rest))]
    if int(high[0]) - int(low[0]) > 1:
        middle = Characters(((ord(low[0]) + 1, ord(high[0]) - 1),))
        options.append(chain(middle, Repeat(DIGIT, rest, rest)))
    options.append(chain(text(high[0]), _same_length("0" * rest, high[1:])))
    return Either(tuple(options))
