"""Figures: numbers as people read them, with a unit, sensible digits and a true minus sign."""

from __future__ import annotations

MINUS = "−"
DASH = "–"  # between the ends of an interval
NONE = "—"  # what stands where no number was recorded
THIN = "\u202f"  # a narrow space that does not break, between a number and its unit
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
SMALL = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"))


def _signed(number: float, digits: int, *, plus: bool = False) -> str:
    shown = f"{abs(number):,.{digits}f}"
    zero = not any(c in "123456789" for c in shown)
    if number < 0 and not zero:
        return MINUS + shown
    return f"+{shown}" if plus and not zero else shown


def whole(number: float | None) -> str:
    """A count with its thousands marked: 2,211,840."""
    return NONE if number is None else _signed(number, 0)


def compact(number: float | None) -> str:
    """A count to three digits: 2.21 M, 512, 64 k."""
    return NONE if number is None else _scaled(number, LARGE, "")


def tick(number: float | None) -> str:
    """A number on an axis: as short as it goes."""
    if number is None or (abs(number) < 1000 and number != int(number)):
        return value(number)
    shown, space, unit = compact(number).partition(THIN)
    return (shown.rstrip("0").rstrip(".") if "." in shown else shown) + space + unit


def percent(part: float | None, digits: int = 1) -> str:
    """A share of one as a percentage: 92.0%."""
    return NONE if part is None else f"{_signed(part * 100, digits)}%"


def share(part: float | None) -> str:
    """A share of one in hundredths without the sign, for where the heading or a partner has it: 92.0."""
    return NONE if part is None else _signed(part * 100, 1)


def points(difference: float | None) -> str:
    """A difference of two shares in percentage points, signed: +68.2."""
    return NONE if difference is None else _signed(difference * 100, 1, plus=True)


def bits(value: float | None) -> str:
    """Bits per byte: 1.957."""
    return NONE if value is None else _signed(value, 3)


def change(value: float | None, digits: int = 3) -> str:
    """A signed difference: −0.010."""
    return NONE if value is None else _signed(value, digits, plus=True)


def decimal(value: float | None, digits: int = 2) -> str:
    """A number with a fixed count of decimals."""
    return NONE if value is None else _signed(value, digits)


def power(value: float, digits: int = 1) -> str:
    """A number as a power of ten: 1.3 × 10¹³."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{abs(value):.{digits}e}".split("e")
    raised = f"10{str(int(exponent)).translate(SUPERSCRIPT)}"
    shown = raised if mantissa == "1" else f"{mantissa} × {raised}"
    return MINUS + shown if value < 0 else shown


def flop(value: float | None) -> str:
    """Operations: 1.3 × 10¹³ FLOP."""
    return NONE if value is None else f"{power(value)}{THIN}FLOP"


def seconds(value: float | None) -> str:
    """A duration in the units a person would use: 4.2 s, 6 min 12 s, 1 h 03 min."""
    if value is None:
        return NONE
    if value < 0:
        return MINUS + seconds(-value)
    if value < 0.9995:
        return f"{_digits(value * 1000)}{THIN}ms"
    if value < 59.95:
        return f"{_digits(value)}{THIN}s"
    whole_seconds = round(value)
    if whole_seconds < 3600:
        return f"{whole_seconds // 60}{THIN}min {whole_seconds % 60:02d}{THIN}s"
    minutes = round(value / 60)
    return f"{minutes // 60:,}{THIN}h {minutes % 60:02d}{THIN}min"


def num_bytes(value: float | None) -> str:
    """A size in decimal units: 4.22 MB."""
    return NONE if value is None else _scaled(value, LARGE, "B")


def joules(value: float | None) -> str:
    """An energy: 12.4 kJ."""
    return NONE if value is None else _scaled(value, (*LARGE, *SMALL), "J")


def value(number: float | None) -> str:
    """A number of which nothing is known but its size: 512, 0.0025, 2,211,840, 3.2 × 10⁻⁷."""
    if number is None:
        return NONE
    if number == int(number) and abs(number) < 1e9:
        return whole(number)
    if 1e-4 <= abs(number) < 1e9:
        return MINUS * (number < 0) + f"{abs(number):,.4g}" if abs(number) < 1e4 else _signed(number, 0)
    return power(number, 2)


def probability(number: float | None) -> str:
    """A p-value, never rounded to nothing: 0.031, < 0.001."""
    if number is None:
        return NONE
    return f"<{THIN}0.001" if number < 0.001 else f"{number:.3f}"


def _digits(number: float) -> str:
    """Three significant digits without an exponent."""
    if number == 0:
        return "0"
    exponent = int(
        f"{number:.2e}".split("e")[1]
    )  # of the rounded number: 999.999 has four digits before the point
    return f"{number:,.{max(0, 2 - exponent)}f}"


def _scaled(number: float, units: tuple[tuple[float, str], ...], unit: str) -> str:
    size = abs(number)
    for factor, prefix in units:
        if size >= factor * 0.9995:
            return f"{MINUS * (number < 0)}{_digits(size / factor)}{THIN}{prefix}{unit}"
    smallest, prefix = units[-1]
    if smallest < 1 and size:
        return f"{MINUS * (number < 0)}{_digits(size / smallest)}{THIN}{prefix}{unit}"
    return f"{_signed(number, 0 if number == int(number) else 2)}{THIN + unit if unit else ''}"
