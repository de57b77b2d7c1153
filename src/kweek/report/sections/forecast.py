"""Forecast beside outcome: the small runs, the law through them, the interval, and what came."""

from __future__ import annotations

from dataclasses import dataclass

from kweek.report import figures
from kweek.report.charts import Plot, both, figure, legend
from kweek.report.glossary import term
from kweek.report.history import Fields, History, Record
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.scales import Axis, extent
from kweek.report.section import Missing, Section
from kweek.report.sections.verdict import forecast_of, outcome_of
from kweek.report.tables import Column, behind, interval, number, pairs, table

TITLE = "Forecast beside outcome"
STEPS = 60  # points of the drawn law; more cannot be told from a curve
RUNS, FORECAST, OUTCOME = 0, 1, 2  # series


@dataclass(frozen=True)
class Law:
    """bits per byte = floor + scale (FLOP / unit)^-exponent."""

    floor: float
    scale: float
    exponent: float
    unit: float

    def __call__(self, flop: float) -> float | None:
        try:
            return self.floor + self.scale * float((flop / self.unit) ** -self.exponent)
        except (OverflowError, ZeroDivisionError):
            return None


def section(history: History) -> Section | Missing:
    """The chart, the forecast in figures, the law and every small run."""
    runs = [r for r in history.of("run") if _place(r) is not None]
    said, outcome = forecast_of(history), outcome_of(history)
    if not runs and said.number("mid") is None:
        return Missing(TITLE, "small runs and a forecast (records “run” and “forecast”)")
    lede = join(
        "Small models were trained first and a ",
        term("scaling_law", "scaling law"),
        " fitted through them. The ",
        term("forecast", "forecast"),
        " was frozen before the large model took its first step.",
    )
    law = _law(history)
    chart = figure(
        both(lambda suffix, width: _chart(f"forecast-{suffix}", width, runs, law, history)),
        join(
            "Each mark is one whole training run. Lower is better; the curve flattens towards the ",
            term("bits_per_byte", "bits per byte"),
            " that no amount of training would beat with this recipe.",
        ),
        _legend(said, outcome, law),
    )
    body = [chart if _target(history) is not None or runs else None, _figures(history, law), _runs(runs)]
    return Section("forecast", TITLE, lede, body)


def _place(record: Fields) -> tuple[float, float] | None:
    flop, value = record.number("flop"), record.number("bits_per_byte")
    return (flop, value) if flop is not None and flop > 0 and value is not None else None


def _law(history: History) -> Law | None:
    record = history.last("law")
    if record is None:
        return None
    floor, scale, exponent = (record.number(key) for key in ("floor", "scale", "exponent"))
    if floor is None or scale is None or exponent is None:
        return None
    unit = record.number("x_unit")
    return Law(floor, scale, exponent, unit if unit is not None and unit > 0 else 1.0)


def _target(history: History) -> float | None:
    record = history.last("forecast")
    flop = record.number("target_flop") if record is not None else None
    return flop if flop is not None and flop > 0 else None


def _chart(key: str, width: int, runs: list[Record], law: Law | None, history: History) -> Markup:
    points = [place for run in runs if (place := _place(run)) is not None]
    said, outcome, target = forecast_of(history), outcome_of(history), _target(history)
    lo, mid, hi = (said.number(name) for name in ("lo", "mid", "hi"))
    flops = [flop for flop, _ in points] + [target] * (target is not None)
    ends = [end for end in (lo, mid, hi, outcome) if end is not None] if target is not None else []
    low, high = extent([value for _, value in points] + ends, pad=0.1)
    first, last = extent([flop for flop in flops if flop is not None], pad=0.08, log=True)
    if target is not None and target > first:  # room for words to the right of the last mark
        last = max(last, target * (target / first) ** (0.2 if width > 500 else 0.55))
    plot = Plot(
        key,
        "Bits per byte against training FLOP",
        _summary(points, said, outcome),
        Axis("FLOP of one training run (log scale)", first, last, lambda v: figures.power(v, 0), log=True),
        Axis("bits per byte", low, high, lambda v: f"{v:.2f}"),
        width=width,
        height=380 if width > 500 else 300,
    )
    if law is not None and flops:
        ratio = (target or last) / first
        curve = [(flop, law(flop)) for flop in (first * ratio ** (step / STEPS) for step in range(STEPS + 1))]
        plot.line([(x, y) for x, y in curve if y is not None and low <= y <= high], RUNS, style="dashed")
    for run in runs:
        place = _place(run)
        if place is not None:
            plot.dot(place, RUNS, f"{figures.flop(place[0])}: {figures.bits(place[1])} bits per byte")
    if target is not None:
        if lo is not None and hi is not None:
            plot.whisker(target, lo, hi, FORECAST, cap=7)
        if mid is not None:
            plot.dot((target, mid), FORECAST, f"forecast: {figures.bits(mid)}")
            plot.note(target, mid, f"forecast {figures.bits(mid)}", FORECAST, dx=24, dy=-5)
        if outcome is not None:
            plot.dot((target, outcome), OUTCOME, f"outcome: {figures.bits(outcome)}", radius=5, nudge=12)
            plot.note(target, mid or outcome, f"outcome {figures.bits(outcome)}", OUTCOME, dx=24, dy=12)
    return plot.svg()


def _summary(points: list[tuple[float, float]], said: Fields, outcome: float | None) -> str:
    words = f"{len(points)} small runs"
    if points:
        values = [value for _, value in points]
        words += f" between {figures.bits(max(values))} and {figures.bits(min(values))} bits per byte"
    if said.number("mid") is not None:
        words += f"; forecast {figures.bits(said.number('mid'))}"
    return words + (f"; outcome {figures.bits(outcome)}." if outcome is not None else ".")


def _figures(history: History, law: Law | None) -> Markup:
    said, outcome = forecast_of(history), outcome_of(history)
    record = history.last("forecast") or Fields({})
    lo, mid, hi = (said.number(key) for key in ("lo", "mid", "hi"))
    entries: list[tuple[Child, Child]] = [(term("forecast"), number(mid, figures.bits))]
    entries.append(("Its interval", interval(lo, hi, figures.bits)))
    if outcome is not None:
        entries.append(("Outcome", number(outcome, figures.bits)))
        if lo is not None and hi is not None:
            entries.append(("Inside?", "yes" if lo <= outcome <= hi else "no"))
    if (half := record.number("half_width")) is not None:
        entries.append(("Half-width of the interval", (number(half, figures.percent), " of the value")))
    if (coverage := record.number("coverage")) is not None:
        entries.append(("Backtest inside the interval", number(coverage, lambda v: figures.percent(v, 0))))
    if law is not None:
        shown = (
            number(law.floor, figures.bits), " + ", number(law.scale, lambda v: figures.value(v)), " × ",
            "(FLOP" if law.unit != 1 else "FLOP",
            (" / ", number(law.unit, figures.power), ")") if law.unit != 1 else None,
            tag("sup", figures.MINUS, number(law.exponent, lambda v: f"{v:.3f}")),
        )  # fmt: skip
        entries.append((term("scaling_law"), tag("span", shown, class_="formula")))
    return pairs(entries)


def _runs(runs: list[Record]) -> Child:
    if not runs:
        return None
    columns = [
        Column(term("flop"), "number"),
        Column(term("parameters"), "number"),
        Column(term("token", "Tokens"), "number"),
        Column("Tokens per update", "number"),
        Column(term("learning_rate"), "number"),
        Column(term("bits_per_byte"), "number"),
        Column("Time", "number"),
    ]
    keys = (
        ("num_parameters", figures.whole),
        ("tokens", figures.whole),
        ("batch_tokens", figures.whole),
        ("learning_rate", figures.value),
        ("bits_per_byte", figures.bits),
        ("seconds", figures.seconds),
    )
    rows = [
        [number(run.number("flop"), figures.power), *(number(run.number(key), write) for key, write in keys)]
        for run in sorted(runs, key=lambda run: run.number("flop") or 0.0)
    ]
    return behind("All small runs", table("The small runs, cheapest first", columns, rows, name="Small runs"))


def _legend(said: Fields, outcome: float | None, law: Law | None) -> Markup:
    entries = [(RUNS, "dot", "small runs")]
    if law is not None:
        entries.append((RUNS, "dashed", "law fitted through them"))
    if said.number("mid") is not None:
        entries.append((FORECAST, "dot", "forecast with its interval"))
    if outcome is not None:
        entries.append((OUTCOME, "dot", "outcome"))
    return legend(entries)
