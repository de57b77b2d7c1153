"""Learning: the curves of every training stage, one small chart for each quantity."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from kweek.report import figures
from kweek.report.charts import figure, legend, panels
from kweek.report.curves import curve, points
from kweek.report.glossary import term
from kweek.report.history import History, Record
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.section import Missing, Section
from kweek.report.tables import Column, behind, number, table

TITLE = "Learning curves"
IN_A_ROW = 3  # charts of a stage that are shown at once; more would hide what matters
REWARDS = ("reward of the samples", "held-out, greedy")
Chart = tuple[Child, Markup]


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
        (term("loss"), curve(f"{stage}-loss", "nats per token", label, [points(steps, across, "loss")]))
    ]
    if sources := _sources(checks):
        lines = [points(checks, across, source, "bits_per_byte") for source in sources]
        heading = join(term("bits_per_byte"), ", held-out")
        drawn.append((heading, curve(f"{stage}-bits", "bits per byte", label, lines, names=sources)))
    for key in ("gradient_norm", "learning_rate", "tokens_per_second"):
        found = points(steps, across, key)
        drawn.append((term(key), curve(f"{stage}-{key}", "", label, [found])))
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


def _updates(history: History, stage: str) -> list[Chart]:
    updates = history.of("update", stage)
    gold = points(updates, "step", "gold")
    curves = [points(updates, "step", "reward"), *([gold] if gold else [])]
    drawn: list[tuple[Child, Markup | None]] = [
        (term("reward"), curve(f"{stage}-reward", "share", "update", curves, names=REWARDS[: len(curves)]))
    ]
    for key, unit, words in (
        ("entropy", "nats", term("entropy")),
        ("tool_share", "share", term("tool_share")),
        ("groups_skipped", "groups", join(term("group", "Groups"), " without a signal")),
    ):
        drawn.append((words, curve(f"{stage}-{key}", unit, "update", [points(updates, "step", key)])))
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
