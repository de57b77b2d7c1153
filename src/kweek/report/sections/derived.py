"""Derived settings: what followed from the budget and the machine, each beside its rule."""

from __future__ import annotations

from kweek.report.glossary import term
from kweek.report.history import History, as_number
from kweek.report.markup import Child, join, tag
from kweek.report.section import Missing, Section
from kweek.report.tables import Column, number, table

TITLE = "What was derived"


def section(history: History) -> Section | Missing:
    """One row for each derived setting."""
    records = history.of("derived")
    if not records:
        return Missing(TITLE, "derived settings (records “derived”)")
    lede = join(
        "Nobody chose these numbers: each ",
        term("derived", "derived setting"),
        " follows from the budget, the machine and the small runs by the rule beside it, and can be pinned by hand.",
    )
    rows: list[list[Child]] = []
    for record in records:
        found = record.values.get("value")
        value = as_number(found)
        if isinstance(found, bool):
            shown: Child = "yes" if found else "no"
        else:
            shown = number(value) if value is not None else record.name("value")
        rows.append([tag("code", record.name("name")), shown, record.text("rule") or ""])
    columns = [Column("Setting"), Column("Value", "number"), Column("Rule", "prose")]
    return Section(
        "derived", TITLE, lede, table("Derived settings and their rules", columns, rows, name="Derived")
    )
