"""Units of measurement and their size in the base unit of their kind."""

from __future__ import annotations

from fractions import Fraction

_TABLE: dict[str, dict[str, str]] = {
    "length": {
        "m": "1", "mm": "1/1000", "cm": "1/100", "km": "1000", "in": "127/5000", "ft": "381/1250", "yd": "1143/1250",
        "mi": "201168/125",
    },
    "mass": {"kg": "1", "g": "1/1000", "mg": "1/1000000", "t": "1000", "lb": "45359237/100000000"},
    "time": {"s": "1", "ms": "1/1000", "min": "60", "h": "3600", "d": "86400"},
    "volume": {"l": "1", "ml": "1/1000", "cl": "1/100", "dl": "1/10"},
    "share": {"%": "1/100"},
    "money in $": {"$": "1", "¢": "1/100"},
    "money in €": {"€": "1"},
    "money in £": {"£": "1"},
    "angle": {"°": "1"},
}  # fmt: skip
_NAMES = {
    "meter": "m", "metre": "m", "millimeter": "mm", "millimetre": "mm", "centimeter": "cm", "centimetre": "cm",
    "kilometer": "km", "kilometre": "km", "inch": "in", "inche": "in", "foot": "ft", "feet": "ft", "yard": "yd",
    "mile": "mi", "kilogram": "kg", "gram": "g", "milligram": "mg", "tonne": "t", "pound": "lb", "lbs": "lb",
    "second": "s", "sec": "s", "millisecond": "ms", "minute": "min", "hour": "h", "hr": "h", "day": "d",
    "liter": "l", "litre": "l", "L": "l", "milliliter": "ml", "millilitre": "ml", "mL": "ml", "percent": "%",
    "\\%": "%", "dollar": "$", "\\$": "$", "USD": "$", "cent": "¢", "euro": "€", "EUR": "€", "GBP": "£",
    "degree": "°", "^\\circ": "°", "^{\\circ}": "°", "\\circ": "°",
}  # fmt: skip
_SIZES = {unit: (kind, Fraction(size)) for kind, units in _TABLE.items() for unit, size in units.items()}


def unit(written: str) -> tuple[str, Fraction] | None:
    """Kind and size of a unit, None for a word that is none. An empty text is a plain number.

    >>> unit("km"), unit("minutes"), unit("apples")
    (('length', Fraction(1000, 1)), ('time', Fraction(60, 1)), None)
    """
    if not written:
        return "", Fraction(1)
    for word in (written, written.removesuffix("s"), written.lower(), written.lower().removesuffix("s")):
        if found := _SIZES.get(_NAMES.get(word, word)):
            return found
    return None
