"""Sample chats: the first held-out questions, not chosen, with what each model answered."""

from __future__ import annotations

from kweek.report import figures, models
from kweek.report.glossary import term
from kweek.report.history import History, Record
from kweek.report.markup import Markup, join, tag
from kweek.report.section import Missing, Section
from kweek.report.tables import behind, number
from kweek.report.transcript import shortened, transcript

TITLE = "Ten chats, not chosen"
MOST = 10  # the first of the held-out set, so that nobody picks the good ones


def section(history: History) -> Section | Missing:
    """The chats of the final model open, those of the others closed."""
    samples: dict[str, list[Record]] = {}
    for record in history.of("sample"):
        samples.setdefault(record.name("model"), []).append(record)
    if not samples:
        return Missing(TITLE, "sample chats (records “sample”)")
    final = models.final(history)
    shown = final if final in samples else list(samples)[-1]
    lede = join(
        "The first ",
        term("held_out", "held-out"),
        " questions in their order, right or wrong. Calls of the ",
        term("tool", "calculator"),
        " stand out: the model wrote the sum, the machine the result.",
    )
    blocks = [_group(shown, samples[shown])]
    others = [(model, found) for model, found in samples.items() if model != shown]
    blocks += [
        behind(join("The same questions put to ", model), _group(model, found)) for model, found in others
    ]
    return Section("chats", TITLE, lede, blocks)


def _group(model: str, records: list[Record]) -> Markup:
    first = records[:MOST]
    right = sum(record.flag("correct") is True for record in first)
    count = number(float(right), figures.whole, computed=True)
    total = number(float(len(first)), figures.whole, computed=True)
    heading = tag("p", tag("strong", model), ": ", count, " of these ", total, " right", class_="note")
    return join(heading, tag("ol", [_chat(record) for record in first], class_="chats"))


def _chat(record: Record) -> Markup:
    correct = record.flag("correct")
    gold = record.name("gold")
    mark = tag(
        "p",
        tag("span", "✓" if correct else "✗", aria_hidden="true", class_="sign"),
        " right" if correct else join(" wrong, the answer is ", tag("b", shortened(gold, 80), dir="auto")),
        class_=["mark", "right" if correct else "wrong"],
    )
    said = record.text("transcript") or record.text("answer") or ""
    question = tag("p", shortened(record.name("question")), class_="question", dir="auto")
    return tag("li", question, transcript(said), mark)
