"""What each stage of alignment changed: the same prompts before and after it, side by side and in figures."""

from __future__ import annotations

from collections.abc import Sequence

from kweek.report import figures, models
from kweek.report.bars import interval_mark
from kweek.report.beside import beside
from kweek.report.charts import figure, legend, panels
from kweek.report.curves import Around, curve, points
from kweek.report.glossary import term
from kweek.report.history import History, Record
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.scales import extent
from kweek.report.section import Missing, Section
from kweek.report.spreads import Spread, columns, spread_of
from kweek.report.tables import Column, behind, interval, number, table

TITLE = "What each stage changed"
KINDS = ("change", "beside", "distribution", "divergence")  # a stage with any of these has a place here
PAIRS = (  # figures of a stage that learns from pairs: key of its records `train`, heading, unit
    ("ranked", "Pairs ranked rightly", "share"),
    ("margin", "Margin of the pairs", "nats"),
    ("chosen_gain", "Gain of the preferred answers", "nats"),
)
Chart = tuple[Child, Markup]


def section(history: History) -> Section | Missing:
    """A table of all stages, then for each its charts and the texts that changed most."""
    marked = {record.stage for kind in KINDS for record in history.of(kind)}
    stages = [stage.name for stage in history.stages if stage.name in marked]
    if not stages:
        return Missing(TITLE, "answers before and after a stage (records “change” and “distribution”)")
    lede = join(
        "Every stage of alignment answered the same held-out prompts before and after it. How the ",
        term("reward", "reward"),
        " of the answers is spread says more than its mean; the ",
        term("divergence", "distance"),
        " says how far the model went for it.",
    )
    shown = _foremost(history, stages)
    blocks = [_overview(history, stages), *(_stage(history, stage, stage == shown) for stage in stages)]
    return Section("changes", TITLE, lede, blocks)


def _foremost(history: History, stages: Sequence[str]) -> str:
    """The stage whose texts stand open: the newest one that led to the final model, else the newest."""
    with_texts = [stage for stage in stages if history.of("beside", stage)] or stages
    line = [models.stage_of(history, model) for model in models.ancestry(history)]
    led = [stage.name for stage in line if stage is not None and stage.name in with_texts]
    return led[-1] if led else with_texts[-1]


def _overview(history: History, stages: Sequence[str]) -> Child:
    """Reward, length and distance by stage."""
    found = {stage: record for stage in stages if (record := history.last("change", stage)) is not None}
    if not found:
        return None
    rewards = [record.inner("reward") for record in found.values()]
    ends = [end for r in rewards for key in ("difference", "lo", "hi") if (end := r.number(key)) is not None]
    domain = extent([*ends, 0.0], pad=0.04)
    headings = [
        Column("Stage"),
        Column(join(term("reward"), " before"), "number"),
        Column("after", "number"),
        Column("Change", "number"),
        Column(tag("span", "line: no change", class_="scale"), "mark"),
        Column(term("confidence_interval"), "number"),
        Column("Better : worse", "number"),
        Column("Length before", "number"),
        Column("after", "number"),
        Column(term("divergence"), "number"),
    ]
    rows = [_row(history, stage, record, domain) for stage, record in found.items()]
    answered = {record.text("of") for record in found.values()}
    note = join(
        "Means over ",
        *(answered if len(answered) == 1 else ["the prompts"]),
        "; lengths in tokens, the distance in nats per answer. A change whose interval holds zero may be none.",
    )
    return table(
        "Every stage, before and after", headings, rows, name="Every stage, before and after", note=note
    )


def _row(history: History, stage: str, record: Record, domain: tuple[float, float]) -> list[Child]:
    reward, length = record.inner("reward"), record.inner("length")
    change, lo, hi = (reward.number(key) for key in ("difference", "lo", "hi"))
    return [
        stage,
        number(reward.number("before"), figures.decimal),
        number(reward.number("after"), figures.decimal),
        number(change, lambda v: figures.change(v, 2)),
        interval_mark(change, lo, hi, domain, 0, zero=True) if change is not None else None,
        interval(lo, hi, lambda v: figures.change(v, 2)),
        [number(record.number("up"), figures.whole), " : ", number(record.number("down"), figures.whole)],
        number(length.number("before"), lambda v: figures.decimal(v, 1)),
        number(length.number("after"), lambda v: figures.decimal(v, 1)),
        number(_distance(history, stage), figures.decimal),
    ]


def _distance(history: History, stage: str) -> float | None:
    """The last that is known of how far a stage went."""
    known = _distances(history, stage)
    return known[-1][1] if known else None


def _distances(history: History, stage: str) -> list[tuple[float, float]]:
    """Divergence by update: of the stage's own figures where it has them, else of its looks."""
    own = points(history.of("update", stage), "step", "kl")
    return own or sorted(dict(points(history.of("divergence", stage), "step", "kl")).items())


def _stage(history: History, stage: str, shown: bool) -> Markup:
    """Charts and texts of one stage."""
    charts = [*_spreads(history, stage), *_over_updates(history, stage)]
    drawn = figure(panels(charts, level=4, four=False), None) if charts else None
    rows = history.of("beside", stage)
    texts: Child = None
    if rows:
        words = f"Side by side: {_what(rows[0])}"
        listed = beside(rows)
        texts = tag("div", tag("p", words, class_="note"), listed) if shown else behind(words, listed)
    return tag("div", tag("h3", stage), drawn, texts, class_="curves")


def _what(record: Record) -> str:
    """What the texts are: answers before and after by how much they changed, others as their record says."""
    of = record.text("of") or "texts"
    changed = [side.text("name") for side in record.items("sides")] == ["before", "after"]
    return f"what changed most of {of}, gains and losses" if changed else of


def _spreads(history: History, stage: str) -> list[Chart]:
    """A chart for each quantity whose distribution is known, the newest of each."""
    found: dict[str, Spread] = {}
    for record in history.of("distribution", stage):
        if (spread := spread_of(record)) is not None:
            found[spread.quantity] = spread
    drawn: list[Chart] = []
    for at, spread in enumerate(found.values()):
        keys = legend(
            [
                (index, "box", f"{group.name}, mean {figures.decimal(group.mean)}")
                for index, group in enumerate(spread.groups)
            ]
        )
        title = f"{spread.quantity[:80]} of {stage}"
        chart = columns(f"{stage}-{at}", title, spread)
        drawn.append((_heading(spread), join(keys, chart)))
    return drawn


def _heading(spread: Spread) -> Child:
    name = spread.quantity[:1].upper() + spread.quantity[1:]
    return join(name, tag("small", spread.of, class_="under") if spread.of else None)


def _over_updates(history: History, stage: str) -> list[Chart]:
    """Distance and length while the stage learnt, and what a stage that learns from pairs says of them."""
    updates, steps = history.of("update", stage), history.of("train", stage)
    looks = [] if points(updates, "step", "kl") else history.of("divergence", stage)
    whiskers = [
        (at, low, high)
        for record in looks
        if (at := record.number("step")) is not None
        and (low := record.number("lo")) is not None
        and (high := record.number("hi")) is not None
    ]
    drawn: list[tuple[Child, Markup | None]] = [
        (
            join(term("divergence"), " over updates"),
            curve(
                f"{stage}-divergence",
                "nats per answer",
                "update",
                [_distances(history, stage)],
                around=Around(whiskers=whiskers),
            ),
        ),
        ("Length over updates", _lengths(stage, updates)),
    ]
    for key, heading, unit in PAIRS:
        drawn.append((heading, curve(f"{stage}-{key}", unit, "update", [points(steps, "step", key)])))
    return [(heading, chart) for heading, chart in drawn if chart is not None]


def _lengths(stage: str, updates: Sequence[Record]) -> Markup | None:
    """Mean length, with what four answers in five lie between where that is known."""
    line = points(updates, "step", "length")
    known = [
        (at, values)
        for record in updates
        if (at := record.number("step")) is not None and len(values := record.numbers_of("lengths")) == 3
    ]
    band = ([(at, values[0]) for at, values in known], [(at, values[2]) for at, values in known])
    return curve(f"{stage}-length", "tokens", "update", [line], around=Around(band=band))
