"""Four bits: what compression saved and what it cost."""

from __future__ import annotations

from kweek.report import figures, models
from kweek.report.bars import size_mark
from kweek.report.glossary import term
from kweek.report.history import History, Record
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.section import Missing, Section
from kweek.report.tables import Column, behind, interval, number, table

TITLE = "Four bits"
METHODS = {"rtn": "rtn", "gptq": "error_compensation"}  # names of methods with a glossary entry


def section(history: History) -> Section | Missing:
    """Methods compared, sizes on disk, errors by tensor."""
    comparisons, tensors = history.of("comparison"), history.of("tensor")
    sizes = models.sizes(history)
    if not comparisons and not tensors and len(set(sizes.values())) < 2:
        return Missing(TITLE, "a quantised model (records “comparison” or “tensor”)")
    lede = join(
        term("four_bits"),
        ": each parameter in a small group becomes one of sixteen values. Compared are ",
        term("rtn", "rounding to the nearest"),
        " and ",
        term("error_compensation", "error compensation"),
        ".",
    )
    blocks = [_comparison(comparisons), _sizes(sizes), _tensors(tensors)]
    return Section("four-bits", TITLE, lede, blocks)


def _comparison(records: list[Record]) -> Child:
    if not records:
        return None
    columns = [
        Column("Method"),
        Column(term("bits_per_byte"), "number"),
        Column("Cost in bits", "number"),
        Column(term("confidence_interval"), "number"),
        Column("Recovered", "number"),
        Column(term("accuracy"), "number"),
        Column("On disk", "number"),
    ]
    rows: list[list[Child]] = []
    for record in records:
        method = record.name("method")
        difference, lo, hi = (record.number(f"difference{end}") for end in ("", "_lo", "_hi"))
        rows.append(
            [
                term(METHODS[method], method) if method in METHODS else method,
                number(record.number("bits_per_byte"), lambda v: figures.decimal(v, 4)),
                number(difference, lambda v: figures.change(v, 4)),
                interval(lo, hi, lambda v: figures.change(v, 4)),
                number(record.number("recovered"), lambda v: figures.percent(v, 0)),
                number(record.number("accuracy"), figures.percent),
                number(record.number("bytes"), figures.num_bytes),
            ]
        )
    caption = "Methods compared on the same text and questions"
    made = table(caption, columns, rows, name="Quantisation methods")
    if all(record.number("difference") is None for record in records):
        return made
    note = (
        "Cost: paired difference from the uncompressed model on the same documents. Recovered: the share of plain "
        "rounding's cost that is won back."
    )
    return [made, tag("p", note, class_="note")]


def _sizes(sizes: dict[str, float]) -> Child:
    if len(sizes) < 2:
        return None
    most = max(sizes.values()) or 1.0
    columns = [
        Column("Model"),
        Column("On disk", "number"),
        Column("", "mark"),
        Column("Of the largest", "number"),
    ]
    rows: list[list[Child]] = [
        [model, number(size, figures.num_bytes), size_mark(size / most), _part(size / most)]
        for model, size in sizes.items()
    ]
    return tag(
        "div",
        table("Files of weights, embeddings and scales included", columns, rows, name="Sizes"),
        class_="compact",
    )


def _part(share: float) -> Markup:
    return number(share, lambda v: figures.percent(v, 0), computed=True)


def _tensors(records: list[Record]) -> Child:
    if not records:
        return None
    columns = [
        Column("Tensor"),
        Column("Bits", "number"),
        Column("Error, nearest", "number"),
        Column("Error, compensated", "number"),
        Column("Ratio", "number"),
    ]
    rows: list[list[Child]] = []
    for record in records:
        nearest, kept = record.number("error_rtn"), record.number("error_gptq")
        ratio = kept / nearest if nearest and kept is not None else None
        errors = [number(value, figures.value) for value in (nearest, kept)]
        name = tag("code", record.name("name"))
        rows.append(
            [name, number(record.number("bits")), *errors, number(ratio, figures.decimal, computed=True)]
        )
    note = (
        "Error of a layer's output on calibration text, relative to its size; below one, compensation helps."
    )
    details = table("Error by tensor", columns, rows, name="Error by tensor", note=note)
    return behind(
        join(number(float(len(records)), figures.whole, computed=True), " tensors, one by one"), details
    )
