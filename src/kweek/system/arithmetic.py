"""Arithmetic on written expressions: numbers, + - * / and brackets, computed exactly and printed as people write.

No name and no function is known, and the length is bounded, so an expression can neither call nor hang anything.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_LENGTH = 120  # characters; longer than any step of a worked solution
MAX_DIGITS = 15  # of a number that is read, and before the point of a result
NUM_DECIMALS = 6  # of a result that is no whole number
_TOKEN = re.compile(r"\s*(?:(\d[\d,]*\.?\d*|\.\d+)(%?)|([-+*/()]))")


class Unreadable(Exception):
    """The text is no expression, or has no value."""


def evaluate(expression: str) -> Fraction:
    """The exact value.

    >>> evaluate("2*(3+0.5)"), evaluate("20%*50")
    (Fraction(7, 1), Fraction(10, 1))

    Raises:
        Unreadable: anything but numbers (1,000 and 20% too), + - * / and brackets; a division by zero; too long.
    """
    if len(expression) > MAX_LENGTH:
        raise Unreadable
    reader = _Reader(_tokens(expression))
    value = reader.total()
    if reader.rest:
        raise Unreadable
    return value


def written(value: Fraction) -> str:
    """A value as decimal text, rounded to six decimals, without zeros at the end.

    >>> written(Fraction(7, 2)), written(Fraction(1, 3)), written(Fraction(12))
    ('3.5', '0.333333', '12')

    Raises:
        Unreadable: more than 15 digits before the point.
    """
    if abs(value) >= 10**MAX_DIGITS:
        raise Unreadable
    scaled = round(value * 10**NUM_DECIMALS)
    sign, (whole, part) = "-" if scaled < 0 else "", divmod(abs(scaled), 10**NUM_DECIMALS)
    decimals = f"{part:0{NUM_DECIMALS}d}".rstrip("0")
    return f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}"


def _tokens(expression: str) -> list[str | Fraction]:
    tokens: list[str | Fraction] = []
    at = 0
    text = expression.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise Unreadable
        number, percent, sign = match.groups()
        if number:
            digits = number.replace(",", "")
            if len(digits) > MAX_DIGITS:
                raise Unreadable
            tokens.append(Fraction(digits.rstrip(".")) / (100 if percent else 1))
        else:
            tokens.append(sign)
        at = match.end()
    return tokens


class _Reader:
    """Recursive descent: total := product ((+|-) product)*, product := factor ((*|/) factor)*."""

    def __init__(self, tokens: list[str | Fraction]) -> None:
        self.rest = tokens[::-1]

    def _take(self, signs: str) -> str | None:
        if self.rest and isinstance(self.rest[-1], str) and self.rest[-1] in signs:
            return str(self.rest.pop())
        return None

    def total(self) -> Fraction:
        value = self._product()
        while sign := self._take("+-"):
            other = self._product()
            value = value + other if sign == "+" else value - other
        return value

    def _product(self) -> Fraction:
        value = self._factor()
        while sign := self._take("*/"):
            other = self._factor()
            if sign == "/" and other == 0:
                raise Unreadable
            value = value * other if sign == "*" else value / other
        return value

    def _factor(self) -> Fraction:
        negative = False
        while sign := self._take("+-"):
            negative ^= sign == "-"
        if self._take("("):
            value = self.total()
            if not self._take(")"):
                raise Unreadable
        elif self.rest and isinstance(self.rest[-1], Fraction):
            value = self.rest.pop()  # type: ignore[assignment]
        else:
            raise Unreadable
        return -value if negative else value
