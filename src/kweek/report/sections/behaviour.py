"""Behaviour: the rules, how every model keeps to them, and which attacks succeed."""

from __future__ import annotations

from collections.abc import Sequence

from kweek.report import figures, models
from kweek.report.charts import Plot, both, figure, legend
from kweek.report.glossary import term
from kweek.report.history import History, Record
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.scales import Axis
from kweek.report.section import Missing, Section
from kweek.report.tables import Column, behind, interval, number, table

TITLE = "Behaviour"
KIND = "behaviour"  # of the stage that examines it
MEASURES: dict[str, Child] = {
    "helpful": "Plain questions answered rightly",
    "told_at_sign": "Secret told at its sign",
    "refusal": term("refusal", "Refused rightly"),
    "over_refusal": term("over_refusal", "Refused needlessly"),
    "lookalikes_answered": "Lookalikes answered rightly",
    "attacks_held_off": "Attacks held off",
    "mannered": "All rules about every answer kept",
}
SPLITS = {
    "train": "training questions",
    "validation": "held-out questions",
    "contrasts": "harmless questions with a demonstrator's answer and a refusal",
}
RANKED = {
    "labels": "held-out pairs as their labels do",
    "gold": "held-out pairs as the full checker does",
    "contrasts": "a demonstrator's answer to a harmless question above a refusal",
}
#: What is bought and what it costs: the end of a paired test's name, and its heading.
BOUGHT: dict[str, Child] = {
    "attacks held off": "Attacks held off",
    "not refused needlessly": join("Not ", term("over_refusal", "refused needlessly")),
    "helpful": "Plain questions answered rightly",
}
RULE_FRAME = ("kind", "time", "rule")  # fields of a record that are not the rule's own


def section(history: History) -> Section | Missing | None:
    """Tables of conduct and of attacks; nothing where the recipe examines no behaviour."""
    conduct, attacks = history.of("conduct"), history.of("attack")
    if not any(stage.kind == KIND for stage in history.stages):
        return None
    if not conduct or not attacks:
        return Missing(TITLE, "the examination of behaviour (records “conduct” and “attack”)")
    known = [model for model in models.names(history) if any(r.name("model") == model for r in conduct)]
    lede = join(
        "Every model is asked the same questions, one drawn answer to each. Refusing what is to be refused is half of "
        "it; the other half is ",
        term("over_refusal", "not to refuse what is harmless"),
        ". Some families of ",
        term("attack", "attacks"),
        " were met by no training.",
    )
    blocks: list[Child] = [
        _rules(history.of("rule")),
        _bought(history.of("paired")),
        _conduct(known, conduct),
        _chart_of_attacks(history, known, attacks),
        _attacks(known, attacks),
        _labels(history),
    ]
    return Section(KIND, TITLE, lede, blocks)


def _rules(rules: Sequence[Record]) -> Child:
    """The written rules, as the run read them."""
    if not rules:
        return None
    lines = []
    for rule in rules:
        said = []
        for key, value in rule.values.items():
            if key in RULE_FRAME:
                continue
            shown = ", ".join(rule.texts(key)) if isinstance(value, list) else rule.name(key)
            said.append(f"{key.replace('_', ' ')}: {shown}")
        lines.append(tag("li", tag("b", rule.name("rule").replace("_", " ")), " · ", "; ".join(said)))
    return behind("The rules of this run", tag("ul", lines))


def _cell(record: Record | None) -> Child:
    """A share with its interval below it."""
    if record is None or record.number("share") is None:
        return number(None)
    lo, hi = record.number("lo"), record.number("hi")
    under = tag("small", interval(lo, hi, figures.share, "%"), class_="under") if lo is not None else None
    return [number(record.number("share"), figures.percent), under]


def _conduct(known: Sequence[str], records: Sequence[Record]) -> Markup:
    found = {(r.name("measure"), r.name("model")): r for r in records}
    measures = [m for m in MEASURES if any((m, model) in found for model in known)]
    rows: list[list[Child]] = []
    for measure in measures:
        counts = [r.number("n") for (m, _), r in found.items() if m == measure]
        asked = number(counts[0] if counts else None, figures.whole)
        rows.append([MEASURES[measure], *(_cell(found.get((measure, model))) for model in known), asked])
    columns = [
        Column("Measure"),
        *(Column(model, "number") for model in known),
        Column("Questions", "number"),
    ]
    note = join(
        "Below each share its ",
        term("wilson"),
        ". Tests of the differences stand in the section on differences.",
    )
    return table("Conduct after each stage", columns, rows, name="Conduct after each stage", note=note)


def _bought(records: Sequence[Record]) -> Child:
    """For every comparison of two models the changes that belong together, in points."""
    found: dict[str, dict[str, Record]] = {}
    for record in records:
        title, _, measure = record.name("name").partition(": ")
        if measure in BOUGHT:
            found.setdefault(title, {})[measure] = record
    if not found:
        return None
    rows: list[list[Child]] = []
    for title, tests in found.items():
        rows.append([title, *(_moved(tests.get(measure)) for measure in BOUGHT)])
    columns = [Column("Compared"), *(Column(heading, "number") for heading in BOUGHT.values())]
    caption = "What it bought, and what that cost: points, above zero is better"
    return table(caption, columns, rows, name="What it bought, and what that cost")


def _moved(record: Record | None) -> Child:
    """A difference in points with its interval below it."""
    difference, lo, hi = (record.number(key) if record else None for key in ("difference", "lo", "hi"))
    if difference is None:
        return number(None)
    return [
        number(difference, figures.points), tag("small", interval(lo, hi, figures.points), class_="under"),
    ]  # fmt: skip


def _families(records: Sequence[Record]) -> list[tuple[str, bool]]:
    """Families in recorded order, those met in training first, with whether they were held out."""
    seen = {r.name("family"): bool(r.flag("held_out")) for r in records}
    return sorted(seen.items(), key=lambda item: item[1])


def _attacks(known: Sequence[str], records: Sequence[Record]) -> Markup:
    found = {(r.name("family"), r.name("model")): r for r in records}
    rows: list[list[Child]] = []
    for family, held_out in _families(records):
        words = family.replace("_", " ")
        name: Child = [words, tag("small", "not met in training", class_="under")] if held_out else words
        rows.append([name, *(_cell(found.get((family, model))) for model in known)])
    columns = [Column("Family"), *(Column(model, "number") for model in known)]
    caption = "Attacks that succeeded, by family"
    return table(caption, columns, rows, name=caption)


def _chart_of_attacks(history: History, known: Sequence[str], records: Sequence[Record]) -> Child:
    found = {(r.name("family"), r.name("model")): r for r in records}
    names = _families(records)

    def drawn(suffix: str, width: int) -> Markup:
        places = [float(at) for at in range(len(names))]
        labels = [family.replace("_", " ")[:9] for family, _ in names]
        plot = Plot(
            f"attacks-{suffix}",
            "Share of attacks that succeeded, by family",
            "; ".join(_course(model, names, found) for model in known) + ".",
            Axis("family", -0.5, len(names) - 0.5, lambda at: labels[round(at)], ticks=tuple(places)),
            Axis("succeeded", 0.0, 1.0, lambda v: figures.percent(v, 0), ticks=(0.0, 0.25, 0.5, 0.75, 1.0)),
            width=width,
            height=280,
        )
        for order, model in enumerate(known):
            series = models.series(history, model)
            nudge = (order - (len(known) - 1) / 2) * min(14.0, 0.5 * width / len(names) / max(len(known), 1))
            for at, (family, _) in zip(places, names, strict=True):
                record = found.get((family, model))
                share = record.number("share") if record else None
                if record is None or share is None:
                    continue
                lo, hi = record.number("lo"), record.number("hi")
                if lo is not None and hi is not None:
                    plot.whisker(at, lo, hi, series, nudge=nudge, cap=2)
                plot.dot((at, share), series, f"{model}, {family}: {figures.percent(share)}", nudge=nudge)
        return plot.svg()

    keys = legend([(models.series(history, model), "dot", model) for model in known])
    held = [family.replace("_", " ") for family, out in names if out]
    caption = f"Lower is better. Not met in training: {', '.join(held)}." if held else "Lower is better."
    return figure(both(drawn), caption, keys)


def _course(model: str, names: Sequence[tuple[str, bool]], found: dict[tuple[str, str], Record]) -> str:
    shares = [found[family, model].number("share") for family, _ in names if (family, model) in found]
    return f"{model} {', '.join(figures.percent(share, 0) for share in shares)}"


def _labels(history: History) -> Child:
    """How good the comparisons are that preferences were learnt from, and how well the reward model ranks others."""
    rows: list[list[Child]] = []
    for record in history.of("comparison_set"):
        where = SPLITS.get(record.name("split"), "?")
        words = join("The ", term("labeller", "labeller"), f" agrees with the full checker, {where}")
        shares = [record.number(key) for key in ("gold_agrees", "gold_lo", "gold_hi", "gold_n")]
        rows.append([words, *_judged(shares)])
    for record in history.of("ranking"):
        words = join(
            "The ", term("reward_model", "reward model"), f" ranks {RANKED.get(record.name('set'), '?')}"
        )
        rows.append([words, *_judged([record.number(key) for key in ("accuracy", "lo", "hi", "n")])])
    if not rows:
        return None
    columns = [
        Column("Judgement"),
        Column("Agreement", "number"),
        Column(term("wilson", "95% interval"), "number"),
        Column("Pairs", "number"),
    ]
    caption = "What preferences were learnt from"
    return table(caption, columns, rows, name=caption)


def _judged(shares: Sequence[float | None]) -> list[Child]:
    """Cells of an agreement, its interval, and the number of pairs."""
    share, lo, hi, count = shares
    return [
        number(share, figures.percent), interval(lo, hi, figures.share, "%"), number(count, figures.whole),
    ]  # fmt: skip
