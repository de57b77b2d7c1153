"""Reasoning: what every stage of every arm can do, how long it thinks, and whether a gain was elicited or learnt."""

from __future__ import annotations

from collections.abc import Sequence

from kweek.report import figures, models
from kweek.report.charts import Plot, figure, legend, panel_width, panels
from kweek.report.glossary import term
from kweek.report.history import History, Record
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.scales import Axis
from kweek.report.section import Section
from kweek.report.tables import Column, behind, interval, number, table

TITLE = "Reasoning: elicited or learnt"


def section(history: History) -> Section | None:
    """Verdicts, abilities, chains and budgets; nothing where no recipe of reasoning ran."""
    origins, passed = history.of("origin"), history.of("passed")
    if not origins or not passed:
        return None
    lede = join(
        "Each stage is compared with the one before on the same ",
        term("held_out", "held-out"),
        " tasks. A gain was ",
        tag("strong", "learnt"),
        " if the model beats the stage before even when that is forced to think, and solves tasks that it did "
        "not solve in many attempts (",
        term("pass_at_k", "pass@k"),
        "); it was ",
        tag("strong", "elicited"),
        " if one of the two is not shown, each by a ",
        term("paired_test", "paired test"),
        ".",
    )
    shown = models.names(history)
    body: list[Child] = [
        _verdicts(origins),
        _abilities(history, shown, passed),
        _budgets(history, origins),
        _chains(history, shown),
        _traces(history),
    ]
    return Section("reasoning", TITLE, lede, body)


def _verdicts(origins: Sequence[Record]) -> Markup:
    k = number(origins[-1].number("k"), figures.whole)
    columns = [
        Column("Arm"),
        Column("Stage"),
        Column("pass@1 gained", "number"),
        Column("beyond forced thinking", "number"),
        Column(join("pass@", k, " gained"), "number"),
        Column("Verdict"),
    ]
    rows: list[list[Child]] = []
    for record in origins:
        cells: list[Child] = [
            record.name("arm"),
            f"{record.name('before')} → {record.name('after')}"
            + (", in all" if record.flag("whole") else ""),
        ]
        for key in ("gain", "beyond", "reach"):
            cells.append(
                [
                    number(record.number(key), figures.points),
                    " [",
                    interval(record.number(f"{key}_lo"), record.number(f"{key}_hi"), figures.points),
                    "]",
                ]
            )
        cells.append(tag("strong", record.text("word") or ""))
        rows.append(cells)
    sentences = [
        tag("li", f"{r.name('arm')}, {r.name('before')} → {r.name('after')}: {r.text('text') or ''}")
        for r in origins
    ]
    made = table(
        "Where each gain came from, in points with 95% intervals", columns, rows, name="Verdicts on reasoning"
    )
    return join(made, behind("The verdicts in words", tag("ul", sentences)))


def _abilities(history: History, shown: Sequence[str], passed: Sequence[Record]) -> Markup:
    ks = sorted({k for record in passed if (k := record.number("k")) is not None})
    columns = [Column("Model"), Column("Greedy", "number")]
    columns += [Column(f"pass@{k:.0f}", "number") for k in ks]
    columns += [Column("pass@1, thinking forced", "number"), Column("Answers that think", "number")]
    rows: list[list[Child]] = []
    for model in shown:
        plain = models.score(history, model)
        forced = next((r for r in history.of("forced") if r.name("model") == model), None)
        row: list[Child] = [model, number(plain.number("accuracy") if plain else None, figures.percent)]
        for k in ks:
            found = next((r for r in passed if r.name("model") == model and r.number("k") == k), None)
            ends = interval(found.number("lo"), found.number("hi"), figures.share) if found else None
            small = tag("small", ends, class_="under") if k in (ks[0], ks[-1]) else None
            row.append([number(found.number("value") if found else None, figures.percent), small])
        row.append(number(forced.number("value") if forced else None, figures.percent))
        row.append(number(forced.number("thinking_share") if forced else None, figures.percent))
        rows.append(row)
    return table("What each stage can do", columns, rows, name="Abilities of each stage")


def _budgets(history: History, origins: Sequence[Record]) -> Markup | None:
    """Accuracy by tokens of thinking, one panel for each arm, and the numbers."""
    found: dict[str, dict[float | None, Record]] = {}
    for record in history.of("budget"):
        found.setdefault(record.name("model"), {})[record.number("tokens")] = record
    if not found:
        return None
    budgets = sorted({b for points in found.values() for b in points if b is not None})
    full = (budgets[-1] if budgets else 0.0) * 1.25 + 1.0
    charts, keys = [], []
    arms = _arms(origins)
    for number_of, (arm, names) in enumerate(arms.items()):
        plot = Plot(
            f"budget-{number_of}",
            f"{arm}: right answers by tokens of thinking",
            "; ".join(f"{name} {_words(found[name])}" for name in names if name in found) + ".",
            Axis(
                "tokens of thinking",
                -0.04 * full,
                1.04 * full,
                lambda b: "all" if b == full else f"{b:.0f}",
                ticks=(*budgets, full),
            ),
            Axis("", 0.0, 1.0, lambda v: figures.percent(v, 0), ticks=(0.0, 0.25, 0.5, 0.75, 1.0)),
            width=panel_width(len(arms)),
            height=230,
        )
        for name in names:
            series = models.series(history, name)
            points = [
                (full if b is None else b, value)
                for b, record in sorted(
                    found.get(name, {}).items(), key=lambda e: (e[0] is None, e[0] or 0.0)
                )
                if (value := record.number("value")) is not None
            ]
            plot.line(points, series)
            for b, value in points:
                plot.dot((b, value), series, f"{name}: {figures.percent(value)}", radius=3.5)
            keys.append((series, "dot", name))
        charts.append((arm, plot.svg()))
    columns = [
        Column("Model"),
        *(Column(f"{b:.0f} tokens", "number") for b in budgets),
        Column("all", "number"),
    ]
    rows: list[list[Child]] = [
        [
            name,
            *(
                number(at.number("value") if (at := points.get(b)) else None, figures.percent)
                for b in [*budgets, None]
            ),
        ]
        for name, points in found.items()
    ]
    drawn = figure(
        panels(charts),
        "Greedy answers; thinking that is longer is cut at the budget and closed.",
        legend(list(dict.fromkeys(keys))),
    )
    details = table("Right answers by tokens of thinking", columns, rows, name="Thinking budgets")
    return join(drawn, behind("The budgets in numbers", details))


def _words(points: dict[float | None, Record]) -> str:
    least = min((b for b in points if b is not None), default=None)
    ends = [points[b] for b in (least, None) if b in points]
    return " to ".join(figures.percent(record.number("value"), 0) for record in ends)


def _arms(origins: Sequence[Record]) -> dict[str, list[str]]:
    """Models of each arm in their order."""
    arms: dict[str, list[str]] = {}
    for record in origins:
        arms.setdefault(record.name("arm"), []).extend([record.name("before"), record.name("after")])
    return {arm: list(dict.fromkeys(names)) for arm, names in arms.items()}


def _chains(history: History, shown: Sequence[str]) -> Markup | None:
    records = history.of("thinking")
    levels = list(dict.fromkeys(record.name("level") for record in records))
    if not levels:
        return None
    columns = [Column("Model")]
    columns += [Column("All" if level == "all" else f"Level {level}", "number") for level in levels]
    rows: list[list[Child]] = []
    for model in shown:
        row: list[Child] = [model]
        for level in levels:
            found = [r for r in records if (r.name("model"), r.name("level")) == (model, level)]
            row.append(number(found[-1].number("value") if found else None, figures.decimal))
        rows.append(row)
    return table("Tokens of thinking by difficulty", columns, rows, name="Length of chains")


def _traces(history: History) -> Markup | None:
    """What rejection sampling kept."""
    rows: list[list[Child]] = []
    for stage in history.stages_with("traces"):
        for record in history.of("traces", stage):
            row: list[Child] = [stage, number(record.number("round"), figures.whole), record.name("level")]
            row += [
                number(record.number(key), figures.whole) for key in ("tasks", "solved", "attempts", "kept")
            ]
            rows.append([*row, number(record.number("right"), figures.percent)])
    if not rows:
        return None
    columns = [Column("Stage"), Column("Round", "number"), Column("Level")]
    columns += [Column(name, "number") for name in ("Tasks", "Solved", "Attempts", "Kept", "Right")]
    return behind("Own answers that were kept", table("Own answers", columns, rows, name="Kept answers"))
