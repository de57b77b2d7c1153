"""Accuracy: how many questions each model gets right, how sure that is, and how it depends on difficulty."""

from __future__ import annotations

from collections.abc import Sequence

from kweek.report import figures, models
from kweek.report.bars import interval_mark
from kweek.report.charts import Plot, both, figure, legend
from kweek.report.glossary import term
from kweek.report.history import Fields, History, Record
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.scales import Axis
from kweek.report.section import Missing, Section
from kweek.report.tables import Column, behind, interval, number, table

TITLE = "Right answers"


def section(history: History) -> Section | Missing:
    """A table for each set of questions, and the course over levels of difficulty."""
    records = history.of("accuracy")
    tasks = history.summary.inner("tasks")
    if not records and not tasks.values:
        return Missing(TITLE, "accuracies (records “accuracy”)")
    lede = join(
        term("greedy", "Greedy"),
        " answers to ",
        term("held_out", "held-out"),
        " questions, with ",
        term("wilson", "Wilson intervals"),
        ". By ",
        term("level", "level"),
        " too, for an average can hide what was unlearnt.",
    )
    rows: list[tuple[str, Fields]] = [(str(model), tasks.inner(str(model))) for model in tasks.values]
    if main := {r.name("model"): r for r in _of(records, models.MAIN_SET) if r.name("level") == "all"}:
        rows = list(main.items())
    blocks: list[Child] = [_table(history, models.MAIN_SET, rows) if rows else None]
    blocks.append(_levels(history, models.MAIN_SET, records))
    others = list(dict.fromkeys(models.set_of(r) for r in records if models.set_of(r) != models.MAIN_SET))
    blocks.append(_elsewhere(history, others, records) if others else None)
    return Section("accuracy", TITLE, lede, blocks)


def _of(records: Sequence[Record], which: str) -> list[Record]:
    return [record for record in records if models.set_of(record) == which]


def _elsewhere(history: History, sets: Sequence[str], records: Sequence[Record]) -> Child:
    """One row for each set of questions that lies outside of what was taught, one column for each model."""
    found = {(models.set_of(r), r.name("model")): r for r in records if r.name("level") == "all"}
    known = [model for model in models.names(history) if any((which, model) in found for which in sets)]
    rows: list[list[Child]] = []
    for which in sets:
        words = models.set_name(which)
        row: list[Child] = [term(which, words) if which == "unseen_wording" else words]
        for model in known:
            record = found.get((which, model), Record({}))
            lo, hi = record.number("lo"), record.number("hi")
            ends = (
                tag("small", interval(lo, hi, figures.share, "%"), class_="under") if lo is not None else None
            )
            right = record.number("accuracy")
            row.append(
                number(right, figures.percent) if ends is None else [number(right, figures.percent), ends]
            )
        rows.append(row)
    columns = [Column("Questions"), *(Column(model, "number") for model in known)]
    caption = "Beyond what was taught"
    return table(
        caption, columns, rows, name=caption, note=join("Below each share its ", term("wilson"), ".")
    )


def _cells(found: Fields, series: int) -> list[Child]:
    right, lo, hi = (found.number(key) for key in ("accuracy", "lo", "hi"))
    mark = interval_mark(right, lo, hi, (0.0, 1.0), series) if right is not None else None
    return [
        number(right, figures.percent),
        mark,
        interval(lo, hi, figures.share, "%"),
        number(found.number("n"), figures.whole),
        number(found.number("tool_share"), lambda v: figures.percent(v, 0)),
    ]


def _columns() -> list[Column]:
    return [
        Column(term("accuracy"), "number"),
        Column(tag("span", "from 0 to 100%", class_="scale"), "mark"),
        Column(term("wilson", "95% interval"), "number"),
        Column("Questions", "number"),
        Column(term("tool_share"), "number"),
    ]


def _table(history: History, which: str, found: Sequence[tuple[str, Fields]]) -> Markup:
    rows = [[model, *_cells(record, models.series(history, model))] for model, record in found]
    words = models.set_name(which)
    caption = term(which, words) if which in ("held_out", "unseen_wording") else words
    return table(caption, [Column("Model"), *_columns()], rows, name=words)


def _levels(history: History, which: str, records: Sequence[Record]) -> Child:
    """A chart and a table of accuracy by level, where there is more than one."""
    chosen = [r for r in _of(records, which) if r.name("level") != "all"]
    levels = sorted({r.name("level") for r in chosen}, key=lambda level: (len(level), level))
    if len(levels) < 2:
        return None
    by_place = {(r.name("model"), r.name("level")): r for r in chosen}
    known = [model for model in models.names(history) if any((model, level) in by_place for level in levels)]
    chart = both(
        lambda suffix, width: _chart(f"levels-{which}-{suffix}", width, known, levels, by_place, history)
    )
    keys = legend([(models.series(history, model), "dot", model) for model in known])
    words = models.set_name(which)
    rows = [
        [f"{model}, level {level}", *_cells(by_place[model, level], models.series(history, model))]
        for model in known
        for level in levels
        if (model, level) in by_place
    ]
    caption = f"{words} by level"
    details = table(caption, [Column("Model and level"), *_columns()], rows, name=caption)
    drawn = figure(
        chart,
        join(words, " by ", term("level", "level"), ": the number of operations a question needs."),
        keys,
    )
    return join(drawn, behind("Accuracies by level", details))


def _chart(
    key: str,
    width: int,
    known: Sequence[str],
    levels: Sequence[str],
    by_place: dict[tuple[str, str], Record],
    history: History,
) -> Markup:
    places = [float(index) for index in range(len(levels))]
    plot = Plot(
        key,
        "Accuracy by number of operations",
        "; ".join(_course(model, levels, by_place) for model in known) + ".",
        Axis("operations", -0.5, len(levels) - 0.5, lambda at: levels[round(at)], ticks=tuple(places)),
        Axis("right answers", 0.0, 1.0, lambda v: figures.percent(v, 0), ticks=(0.0, 0.25, 0.5, 0.75, 1.0)),
        width=width,
        height=300 if width > 500 else 260,
    )
    for order, model in enumerate(known):
        series = models.series(history, model)
        nudge = (order - (len(known) - 1) / 2) * min(22.0, 0.5 * width / len(levels) / max(len(known), 1))
        for at, level in zip(places, levels, strict=True):
            record = by_place.get((model, level))
            right = record.number("accuracy") if record else None
            if record is None or right is None:
                continue
            lo, hi = record.number("lo"), record.number("hi")
            if lo is not None and hi is not None:
                plot.whisker(at, lo, hi, series, nudge=nudge, cap=3)
            plot.dot((at, right), series, f"{model}, level {level}: {figures.percent(right)}", nudge=nudge)
    return plot.svg()


def _course(model: str, levels: Sequence[str], by_place: dict[tuple[str, str], Record]) -> str:
    found = [by_place[model, level].number("accuracy") for level in levels if (model, level) in by_place]
    return f"{model} {', '.join(figures.percent(right, 0) for right in found)}"
