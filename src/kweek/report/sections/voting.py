"""Voting: what a majority of several answers reaches, and the bound of having one right among them."""

from __future__ import annotations

from kweek.report import figures, models
from kweek.report.charts import Plot, figure, legend, panel_width, panels
from kweek.report.glossary import term
from kweek.report.history import History, Record
from kweek.report.markup import Child, Markup, join
from kweek.report.scales import Axis
from kweek.report.section import Missing, Section
from kweek.report.tables import Column, behind, interval, number, table

TITLE = "Many answers, one vote"
MAJORITY, PASS = 0, 1  # series


def section(history: History) -> Section | Missing:
    """One small chart for each model, and the numbers."""
    votes: dict[str, dict[float, Record]] = {}
    for record in history.of("vote"):
        if (k := record.number("k")) is not None and k > 0:
            votes.setdefault(record.name("model"), {})[k] = record
    if not votes:
        return Missing(TITLE, "votes of several answers (records “vote”)")
    lede = join(
        "Each model answers with chance, several times. The ",
        term("majority", "majority"),
        " of the answers is often right where one answer is not; ",
        term("pass_at_k", "pass@k"),
        " is the bound: how often a right one is among them.",
    )
    ordered = [model for model in models.names(history) if model in votes]
    width = panel_width(len(ordered))
    charts = [(model, _chart(model, index, votes[model], width)) for index, model in enumerate(ordered)]
    keys = legend([(MAJORITY, "dot", "majority of k, with 95% interval"), (PASS, "dot", "pass@k")])
    drawn = figure(
        panels(charts), "Right answers by the number of answers asked for; every answer costs alike.", keys
    )
    columns = [
        Column("Model"),
        Column("Answers", "number"),
        Column(term("majority"), "number"),
        Column(term("confidence_interval"), "number"),
        Column(term("pass_at_k"), "number"),
        Column(term("confidence_interval"), "number"),
    ]
    rows: list[list[Child]] = []
    for model in ordered:
        for k, record in sorted(votes[model].items()):
            cells: list[Child] = [model, number(k, figures.whole)]
            for key, lo, hi in (("majority", "lo", "hi"), ("pass_at_k", "pass_lo", "pass_hi")):
                cells.append(number(record.number(key), figures.percent))
                cells.append(interval(record.number(lo), record.number(hi), figures.share, "%"))
            rows.append(cells)
    details = table("Votes", columns, rows, name="Votes")
    return Section("voting", TITLE, lede, [drawn, behind("The votes in numbers", details)])


def _chart(model: str, index: int, votes: dict[float, Record], width: int) -> Markup:
    ks = sorted(votes)
    majority = [(k, value) for k in ks if (value := votes[k].number("majority")) is not None]
    bound = [(k, value) for k in ks if (value := votes[k].number("pass_at_k")) is not None]
    words = ", ".join(f"{figures.percent(value, 0)} of {k:.0f}" for k, value in majority)
    plot = Plot(
        f"vote-{index}",
        f"{model}: right answers by number of answers",
        f"Majority: {words}.",
        Axis("answers", ks[0] / 1.25, ks[-1] * 1.25, lambda k: f"{k:.0f}", log=True, ticks=tuple(ks)),
        Axis("", 0.0, 1.0, lambda v: figures.percent(v, 0), ticks=(0.0, 0.25, 0.5, 0.75, 1.0)),
        width=width,
        height=210,
    )
    plot.line(bound, PASS, style="dashed")
    plot.line(majority, MAJORITY)
    for k, value in bound:
        plot.dot((k, value), PASS, f"pass@{k:.0f}: {figures.percent(value)}", radius=3.5)
    for k, value in majority:
        lo, hi = votes[k].number("lo"), votes[k].number("hi")
        if lo is not None and hi is not None:
            plot.whisker(k, lo, hi, MAJORITY, cap=3)
        plot.dot((k, value), MAJORITY, f"majority of {k:.0f}: {figures.percent(value)}")
    return plot.svg()
