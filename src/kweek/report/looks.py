"""Looks: what each guard saw while a stage learnt, over time, with its thresholds and its verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kweek.report import figures
from kweek.report.charts import figure, legend, panels
from kweek.report.curves import Around, curve
from kweek.report.glossary import term
from kweek.report.history import History, Record
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.tables import Column, behind, number, table
from kweek.report.transcript import shortened

QUESTIONS = {  # what the usual guards ask; others stand by their names alone
    "sign": "Are better answers rewarded more, and made likelier?",
    "hacking": "Does another judgement of held-out answers rise with the reward?",
    "collapse": "Does the policy still say various things, in finite numbers?",
    "panel": "What did the stage cost of what the model could before?",
    "probes": "Does text stay likely, do samples stay varied, are secrets unknown?",
    "displacement": "Do preferred answers keep their likelihood?",
}
WORDS = {"ok": "nothing", "warn": "warned", "stop": "stopped the stage", "fail": "too much was lost"}
WORST = ("ok", "warn", "fail", "stop")
PROBES = "probes"
TOGETHER = {"proxy": "gold"}  # figures of one scale, whose scissors are what the guard looks for
MOST_FIGURES = 12  # of one guard that are drawn
TEXT = 400  # characters of what a guard said


@dataclass
class Watch:
    """One guard of one stage.

    Attributes:
        steps: at which it looked.
        verdict: the worst it gave.
        said: with the worst verdict, the last time.
        seen: each figure over the steps.
        limits: the threshold of a figure, over the steps where it was told.
    """

    stage: str
    name: str
    steps: set[float] = field(default_factory=set)
    verdict: str = "ok"
    said: str = ""
    seen: dict[str, dict[float, float]] = field(default_factory=dict)
    limits: dict[str, dict[float, float]] = field(default_factory=dict)

    def hear(self, verdict: str, text: str) -> None:
        """Take a verdict; of several the worst counts, of equal ones the last."""
        known = verdict if verdict in WORST else "warn"
        if WORST.index(known) >= WORST.index(self.verdict):
            self.verdict, self.said = known, text or self.said


def watches(history: History) -> list[Watch]:
    """Every guard of every stage, from the records `guard`, `probe` and `panel`."""
    found: dict[tuple[str, str], Watch] = {}

    def watch(stage: str, name: str) -> Watch:
        return found.setdefault((stage, name), Watch(stage, name))

    for record in history.of("guard"):
        one, step = watch(record.stage, record.name("name")), _step(record)
        one.steps.add(step)
        one.hear(record.text("verdict") or "ok", record.text("text") or "")
        for key, seen in record.inner("figures").numbers().items():
            one.seen.setdefault(key, {})[step] = seen
        for key, threshold in record.inner("limits").numbers().items():
            one.limits.setdefault(key, {})[step] = threshold
    for record in history.of("probe"):
        one, step, name = watch(record.stage, PROBES), _step(record), record.name("name")
        value, limit = record.number("value"), record.number("limit")
        one.steps.add(step)
        if value is not None:
            one.seen.setdefault(name, {})[step] = value
        if limit is not None:
            one.limits.setdefault(name, {})[step] = limit
    for record in history.of("panel"):
        watch(record.stage, "panel").hear(record.text("verdict") or "ok", "")
    order = {stage.name: at for at, stage in enumerate(history.stages)}
    return sorted(found.values(), key=lambda one: order.get(one.stage, len(order)))


def _step(record: Record) -> float:
    """The update of a record; what came before the first counts as 0."""
    return record.number("step") or 0.0


def looks(history: History) -> list[Child]:
    """A table of all guards, and behind it what each saw over time."""
    found = watches(history)
    if not found:
        return []
    columns = [
        Column("Stage"),
        Column(term("guard"), "long"),
        Column("Looks", "number"),
        Column("Last seen at", "number"),
        Column("It found"),
    ]
    rows: list[list[Child]] = []
    for one in found:
        asks = QUESTIONS.get(one.name)
        rows.append(
            [
                one.stage,
                [shortened(one.name, 80), tag("small", asks, class_="under") if asks else None],
                number(float(max(len(one.steps), 1)), figures.whole, computed=True),
                number(max(one.steps, default=None), figures.whole),
                _verdict(one),
            ]
        )
    note = "Looks are updates after which something was recorded; the charts show every figure of each guard."
    drawn = table("What the guards saw", columns, rows, name="What the guards saw", note=note)
    return [drawn, *(_charts(stage, [w for w in found if w.stage == stage]) for stage in _stages(found))]


def _stages(found: Sequence[Watch]) -> list[str]:
    return list(dict.fromkeys(one.stage for one in found if one.seen))


def _verdict(one: Watch) -> Child:
    fine = one.verdict == "ok"
    sign = tag("span", "✓ " if fine else "✗ ", aria_hidden="true", class_="sign")
    word = tag("span", sign, WORDS[one.verdict], class_=["mark", "right" if fine else "wrong"])
    return [word, tag("small", shortened(one.said, TEXT), class_="under", dir="auto") if one.said else None]


def _charts(stage: str, found: Sequence[Watch]) -> Markup:
    """Every figure of a stage's guards over its updates, each with its threshold where there is one."""
    drawn: list[tuple[Child, Markup]] = []
    single: list[list[Child]] = []
    for at, one in enumerate(found):
        beside = {later for first, later in TOGETHER.items() if {first, later} <= one.seen.keys()}
        names = [name for name in one.seen if name not in beside][:MOST_FIGURES]
        for place, name in enumerate(names):
            partner = TOGETHER.get(name)
            both = [name, partner] if partner in beside else [name]
            chart = _chart(f"look-{stage}-{at}-{place}", one, both)
            if chart is not None:
                heading = join(_plain(" and ".join(both)), tag("small", _plain(one.name), class_="under"))
                drawn.append((heading, chart))
            else:
                single += [_seen_once(one, each) for each in both]
    columns = [
        Column("Guard"),
        Column("Figure"),
        Column("Update", "number"),
        Column("Value", "number"),
        Column("Threshold", "number"),
    ]
    charts = figure(panels(drawn, four=False), "A dashed line is a threshold.") if drawn else None
    once = table(f"Seen once in {stage}", columns, single, name=f"Seen once in {stage}") if single else None
    return behind(f"What the guards of {stage} saw, over time", charts, once)


def _chart(key: str, one: Watch, names: Sequence[str]) -> Markup | None:
    """One figure, or two of one scale, with the first threshold that any of them has."""
    limits = [one.limits[name] for name in names if name in one.limits]
    seen, limit = one.seen[names[0]], sorted(limits[0].items() if limits else ())
    if len(limit) == 1:  # one threshold for the whole run
        limit = [(min(seen), limit[0][1]), (max(seen), limit[0][1])]
    lines = [sorted(one.seen[name].items()) for name in names]
    chart = curve(key, "", "update", lines, names=names if len(names) > 1 else (), around=Around(limit=limit))
    if chart is None or len(names) == 1:
        return chart
    return join(legend([(index, "line", _plain(name)) for index, name in enumerate(names)]), chart)


def _seen_once(one: Watch, name: str) -> list[Child]:
    """A row of the table of figures too few to draw."""
    step, value = next(iter(one.seen[name].items()))
    threshold = next(iter(one.limits.get(name, {}).values()), None)
    return [
        _plain(one.name), _plain(name), number(step, figures.whole), number(value), number(threshold),
    ]  # fmt: skip


def _plain(name: str) -> str:
    return shortened(name.replace("_", " "), 80)
