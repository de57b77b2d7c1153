"""The specialist: what it can do, what it lost elsewhere, and what an answer costs, beside other models."""

from __future__ import annotations

from collections.abc import Callable

from kweek.report import figures
from kweek.report.glossary import term
from kweek.report.history import History, Record
from kweek.report.markup import Child, join
from kweek.report.section import Missing, Section
from kweek.report.tables import Column, interval, number, table

TITLE = "The specialist"


def section(history: History) -> Section | Missing | None:
    """Two tables with a row per model: quality, and cost."""
    records = history.of("appraised")
    if not records and all(stage.kind != "appraise" for stage in history.stages):
        return None
    if not records:
        return Missing(TITLE, "a specialist's examination (records “appraised”)")
    lede = join(
        "Right answers in its domain and to general questions, ",
        term("bits_per_byte"),
        " of documents that have nothing to do with it, and what one answer costs. A model behind an endpoint shows "
        "its answers only: what it computes is unknown, not nothing.",
    )
    return Section("specialist", TITLE, lede, [_quality(records), _cost(records)])


def _quality(records: list[Record]) -> Child:
    columns = [
        Column("Model"),
        Column("In its domain", "number"),
        Column(term("confidence_interval"), "number"),
        Column("General questions", "number"),
        Column(term("confidence_interval"), "number"),
        Column(term("bits_per_byte"), "number"),
    ]
    rows: list[list[Child]] = [
        [
            record.name("model"),
            number(record.number("quality"), figures.percent),
            interval(record.number("lo"), record.number("hi"), figures.share, "%"),
            number(record.number("general"), figures.percent),
            interval(record.number("general_lo"), record.number("general_hi"), figures.share, "%"),
            number(record.number("bits_per_byte"), lambda v: figures.decimal(v, 4)),
        ]
        for record in records
    ]
    return table("What it can do, and what it lost", columns, rows, name="Quality of the specialist")


def _cost(records: list[Record]) -> Child:
    shown: list[tuple[str, Child, Callable[[float], str]]] = [
        ("num_bytes", "On disk", figures.num_bytes),
        ("decode", "Tokens per second, one chat", figures.value),
        ("num_written", "Tokens", figures.value),
        ("flop", term("flop"), figures.power),
        ("seconds", "Seconds", figures.seconds),
        ("joules", term("energy"), figures.joules),
        ("money", "Money", _money),
    ]
    columns = [Column("Model"), *(Column(heading, "number") for _, heading, _ in shown)]
    rows: list[list[Child]] = [
        [record.name("model"), *(number(record.number(key), write) for key, _, write in shown)]
        for record in records
    ]
    sources = {record.text("joules_source") for record in records}
    note = "Per answer, with many questions asked at once. Money in the currency of the recipe's prices. Energy was "
    note += "measured." if sources == {"measured"} else "estimated from processor time."
    return table("What it costs", columns, rows, name="Cost of the specialist", note=note)


def _money(value: float) -> str:
    """Small sums per answer, with two digits."""
    return f"{value:.1e}" if value and value < 0.01 else f"{value:.2f}"
