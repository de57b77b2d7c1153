"""Paired tests: every difference that is claimed, against chance."""

from __future__ import annotations

from kweek.report import figures
from kweek.report.bars import interval_mark
from kweek.report.glossary import term
from kweek.report.history import History, Record
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.scales import extent
from kweek.report.section import Missing, Section
from kweek.report.tables import Column, behind, interval, number, table

TITLE = "Differences, tested"
MOST_ROWS = 12  # of a further metric that are shown without being asked for
BITS = ("bits", "bits_per_byte", "bits per byte")  # metrics of which less is better; others are shares


def section(history: History) -> Section | Missing:
    """A table for each metric, one row for each comparison."""
    records = history.of("paired")
    if not records:
        return Missing(TITLE, "paired tests (records “paired”)")
    lede = join(
        "No difference is claimed here without a ",
        term("paired_test", "paired test"),
        ". Where the interval holds zero, the two may well be equal.",
    )
    metrics = list(dict.fromkeys(record.text("metric") or "accuracy" for record in records))
    blocks: list[Child] = []
    for metric in metrics:
        chosen = [record for record in records if (record.text("metric") or "accuracy") == metric]
        made = _table(metric, chosen)
        count = number(float(len(chosen)), figures.whole, computed=True)
        folded = behind(join("All ", count, f" tests of {metric.replace('_', ' ')}"), made)
        blocks.append(folded if len(chosen) > MOST_ROWS and blocks else made)
    return Section("paired", TITLE, lede, blocks)


def _table(metric: str, records: list[Record]) -> Markup:
    is_bits = metric in BITS
    write = (lambda v: figures.change(v, 4)) if is_bits else figures.points
    ends = [
        value for r in records for key in ("difference", "lo", "hi") if (value := r.number(key)) is not None
    ]
    domain = extent([*ends, 0.0], pad=0.04)
    columns = [
        Column("Compared", "long"),
        Column("Difference", "number"),
        Column(tag("span", "line: no difference", class_="scale"), "mark"),
        Column(term("confidence_interval"), "number"),
        Column(term("won_lost", "Higher : lower" if is_bits else "Won : lost"), "number"),
        Column(term("p_value", "p"), "number"),
        Column("Verdict"),
    ]
    rows: list[list[Child]] = []
    for record in records:
        difference, lo, hi = (record.number(key) for key in ("difference", "lo", "hi"))
        mark = interval_mark(difference, lo, hi, domain, 0, zero=True) if difference is not None else None
        won, lost, count = (number(record.number(key), figures.whole) for key in ("won", "lost", "n"))
        rows.append(
            [
                _compared(record, count),
                number(difference, write),
                mark,
                interval(lo, hi, write),
                [won, " : ", lost],
                number(record.number("p_value"), figures.probability),
                _conclusion(record, is_bits),
            ]
        )
    better = (
        "Bits per byte: below zero the first is better",
        "Points of accuracy: above zero the first is better",
    )
    return table(better[0 if is_bits else 1], columns, rows, name=f"Paired tests of {metric}")


def _compared(record: Record, count: Markup) -> Child:
    versus = tag(
        "small", record.name("a"), f" {figures.MINUS} ", record.name("b"), ", n = ", count, class_="under"
    )
    return [(record.text("name") or "").replace("_", " "), versus]


def _conclusion(record: Record, is_bits: bool) -> Child:
    lo, hi = record.number("lo"), record.number("hi")
    if lo is None or hi is None:
        return ""
    if lo <= 0 <= hi:
        return "no difference shown"
    return "better" if (hi < 0) == is_bits else "worse"
