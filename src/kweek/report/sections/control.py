"""Elicited or taught: what the forced-tool control says about where a gain came from."""

from __future__ import annotations

from kweek.report import figures, models
from kweek.report.bars import Part, interval_mark, stacked
from kweek.report.charts import both, figure, legend
from kweek.report.glossary import term
from kweek.report.history import History, Record
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.section import Missing, Section
from kweek.report.tables import Column, interval, number, table

TITLE = "Elicited or taught"
BEFORE, ELICITED, TAUGHT = 0, 1, 2  # series


def section(history: History) -> Section | Missing:
    """The split of every gain, and the control beside the plain score."""
    controls, verdicts = history.of("control"), history.of("verdict")
    if not controls and not verdicts:
        return Missing(TITLE, "the forced-tool control (records “control” and “verdict”)")
    lede = join(
        "Does training bring out what was there, or add something? The ",
        term("forced_tool", "forced-tool control"),
        " opens the model's answer with a calculator call. What improves by that alone was ",
        term("elicited", "elicited"),
        "; the rest was ",
        term("taught", "taught"),
        ".",
    )
    body = [_split(history, verdicts), _verdicts(verdicts), _controls(history, controls)]
    return Section("control", TITLE, lede, body)


def _before(history: History, record: Record) -> float | None:
    """The score a line started from: as recorded, else of the model that the recipe names for it."""
    if (recorded := record.number("before")) is not None:
        return recorded
    for stage in history.stages:
        pair = stage.settings.inner("lines").texts(record.name("line"))
        found = models.score(history, pair[0]) if pair else None
        if found is not None:
            return found.number("accuracy")
    return None


def _split(history: History, verdicts: list[Record]) -> Child:
    """Stacked bars from the score before to the score after, where the scores are recorded."""
    rows: list[tuple[str, list[Part], str]] = []
    for record in {r.name("line"): r for r in verdicts}.values():
        before, gain = _before(history, record), record.number("gain")
        elicited, taught = record.number("elicited"), record.number("taught")
        if before is None or elicited is None or taught is None:
            continue
        parts: list[Part] = [
            (BEFORE, before, f"before: {figures.percent(before)}", figures.percent(before, 0)),
            (
                ELICITED,
                max(elicited, 0.0),
                f"elicited: {figures.points(elicited)} points",
                figures.points(elicited),
            ),
            (TAUGHT, max(taught, 0.0), f"taught: {figures.points(taught)} points", figures.points(taught)),
        ]
        after = figures.percent(before + gain) if gain is not None else ""
        rows.append((record.name("line"), parts, after))
    if not rows:
        return None
    words = "; ".join(
        f"{name}: {', '.join(tooltip for _, _, tooltip, _ in parts)}" for name, parts, _ in rows
    )
    chart = both(
        lambda suffix, width: stacked(
            f"split-{suffix}",
            "Score before training, and its gain by origin",
            f"{words}.",
            rows,
            width,
            most=1.0,
        )
    )
    keys = legend([(BEFORE, "box", "right before"), (ELICITED, "box", "elicited"), (TAUGHT, "box", "taught")])
    return figure(
        chart, "Right answers, from none to all. A part below zero is not drawn; see the table.", keys
    )


def _verdicts(verdicts: list[Record]) -> Child:
    if not verdicts:
        return None
    columns = [
        Column("Line"),
        Column("Gain in points", "number"),
        Column(term("confidence_interval"), "number"),
        Column(term("elicited"), "number"),
        Column(term("taught"), "number"),
        Column(term("confidence_interval"), "number"),
        Column("Verdict", "prose"),
    ]
    rows: list[list[Child]] = [
        [
            record.name("line"),
            number(record.number("gain"), figures.points),
            interval(record.number("gain_lo"), record.number("gain_hi"), figures.points),
            number(record.number("elicited"), figures.points),
            number(record.number("taught"), figures.points),
            interval(record.number("taught_lo"), record.number("taught_hi"), figures.points),
            tag("span", record.text("text") or "", dir="auto"),
        ]
        for record in verdicts
    ]
    return table("Where each gain came from", columns, rows, name="Verdicts")


def _controls(history: History, controls: list[Record]) -> Markup:
    """One table for each control, the plain score of each model beside the one under control."""
    tables = []
    for control in dict.fromkeys(record.name("name") for record in controls):
        rows = [_control(history, record) for record in controls if record.name("name") == control]
        words = "Tool forced" if control == "forced_tool" else control.replace("_", " ").capitalize()
        columns = [
            Column("Model"),
            Column("Asked plainly", "number"),
            Column(words, "number"),
            Column(tag("span", "from 0 to 100%", class_="scale"), "mark"),
            Column(term("confidence_interval"), "number"),
            Column("Questions", "number"),
        ]
        caption = f"The same questions, asked plainly and with the {words.lower()}"
        tables.append(table(caption, columns, rows, name=f"Control: {words}"))
    return join(*tables)


def _control(history: History, record: Record) -> list[Child]:
    model, right = record.name("model"), record.number("accuracy")
    lo, hi = record.number("lo"), record.number("hi")
    plain = models.score(history, model)
    return [
        model,
        number(plain.number("accuracy") if plain else None, figures.percent),
        number(right, figures.percent),
        _mark(right, lo, hi, models.series(history, model)),
        interval(lo, hi, figures.share, "%"),
        number(record.number("n"), figures.whole),
    ]


def _mark(right: float | None, lo: float | None, hi: float | None, series: int) -> Markup | None:
    return None if right is None else interval_mark(right, lo, hi, (0.0, 1.0), series)
