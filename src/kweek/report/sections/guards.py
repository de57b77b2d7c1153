"""Guards: what was tried to fool the verifier, whether the reward pushed the right way, what was seen meanwhile."""

from __future__ import annotations

from kweek.report import figures
from kweek.report.glossary import term
from kweek.report.history import History, Record
from kweek.report.looks import looks
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.section import Missing, Section
from kweek.report.tables import Column, behind, number, table
from kweek.report.transcript import shortened

TITLE = "Guards"
FEW = 12  # attempts that are shown without being asked for; a thorough audit makes forty
FRAME = ("kind", "time", "step", "passed")  # fields of a record that are not its findings


def section(history: History) -> Section | Missing:
    """Attacks on the verifier, the check of the sign, and what every guard saw while a stage learnt."""
    audits, signs, seen = history.of("audit"), history.of("sign"), looks(history)
    if not audits and not signs and not seen:
        return Missing(TITLE, "checks before and during alignment (records “audit”, “sign” and “guard”)")
    lede = join(
        "Whatever a verifier rewards is what training produces. So it is ",
        term("verifier_audit", "audited"),
        " before it may train anything, and a ",
        term("sign_check", "sign check"),
        " comes before the first update. Then ",
        term("guard", "guards"),
        " watch every stage.",
    )
    tables: dict[str, tuple[list[str], list[Record]]] = {}
    for stage in history.stages_with("audit"):
        records = history.of("audit", stage)
        found = repr([{k: v for k, v in r.values.items() if k not in FRAME[:2]} for r in records])
        tables.setdefault(found, ([], records))[0].append(stage)  # stages with equal findings share a table
    blocks: list[Child] = [_audit(stages, records) for stages, records in tables.values()]
    return Section("guards", TITLE, lede, [*seen[:1], *blocks, _signs(signs), *seen[1:]])


def passed(found: bool | None) -> Markup:
    """Whether a check passed, by sign and word."""
    if found is None:
        return tag("span", figures.NONE, class_="none")
    sign = tag("span", "✓" if found else "✗", aria_hidden="true", class_="sign")
    return tag(
        "span", sign, " passed" if found else " failed", class_=["mark", "right" if found else "wrong"]
    )


def _audit(stages: list[str], records: list[Record]) -> Markup:
    columns = [
        Column("Attack"),
        Column("Mean score", "number"),
        Column("Allowed", "number"),
        Column("Verdict"),
    ]
    examples = any(record.text("example") for record in records)
    if examples:
        columns.append(Column("Example", "prose"))
    rows: list[list[Child]] = []
    for record in records:
        at_least = record.flag("at_least")
        if at_least is None:  # without word of it, only right answers must reach their limit
            at_least = record.name("attack").startswith("gold") and record.number("limit") == 1
        limit = ["at least " if at_least else "at most ", number(record.number("limit"), figures.decimal)]
        score = number(record.number("score"), lambda v: figures.decimal(v, 3))
        row: list[Child] = [record.name("attack"), score, limit, passed(record.flag("passed"))]
        if examples:
            row.append(tag("code", shortened(record.text("example") or "", 80), dir="auto"))
        rows.append(row)
    of = " and ".join(stages)
    shown = table(
        join(term("verifier_audit"), f" before {of}"), columns, rows, name=f"Verifier audit before {of}"
    )
    if len(records) <= FEW or any(record.flag("passed") is not True for record in records):
        return shown
    count = number(float(len(records)), figures.whole, computed=True)
    return behind(
        join("The verifier before ", of, ": all ", count, " attempts to fool or break it failed"), shown
    )


def _signs(signs: list[Record]) -> Child:
    if not signs:
        return None
    keys = list(dict.fromkeys(key for record in signs for key in record.numbers() if key not in FRAME))
    columns = [Column("Stage"), *(Column(key.replace("_", " ").capitalize(), "number") for key in keys)]
    columns.append(Column("Verdict"))
    rows: list[list[Child]] = [
        [record.stage, *(number(record.number(key)) for key in keys), passed(record.flag("passed"))]
        for record in signs
    ]
    note = "Margin: mean log-probability of the right answer less that of the wrong one, before and after an update."
    return table(
        term("sign_check"), columns, rows, name="Sign check", note=note if "margin_before" in keys else None
    )
