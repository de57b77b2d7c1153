"""Lineage: from which stages every result came, down to the fingerprints."""

from __future__ import annotations

from kweek.report.charts import CHAR, both, figure, image, path_of
from kweek.report.glossary import term
from kweek.report.history import History, Stage
from kweek.report.markup import Child, Markup, join, plain, tag
from kweek.report.section import Missing, Section
from kweek.report.tables import Column, behind, table

TITLE = "Lineage"
ROW = 36  # pixels between stages


def section(history: History) -> Section | Missing:
    """The graph, one stage a row with arcs from its inputs, and the table of fingerprints."""
    stages = _ordered(history.stages)
    if not stages:
        return Missing(TITLE, "stages")
    edges = edges_of(stages)
    lede = join(
        "Every artifact carries the ",
        term("fingerprint", "fingerprint"),
        " of what made it: settings, inputs, code. A stage whose fingerprint has not changed is not run again.",
    )
    chart = both(lambda suffix, width: _graph(f"lineage-{suffix}", width, stages, edges))
    caption = "Arcs lead from a stage down to those that use its result. A hollow mark has no result yet."
    return Section(
        "lineage", TITLE, lede, [figure(chart, caption), behind("All fingerprints", _table(stages))]
    )


def edges_of(stages: list[Stage]) -> list[tuple[int, int]]:
    """Pairs (input, user) of positions: by name where the recipe says so, else by fingerprint."""
    by_name = {stage.name: index for index, stage in enumerate(stages)}
    by_print = {stage.fingerprint: index for index, stage in enumerate(stages) if stage.fingerprint}
    found: dict[tuple[int, int], None] = {}
    for user, stage in enumerate(stages):
        for source in stage.inputs.values():
            if source in by_name:
                found[by_name[source], user] = None
        lineage = stage.artifact.inner("lineage")
        for name in lineage.values:
            source_print = lineage.text(name)
            if source_print in by_print:
                found[by_print[source_print], user] = None
    return [pair for pair in found if pair[0] != pair[1]]


def _ordered(stages: list[Stage]) -> list[Stage]:
    """Inputs above those who use them, otherwise in the order of the recipe."""
    edges = edges_of(stages)
    waiting, done = list(range(len(stages))), list[int]()
    while waiting:
        ready = [i for i in waiting if all(source in done for source, user in edges if user == i)]
        chosen = ready[0] if ready else waiting[0]
        done.append(chosen)
        waiting.remove(chosen)
    return [stages[i] for i in done]


def _graph(key: str, width: int, stages: list[Stage], edges: list[tuple[int, int]]) -> Markup:
    longest = max((abs(user - source) for source, user in edges), default=0)
    reach = min(24 + 9.0 * longest, width * 0.3)
    x = reach + 14
    marks: list[Markup] = []
    for source, user in edges:
        top, bottom = _y(source), _y(user)
        # A cubic curve reaches three quarters of the way to its control points.
        bend = x - 8 - (14 + (reach - 14) * (abs(user - source) / max(longest, 1)) ** 0.8) * 4 / 3
        path = f"M{plain(x - 8)} {top}C{plain(bend)} {top} {plain(bend)} {bottom} {plain(x - 8)} {bottom}"
        marks.append(tag("path", d=path, class_="arc"))
        tip = [(x - 13, bottom - 4), (x - 8, bottom), (x - 13, bottom + 4)]
        marks.append(tag("path", d=path_of(tip), class_="tip"))
    kinds = x + 32 + max(len(stage.name) for stage in stages) * CHAR * 1.1
    for index, stage in enumerate(stages):
        y = _y(index)
        marks.append(tag("circle", cx=x, cy=y, r=6, class_="node" if stage.finished else "open"))
        marks.append(tag("text", stage.name, x=x + 16, y=y + 4, class_="row"))
        if width > 500:
            marks.append(tag("text", stage.kind, x=kinds, y=y + 4))
        shown = stage.fingerprint[:12] or stage.status
        marks.append(tag("text", shown, x=width, y=y + 4, text_anchor="end", class_="code"))
    names = [(stages[source].name, stages[user].name) for source, user in edges]
    description = "; ".join(f"{user} uses {source}" for source, user in names) or "No stage uses another."
    return image(key, "Stages and what they are made from", description, width, len(stages) * ROW, marks)


def _y(index: int) -> float:
    return index * ROW + ROW / 2


def _table(stages: list[Stage]) -> Markup:
    columns = [Column("Stage"), Column("Kind"), Column("State"), Column("Fingerprint"), Column("Inputs")]
    rows: list[list[Child]] = []
    for stage in stages:
        lineage = stage.artifact.inner("lineage")
        sources = ", ".join(f"{role}: {(lineage.text(role) or '?')[:12]}" for role in lineage.values)
        if not sources:
            sources = ", ".join(f"{role}: {source}" for role, source in stage.inputs.items())
        shown = tag("code", stage.fingerprint or "none yet", class_="hash")
        rows.append([stage.name, stage.kind, stage.status, shown, tag("code", sources, class_="hash")])
    return table("Stages with their fingerprints", columns, rows, name="Fingerprints")
