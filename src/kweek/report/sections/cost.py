"""Cost: operations, time and energy of every stage, and of one answer."""

from __future__ import annotations

from collections.abc import Callable

from kweek.report import figures, models
from kweek.report.bars import Part, size_mark, stacked
from kweek.report.charts import both, figure, legend
from kweek.report.glossary import term
from kweek.report.history import History, Stage
from kweek.report.markup import Child, join, tag
from kweek.report.section import Missing, Section
from kweek.report.tables import Column, behind, number, table

TITLE = "What it cost"
Measure = tuple[str, Callable[[Stage], float | None], Callable[[float], str]]


MEASURES: tuple[Measure, ...] = (
    ("FLOP", lambda stage: stage.flop, figures.power),
    ("Processor time", lambda stage: stage.cost("cpu_seconds"), figures.seconds),
    ("Wall time", lambda stage: stage.cost("seconds"), figures.seconds),
    ("Energy", lambda stage: stage.cost("joules"), figures.joules),
)


def section(history: History) -> Section | Missing:
    """Shares of the stages, the table of costs, the cost of an answer."""
    stages = [stage for stage in history.stages if any(read(stage) for _, read, _ in MEASURES)]
    answers = history.of("answer_cost")
    if not stages and not answers:
        return Missing(TITLE, "costs of stages (ledgers of artifacts, or the summary)")
    lede = join(
        term("flop"),
        " are counted in ",
        term("standardised", "16-bit equivalents"),
        ", so they do not depend on this machine; ",
        term("cpu_seconds", "CPU-seconds"),
        " and ",
        term("energy", "energy"),
        " do.",
    )
    return Section("cost", TITLE, lede, [_shares(stages), _stages(stages), _kinds(stages), _answers(history)])


def _shares(stages: list[Stage]) -> Child:
    rows: list[tuple[str, list[Part], str]] = []
    for name, read, write in MEASURES:
        values = [(index, stage.name, max(read(stage) or 0.0, 0.0)) for index, stage in enumerate(stages)]
        total = sum(value for _, _, value in values)
        if total > 0:
            parts: list[Part] = [
                (index, value, f"{stage}: {write(value)} ({figures.percent(value / total)})", stage)
                for index, stage, value in values
            ]
            rows.append((name, parts, write(total)))
    if not rows:
        return None
    chart = both(
        lambda suffix, width: stacked(
            f"cost-{suffix}",
            "Shares of the stages in the whole cost",
            "; ".join(f"{name} {total} in all" for name, _, total in rows) + ".",
            rows,
            width,
        )
    )
    keys = legend([(index, "box", stage.name) for index, stage in enumerate(stages)])
    caption = ["Each bar is the whole of one measure, divided among the stages. ", _energy_source(stages)]
    return figure(chart, caption, keys)


def _energy_source(stages: list[Stage]) -> str | None:
    sources = {stage.ledger.text("joules_source") for stage in stages if stage.cost("joules") is not None}
    if not sources:
        return None
    if sources == {"measured"}:
        return "Energy was measured by the processor's counter."
    if "measured" in sources:
        return "Energy was measured for some stages and estimated for others; see the table."
    return "Energy is estimated from processor time, not measured."


def _stages(stages: list[Stage]) -> Child:
    if not stages:
        return None
    columns = [
        Column("Stage"),
        Column("State"),
        Column(term("flop"), "number"),
        Column(term("token", "Tokens"), "number"),
        Column("Wall time", "number"),
        Column(term("cpu_seconds", "Processor time"), "number"),
        Column(term("energy"), "number"),
        Column("How known"),
        Column("Peak memory", "number"),
    ]
    rows: list[list[Child]] = []
    for stage in stages:
        energy = stage.cost("joules")
        source = stage.ledger.text("joules_source") or "estimated"
        rows.append(
            [
                stage.name,
                stage.status,
                number(stage.flop, figures.power),
                number(stage.cost("tokens"), figures.whole),
                number(stage.cost("seconds"), figures.seconds),
                number(stage.cost("cpu_seconds"), figures.seconds),
                number(energy, figures.joules),
                source if energy is not None else "",
                number(stage.cost("peak_memory_bytes"), figures.num_bytes),
            ]
        )
    flop, work, wall, joules = (_total(stages, read) for _, read, _ in MEASURES)
    tokens = _total(stages, lambda stage: stage.cost("tokens"))
    sums = ((flop, figures.power), (tokens, figures.whole), (wall, figures.seconds), (work, figures.seconds))
    cells = [number(total, write, computed=True) for total, write in (*sums, (joules, figures.joules))]
    rows.append([tag("b", "All"), "", *cells, "", number(None)])
    note = "Stages may run side by side, so the sum of wall times can exceed the time that passed."
    return table("Cost by stage", columns, rows, name="Cost by stage", note=note)


def _total(stages: list[Stage], read: Callable[[Stage], float | None]) -> float | None:
    found = [value for stage in stages if (value := read(stage)) is not None]
    return sum(found) if found else None


def _kinds(stages: list[Stage]) -> Child:
    rows: list[list[Child]] = []
    for stage in stages:
        kinds = stage.ledger.inner("flop")
        for kind in kinds.values:
            for precision, value in kinds.inner(str(kind)).numbers().items():
                rows.append(
                    [stage.name, str(kind).replace("_", " "), precision, number(value, figures.power)]
                )
    if not rows:
        return None
    columns = [Column("Stage"), Column("For"), Column("Precision"), Column("FLOP, not converted", "number")]
    return behind(
        "Operations by purpose and precision", table("Operations", columns, rows, name="Operations")
    )


def _answers(history: History) -> Child:
    records = {record.name("model"): record for record in history.of("answer_cost")}
    if not records:
        return None
    most = max((record.number("flop") or 0.0 for record in records.values()), default=0.0) or 1.0
    total = sum(value for stage in history.stages if (value := stage.flop) is not None)
    columns = [
        Column("Model"),
        Column("FLOP for one answer", "number"),
        Column("", "mark"),
        Column(term("token", "Tokens"), "number"),
        Column("Time", "number"),
        Column("Answers for the cost of the run", "number"),
    ]
    rows: list[list[Child]] = []
    for model, record in records.items():
        flop = record.number("flop")
        ratio = total / flop if flop and total else None
        rows.append(
            [
                model,
                number(flop, figures.power),
                size_mark((flop or 0.0) / most, models.series(history, model)),
                number(record.number("tokens"), lambda v: figures.decimal(v, 1)),
                number(record.number("seconds"), figures.seconds),
                number(ratio, figures.compact, computed=True),
            ]
        )
    return table("The cost of an answer, on average", columns, rows, name="Cost of an answer")
