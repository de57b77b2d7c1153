"""Numbers: whole ones, decimals, fractions, with thousands separators and units, equal exactly or within a tolerance.

All arithmetic is on fractions, so 0.1 + 0.2 is 0.3 and no rounding is hidden.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from kweek.align.verifiers.reading import Reading, bare, final_answer
from kweek.align.verifiers.units import unit
from kweek.align.verifiers.verdict import UNREADABLE, WRONG, failed, judged
from kweek.errors import ConfigError
from kweek.protocols import Score

MAX_CHARS = 80  # of a number with its unit; every longer one is a guess at something else
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?:[\u2009\u202f\u00a0][0-9]{3})+|[0-9]+)"
_NUMBER = rf"(?:{_DIGITS}(?:\.[0-9]+)?|\.[0-9]+)"
_POWER = (
    r"(?:[eE](?P<exponent>[+-]?[0-9]{1,3})|\s?(?:×|\*|\\times|\\cdot)\s?10\^\{?(?P<power>-?[0-9]{1,3})\}?)"
)
_LATEX = r"\\[dt]?frac\{(?P<over>[0-9]{1,18})\}\{(?P<under>[0-9]{1,18})\}"
_QUANTITY = re.compile(
    rf"(?P<sign>[-+−]?)\s?(?P<money>[$€£]|\\\$|)\s?"
    rf"(?:(?P<whole>[0-9]{{1,18}})?\s?{_LATEX}"
    rf"|(?P<mixed>[0-9]{{1,18}})\s(?P<top>[0-9]{{1,18}})/(?P<bottom>[0-9]{{1,18}})"
    rf"|(?P<upper>{_NUMBER})\s?/\s?(?P<lower>{_NUMBER})"
    rf"|(?P<plain>{_NUMBER}){_POWER}?)"
    r"\s?(?P<unit>[^\W\d_]{1,20}|%|\\%|°|¢|€|£|\^\\circ|\^\{\\circ\}|\\text\{\s?(?P<text>[^\W\d_]{1,20})\}|)"
)
_STANDING = re.compile(rf"(?<![\w.])[-+−]?[$€£]?{_NUMBER}(?:/[0-9]{{1,18}})?(?:[eE][+-]?[0-9]{{1,3}})?%?")


@dataclass(frozen=True)
class Quantity:
    """A number as written, and its unit; empty where there is none."""

    value: Fraction
    unit: str


@dataclass(frozen=True)
class Number:
    """1 when the answer is the gold number.

    Attributes:
        reading: where the answer stands. "whole" by default: the strictest earns nothing by talking.
        absolute: difference that is forgiven; 0 by default, because most numbers asked for are exact.
        relative: the same as a share of the gold number.
        unit_required: refuse an answer without the gold's unit; by default a bare number is taken to be in it. A
            unit that is given must be the gold's or convert to it.
    """

    reading: Reading = "whole"
    absolute: float = 0.0
    relative: float = 0.0
    unit_required: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.absolute < math.inf and 0 <= self.relative < 1):
            raise ConfigError(
                f"the tolerances {self.absolute} and {self.relative} cannot be meant",
                fix="give absolute >= 0 and 0 <= relative < 1",
            )

    def __call__(self, answer: str, gold: str) -> Score:
        wanted = quantity(gold)
        if wanted is None or (scale := unit(wanted.unit)) is None:
            return failed(f"the gold answer {gold[:40]!r} is no number with a unit that is known")
        said = self._read(answer)
        if said is None or (given := unit(said.unit)) is None:
            return UNREADABLE
        if not said.unit:
            if wanted.unit and self.unit_required:
                return WRONG
            given = scale
        if not {given[0], scale[0]} <= {"", "share"} and given[0] != scale[0]:
            return WRONG
        value, target = said.value * given[1], wanted.value * scale[1]
        allowed = max(Fraction(self.absolute) * scale[1], Fraction(self.relative) * abs(target))
        return judged(abs(value - target) <= allowed)

    def _read(self, answer: str) -> Quantity | None:
        found = final_answer(answer, self.reading)
        if found is None:
            return None
        return last_number(found) if self.reading == "last" else quantity(found)


def quantity(text: str) -> Quantity | None:
    """The number, with its unit, that a whole text is; None when it is anything else.

    >>> quantity("1,234.5 km"), quantity("-3/4"), quantity("12 or 13")
    (Quantity(value=Fraction(2469, 2), unit='km'), Quantity(value=Fraction(-3, 4), unit=''), None)
    """
    text = bare(text[: MAX_CHARS + 1])
    match = _QUANTITY.fullmatch(text) if len(text) <= MAX_CHARS else None
    if match is None:
        return None
    part = match.groupdict()
    try:
        if part["over"]:
            value = Fraction(int(part["whole"] or 0)) + Fraction(int(part["over"]), int(part["under"]))
        elif part["mixed"]:
            value = int(part["mixed"]) + Fraction(int(part["top"]), int(part["bottom"]))
        elif part["upper"]:
            value = _decimal(part["upper"]) / _decimal(part["lower"])
        else:
            value = _decimal(part["plain"]) * Fraction(10) ** int(part["exponent"] or part["power"] or 0)
    except ZeroDivisionError:
        return None
    written = part["text"] or part["unit"]
    if part["money"] and written:
        return None
    negative = part["sign"] in ("-", "−")
    return Quantity(-value if negative else value, written or part["money"])


def last_number(text: str) -> Quantity | None:
    """The last number that stands by itself in a text, without regard to what stands around it."""
    found = None
    for match in _STANDING.finditer(text):
        found = match
    return None if found is None else quantity(found[0])


def _decimal(written: str) -> Fraction:
    return Fraction(re.sub("[,\u2009\u202f\u00a0]", "", written))
