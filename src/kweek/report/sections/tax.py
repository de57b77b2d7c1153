"""Alignment tax: what each later stage lost of ordinary language, source by source."""

from __future__ import annotations

from kweek.report import figures, models
from kweek.report.bars import interval_mark
from kweek.report.charts import Plot, figure, legend, panel_width, panels
from kweek.report.glossary import term
from kweek.report.history import History, Record
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.scales import Axis, extent
from kweek.report.section import Missing, Section
from kweek.report.tables import Column, behind, interval, number, table

TITLE = "Alignment tax"
UNITS = (  # the unit of a loss, what stands above its table
    ("bits per byte", "Text, each stage against the one before it"),
    ("share", "Tasks, each stage against the one before it"),
    ("score", "Calibration, each stage against the one before it"),
)
MEASURES = {
    "bits per byte, ": "bits per byte",
    "solved, ": "share",
    "calibration, ": "score",
}  # of records `panel`


def section(history: History) -> Section | Missing:
    """Bits per byte of every model on every source, and what each stage lost against the one before it."""
    found = {(r.name("source"), r.name("model")): r for r in history.of("bits")}
    lost = [*history.of("tax"), *history.of("panel")]
    if not found and not lost:
        return Missing(TITLE, "bits per byte by model and source (records “bits”), or losses (records “tax”)")
    lede = join(
        term("bits_per_byte"),
        " on held-out text after every stage. Teaching a model to answer often costs some of its language: the ",
        term("alignment_tax", "alignment tax"),
        ".",
    )
    body: list[Child] = _by_model(history, found) if found else []
    order = {name: at for at, name in enumerate([*models.names(history), *(s.name for s in history.stages)])}
    for unit, caption in UNITS:
        chosen = sorted((r for r in lost if _unit(r) == unit), key=lambda r: order.get(_about(r), len(order)))
        if chosen:
            made = _losses(unit, caption, chosen)
            body.append(behind(caption, made) if found else made)
    return Section("tax", TITLE, lede, body)


def _by_model(history: History, found: dict[tuple[str, str], Record]) -> list[Child]:
    """Every model on every source: charts, changes from the first, intervals."""
    sources = list(dict.fromkeys(source for source, _ in found))
    ordered = [model for model in models.names(history) if any((s, model) in found for s in sources)]
    charts = [
        (source, _chart(index, source, ordered, found, history)) for index, source in enumerate(sources)
    ]
    caption = "Each chart has a scale of its own, chosen to show small changes; lower is better."
    keys = legend([(models.series(history, model), "dot", model) for model in ordered])
    return [
        figure(panels(charts), caption, keys),
        _table(sources, ordered, found),
        behind("Intervals and sizes", _details(sources, ordered, found)),
    ]


def _about(record: Record) -> str:
    """The model that lost something: as recorded, else the one of the stage that says so."""
    return record.text("model") or record.stage


def _unit(record: Record) -> str:
    """The unit of a loss: as recorded, else as the name of its measure says."""
    name = record.text("name") or ""
    known = next((unit for start, unit in MEASURES.items() if name.startswith(start)), "share")
    return record.text("unit") or known


def _losses(unit: str, caption: str, records: list[Record]) -> Markup:
    """A row for each measure of each stage: before, after, and what was lost, paired."""
    share = unit == "share"
    change = figures.points if share else lambda v: figures.change(v, 3)
    value = figures.percent if share else figures.bits
    ends = [end for r in records for key in ("lost", "lo", "hi") if (end := r.number(key)) is not None]
    domain = extent([*ends, 0.0], pad=0.04)
    columns = [
        Column("Stage"),
        Column("Measure", "long"),
        Column("Before", "number"),
        Column("After", "number"),
        Column("Lost", "number"),
        Column(tag("span", "line: nothing lost", class_="scale"), "mark"),
        Column(term("confidence_interval"), "number"),
        Column("May be lost", "number"),
        Column("Verdict"),
    ]
    rows: list[list[Child]] = []
    for record in records:
        lost, lo, hi = (record.number(key) for key in ("lost", "lo", "hi"))
        before = record.text("before_model")
        count = number(record.number("n"), figures.whole)
        rows.append(
            [
                [
                    _about(record),
                    tag("small", "from ", before, class_="under") if before else None,
                ],
                [
                    (record.text("name") or "").replace("_", " "),
                    tag("small", "n = ", count, class_="under"),
                ],
                number(record.number("before"), value),
                number(record.number("after"), value),
                number(lost, change),
                interval_mark(lost, lo, hi, domain, 0, zero=True) if lost is not None else None,
                interval(lo, hi, change),
                number(record.number("tolerance"), change),
                _verdict(record),
            ]
        )
    note = "Above zero something was lost, on the same documents or questions."
    if any(record.kind == "panel" for record in records):
        note += " Where something may be lost, a guard reads more strictly: its intervals hold 99%."
    return table(caption, columns, rows, name=caption, note=note)


def _verdict(record: Record) -> Child:
    """What a guard said of the loss, else what its interval says."""
    said = record.text("verdict")
    if said is not None:
        words = {"ok": "within what may be lost", "warn": "more, perhaps by chance", "fail": "too much"}
        return tag("span", words.get(said, said), class_="wrong" if said == "fail" else None)
    lo, hi = record.number("lo"), record.number("hi")
    if lo is None or hi is None:
        return ""
    return "lost" if lo > 0 else "gained" if hi < 0 else "no difference shown"


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
