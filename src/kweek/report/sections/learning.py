"""Learning: the curves of every training stage, one small chart for each quantity."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from kweek.report import figures
from kweek.report.charts import PANEL, Plot, Point, figure, legend, panels, thinned
from kweek.report.glossary import term
from kweek.report.history import History, Record
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.scales import Axis, extent
from kweek.report.section import Missing, Section
from kweek.report.tables import Column, behind, number, table

TITLE = "Learning curves"
HEIGHT = 200
IN_A_ROW = 3  # charts of a stage that are shown at once; more would hide what matters
REWARDS = ("reward of the samples", "held-out, greedy")
Chart = tuple[Child, Markup]
Writer = Callable[[float], str]


def section(history: History) -> Section | Missing:
    """Curves of training and of reinforcement learning, and the settings that SFT chose from."""
    checked = history.stages_with("validation")
    trained = {
        stage: charts for stage in history.stages_with("train") if (charts := _training(history, stage))
    }
    updated = {
        stage: charts for stage in history.stages_with("update") if (charts := _updates(history, stage))
    }
    later = {stage: charts for stage, charts in trained.items() if stage not in checked}
    rows = [_row(history, stage, charts) for stage, charts in trained.items() if stage in checked]
    rows += [_side_by_side(later)] if later else []
    rows += [_row(history, stage, charts) for stage, charts in updated.items()]
    settings = history.of("setting")
    if not rows and not settings:
        return Missing(TITLE, "training steps (records “train” or “update”)")
    lede = join(
        term("loss", "Loss"),
        " is what training makes smaller; what counts is text it was not trained on, and for ",
        term("reinforcement", "reinforcement learning"),
        " the questions it has not seen.",
    )
    return Section("learning", TITLE, lede, [*rows, _settings(settings) if settings else None])


def _row(history: History, stage: str, charts: list[Chart]) -> Markup:
    """The first charts of a stage in one row, the others folded away."""
    steps, checks = history.of("train", stage), history.of("validation", stage)
    names = _sources(checks)
    if any(record.number("gold") is not None for record in history.of("update", stage)):
        names = [*REWARDS]
    keys = legend([(index, "line", name) for index, name in enumerate(names)]) if len(names) > 1 else None
    drawn = figure(panels(charts[:IN_A_ROW], level=4), _last(steps, checks), keys)
    rest = panels(charts[IN_A_ROW:], level=4)
    folded = behind(f"More curves of {stage}", rest) if len(charts) > IN_A_ROW else None
    return tag("div", tag("h3", stage), drawn, folded, class_="curves")


def _side_by_side(stages: dict[str, list[Chart]]) -> Markup:
    """Stages that only have a loss to show: one chart for each, the others folded away."""
    drawn = figure(panels([(stage, charts[0][1]) for stage, charts in stages.items()], level=4), None)
    folded = [
        behind(f"More curves of {stage}", panels(charts[1:], level=4))
        for stage, charts in stages.items()
        if charts[1:]
    ]
    return tag("div", tag("h3", "Loss of the later stages"), drawn, folded, class_="curves")


def _training(history: History, stage: str) -> list[Chart]:
    steps, checks = history.of("train", stage), history.of("validation", stage)
    across = _across(steps, checks)
    label = "tokens read" if across == "tokens" else "step"
    drawn: list[tuple[Child, Markup | None]] = [
        (term("loss"), _curve(f"{stage}-loss", "nats per token", label, [_points(steps, across, "loss")]))
    ]
    if sources := _sources(checks):
        lines = [_points(checks, across, source, "bits_per_byte") for source in sources]
        heading = join(term("bits_per_byte"), ", held-out")
        drawn.append((heading, _curve(f"{stage}-bits", "bits per byte", label, lines, names=sources)))
    for key in ("gradient_norm", "learning_rate", "tokens_per_second"):
        found = _points(steps, across, key)
        drawn.append((term(key), _curve(f"{stage}-{key}", "", label, [found])))
    return [(heading, chart) for heading, chart in drawn if chart is not None]


def _across(steps: Sequence[Record], checks: Sequence[Record]) -> str:
    """What the curves run along: tokens where every record counts them upwards, else steps.

    Several settings trained one after another count tokens anew, and a curve must not run backwards.
    """
    for records in (steps, checks):
        counts = [record.number("tokens") for record in records]
        known = [count for count in counts if count is not None]
        if len(known) < len(counts) or any(b < a for a, b in itertools.pairwise(known)):
            return "step"
    return "tokens"


def _sources(checks: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(str(name) for check in checks for name in check.inner("bits_per_byte").values))


def _last(steps: Sequence[Record], checks: Sequence[Record]) -> Child:
    losses = [record for record in steps if record.number("loss") is not None]
    words: list[Child] = []
    if losses:
        words += ["Last loss ", number(losses[-1].number("loss"), figures.bits), " nats per token"]
    if checks and (values := checks[-1].inner("bits_per_byte").numbers()):
        words.append("; held-out ")
        for index, (source, value) in enumerate(values.items()):
            words += [", " if index else None, source, " ", number(value, figures.bits)]
    return join(*words, ".") if words else None


def _points(records: Sequence[Record], across: str, key: str, within: str | None = None) -> list[Point]:
    found = []
    for record in records:
        x, y = record.number(across), (record.inner(within) if within else record).number(key)
        if x is not None and y is not None:
            found.append((x, y))
    return found


def _curve(
    key: str,
    unit: str,
    label: str,
    lines: Sequence[Sequence[Point]],
    *,
    names: Sequence[str] = (),
    write: Writer = figures.tick,
) -> Markup | None:
    every = [point for line in lines for point in line]
    if len(every) < 2:
        return None
    lines = [thinned(line) for line in lines]
    first, last = min(x for x, _ in every), max(x for x, _ in every)
    low, high = extent([y for line in lines for _, y in line])
    if min(y for _, y in every) >= 0:
        low = max(low, 0.0)
    ends = "; ".join(
        f"{name + ' ' if name else ''}from {figures.value(line[0][1])} to {figures.value(line[-1][1])}"
        for name, line in zip(names or [""] * len(lines), lines, strict=True)
        if line
    )
    what = key.replace("-", ", ").replace("_", " ")
    plot = Plot(
        f"curve-{key}",
        f"{what} by {label}",
        f"{ends}.",
        Axis(label, first, last, figures.tick),
        Axis(unit, low, high, write),
        width=PANEL,
        height=HEIGHT,
    )
    for index, line in enumerate(lines):
        plot.line(line, index)
    return plot.svg()


def _updates(history: History, stage: str) -> list[Chart]:
    updates = history.of("update", stage)
    gold = _points(updates, "step", "gold")
    curves = [_points(updates, "step", "reward"), *([gold] if gold else [])]
    drawn: list[tuple[Child, Markup | None]] = [
        (term("reward"), _curve(f"{stage}-reward", "share", "update", curves, names=REWARDS[: len(curves)]))
    ]
    for key, unit, words in (
        ("length", "tokens", "Length of an answer"),
        ("entropy", "nats", term("entropy")),
        ("tool_share", "share", term("tool_share")),
        ("groups_skipped", "groups", join(term("group", "Groups"), " without a signal")),
    ):
        drawn.append((words, _curve(f"{stage}-{key}", unit, "update", [_points(updates, "step", key)])))
    return [(heading, chart) for heading, chart in drawn if chart is not None]


def _settings(settings: Sequence[Record]) -> Markup:
    columns = [
        Column("Stage"),
        Column("Setting", "short"),
        Column(term("learning_rate"), "number"),
        Column(term("epoch", "Epochs"), "number"),
        Column("Accuracy on validation", "number"),
        Column("Chosen"),
    ]
    rows: list[list[Child]] = [
        [
            record.stage,
            record.name("name"),
            number(record.number("learning_rate")),
            number(record.number("epochs")),
            number(record.number("accuracy"), figures.percent),
            "chosen" if record.flag("chosen") else "",
        ]
        for record in settings
    ]
    caption = join("Settings that ", term("sft", "fine-tuning"), " chose from")
    return table(caption, columns, rows, name="Settings")
