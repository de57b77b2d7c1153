"""Alignment tax: what each later stage lost of ordinary language, source by source."""

from __future__ import annotations

from kweek.report import figures, models
from kweek.report.charts import Plot, figure, legend, panel_width, panels
from kweek.report.glossary import term
from kweek.report.history import History, Record
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.scales import Axis, extent
from kweek.report.section import Missing, Section
from kweek.report.tables import Column, behind, interval, number, table

TITLE = "Alignment tax"


def section(history: History) -> Section | Missing:
    """Bits per byte of every model on every source, and the change from the first model."""
    found = {(r.name("source"), r.name("model")): r for r in history.of("bits")}
    if not found:
        return Missing(TITLE, "bits per byte by model and source (records “bits”)")
    sources = list(dict.fromkeys(source for source, _ in found))
    ordered = [model for model in models.names(history) if any((s, model) in found for s in sources)]
    lede = join(
        term("bits_per_byte"),
        " on held-out text after every stage. Teaching a model to answer often costs some of its language: the ",
        term("alignment_tax", "alignment tax"),
        ".",
    )
    charts = [
        (source, _chart(index, source, ordered, found, history)) for index, source in enumerate(sources)
    ]
    caption = "Each chart has a scale of its own, chosen to show small changes; lower is better."
    keys = legend([(models.series(history, model), "dot", model) for model in ordered])
    body: list[Child] = [figure(panels(charts), caption, keys), _table(sources, ordered, found)]
    body.append(behind("Intervals and sizes", _details(sources, ordered, found)))
    return Section("tax", TITLE, lede, body)


def _chart(
    index: int, source: str, ordered: list[str], found: dict[tuple[str, str], Record], history: History
) -> Markup:
    ends = [
        value
        for model in ordered
        if (source, model) in found
        for key in ("value", "lo", "hi")
        if (value := found[source, model].number(key)) is not None
    ]
    low, high = extent(ends, pad=0.15)
    places = [float(at) for at in range(len(ordered))]
    values = {model: found[source, model].number("value") for model in ordered if (source, model) in found}
    plot = Plot(
        f"tax-{index}",
        f"Bits per byte on {source} by model",
        ", ".join(f"{model} {figures.bits(value)}" for model, value in values.items()) + ".",
        Axis("", -0.5, len(ordered) - 0.5, lambda _: "", ticks=tuple(places)),  # the legend names the models
        Axis("bits per byte", low, high, figures.value),
        width=panel_width(len({source for source, _ in found})),
        height=200,
    )
    line = [
        (at, value)
        for at, model in zip(places, ordered, strict=True)
        if (value := values.get(model)) is not None
    ]
    if line:  # where the first model stood, for the eye to compare with
        plot.line([(-0.5, line[0][1]), (len(ordered) - 0.5, line[0][1])], 0, style="faint")
    for at, value in line:
        model = ordered[round(at)]
        record = found[source, model]
        lo, hi = record.number("lo"), record.number("hi")
        series = models.series(history, model)
        if lo is not None and hi is not None:
            plot.whisker(at, lo, hi, series)
        plot.dot((at, value), series, f"{model}: {figures.bits(value)}")
    return plot.svg()


def _table(sources: list[str], ordered: list[str], found: dict[tuple[str, str], Record]) -> Markup:
    columns = [Column("Source"), *(Column(model, "number") for model in ordered)]
    rows: list[list[Child]] = []
    for source in sources:
        cells: list[Child] = [source]
        first: float | None = None
        for model in ordered:
            record = found.get((source, model))
            value = record.number("value") if record else None
            cell: list[Child] = [number(value, figures.bits)]
            if first is not None and value is not None:
                cell += [
                    " ",
                    tag("small", number(value - first, figures.change, computed=True), class_="change"),
                ]
            first = value if first is None else first
            cells.append(cell)
        rows.append(cells)
    caption = join(term("bits_per_byte"), " by source and model, with the change from the first")
    return table(caption, columns, rows, name="Bits per byte by source and model")


def _details(sources: list[str], ordered: list[str], found: dict[tuple[str, str], Record]) -> Markup:
    columns = [
        Column("Source"),
        Column("Model"),
        Column(term("bits_per_byte"), "number"),
        Column(term("confidence_interval"), "number"),
        Column("Bytes of text", "number"),
    ]
    rows: list[list[Child]] = []
    for source in sources:
        for model in ordered:
            if (record := found.get((source, model))) is not None:
                ends = interval(record.number("lo"), record.number("hi"), figures.bits)
                value, size = record.number("value"), record.number("bytes")
                rows.append([source, model, number(value, figures.bits), ends, number(size, figures.whole)])
    return table("Bits per byte with intervals", columns, rows, name="Bits per byte with intervals")
