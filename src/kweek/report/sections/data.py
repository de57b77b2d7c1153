"""The data: what was read, what each step of cleaning left, and how the tokenizer cuts it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from kweek.report import figures
from kweek.report.bars import Part, size_mark, stacked
from kweek.report.charts import both, figure, legend
from kweek.report.glossary import term
from kweek.report.history import History, Record
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.section import Missing, Section
from kweek.report.tables import Column, behind, number, table

TITLE = "The data"
DROPPED = "dropped"  # the step of funnel records that say what a rule took out, not what is left
MOST_REJECTED = 20  # enough to see what kind of file was refused; the full list lies in the artifact


def section(history: History) -> Section | Missing:
    """The funnel, refused files, bytes per token."""
    blocks = [_funnel(history, stage) for stage in history.stages_with("funnel")]
    blocks += [_rejected(history, stage.name) for stage in history.stages]
    blocks += [_mix(history, stage) for stage in history.stages_with("share")]
    blocks += [_bytes_per_token(history, stage) for stage in history.stages_with("bytes_per_token")]
    if not any(block is not None for block in blocks):
        return Missing(TITLE, "counts of documents (records “funnel” or “bytes_per_token”)")
    lede = join(
        "What was read and what is left after each step: the ",
        term("documents_funnel", "data funnel"),
        ". Splits are made by a hash of the content, so nothing in the test set was trained on.",
    )
    return Section("data", TITLE, lede, blocks)


def _funnel(history: History, stage: str) -> Child:
    rows_of_steps = [record for record in history.of("funnel", stage) if record.name("step") != DROPPED]
    counts = {(record.name("step"), record.name("source")): record for record in rows_of_steps}
    steps = list(dict.fromkeys(step for step, _ in counts))
    sources = list(dict.fromkeys(source for _, source in counts))
    rows: list[tuple[str, Sequence[Part], str]] = []
    for step in steps:
        parts = []
        for index, source in enumerate(sources):
            record = counts.get((step, source))
            size = (record.number("bytes") if record else None) or 0.0
            documents = record.number("documents") if record else None
            words = f"{source}: {figures.num_bytes(size)}, {figures.whole(documents)} documents"
            parts.append((index, size, words, ""))
        rows.append((step, parts, figures.num_bytes(sum(size for _, size, _, _ in parts))))
    most = max((sum(size for _, size, _, _ in parts) for _, parts, _ in rows), default=0.0)
    chart = both(
        lambda suffix, width: stacked(
            f"funnel-{stage}-{suffix}",
            "Bytes left after each step, by source",
            "; ".join(f"{step}: {total}" for step, _, total in rows) + ".",
            rows,
            width,
            most=most,
        )
    )
    keys = legend([(index, "box", source) for index, source in enumerate(sources)])
    drawn = figure(chart, "Bytes of text after each step, stacked by source.", keys)
    details = behind("Documents and bytes at every step", _funnel_table(counts, steps, sources))
    return [drawn, details, _dropped(history, stage)]


def _funnel_table(counts: dict[tuple[str, str], Record], steps: list[str], sources: list[str]) -> Markup:
    columns = [Column("Step"), Column("Source"), Column("Documents", "number"), Column("Bytes", "number")]
    rows = []
    for step in steps:
        for source in sources:
            record = counts.get((step, source))
            if record is not None:
                cells = (record.number("documents"), record.number("bytes"))
                rows.append([step, source, *(number(cell, figures.whole) for cell in cells)])
    return table("The data funnel", columns, rows, name="Data funnel")


def _dropped(history: History, stage: str) -> Child:
    """What each rule of cleaning took out."""
    found = [record for record in history.of("funnel", stage) if record.name("step") == DROPPED]
    if not found:
        return None
    columns = [Column("Rule"), Column("Source"), Column("Documents", "number"), Column("Bytes", "number")]
    rows: list[list[Child]] = []
    for record in found:
        cells = [number(record.number(key), figures.whole) for key in ("documents", "bytes")]
        rows.append([record.name("rule"), record.name("source"), *cells])
    return behind("What was dropped, by rule", table("Dropped in cleaning", columns, rows, name="Dropped"))


def _mix(history: History, stage: str) -> Child:
    """The weights that the sources were mixed by, and what the stage had to say about it."""
    columns = [
        Column("Source"),
        Column("Weight", "number"),
        Column("Bytes wanted", "number"),
        Column("Bytes taken", "number"),
        Column("Times repeated", "number"),
    ]
    rows: list[list[Child]] = []
    for record in history.of("share", stage):
        sizes = [number(record.number(key), figures.whole) for key in ("wanted", "taken")]
        repeats = number(record.number("repeats"), figures.decimal)
        rows.append(
            [record.name("source"), number(record.number("weight"), figures.percent), *sizes, repeats]
        )
    notes = [tag("p", record.text("text") or "", class_="note") for record in history.of("note", stage)]
    return [table("The mix", columns, rows, name="The mix"), notes]


def _rejected(history: History, stage: str) -> Child:
    path = history.path / "artifacts" / stage / "rejected.jsonl"
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            shown, count = [], 0
            for line in lines:
                count += 1
                if count <= MOST_REJECTED:
                    shown.append(_rejection(line))
    except OSError:
        return None
    if not count:
        return None
    columns = [Column("File or document"), Column("Why")]
    caption = "Refused" if count <= MOST_REJECTED else f"The first {MOST_REJECTED} refused"
    more = table(caption, columns, shown, name="Refused files and documents")
    words = " file or document was refused" if count == 1 else " files or documents were refused"
    return behind(join(number(float(count), figures.whole, computed=True), words), more)


def _rejection(line: str) -> list[Child]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    item = Record(found if isinstance(found, dict) else {"reason": "a line that cannot be read"})
    return [item.name("path"), item.name("reason")]


def _bytes_per_token(history: History, stage: str) -> Child:
    records = {record.name("source"): record for record in history.of("bytes_per_token", stage)}
    most = max((record.number("value") or 0.0 for record in records.values()), default=0.0) or 1.0
    columns = [Column("Source"), Column(term("bytes_per_token"), "number"), Column("", "mark")]
    rows: list[list[Child]] = []
    for source, record in records.items():
        value = record.number("value")
        rows.append([source, number(value, figures.decimal), size_mark((value or 0.0) / most)])
    caption = join("What the ", term("tokenizer", "tokenizer"), " makes of each source")
    return tag("div", table(caption, columns, rows, name="Bytes per token"), class_="compact")
