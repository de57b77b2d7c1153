"""The model at five ages, and after every later stage, answering the same prompts."""

from __future__ import annotations

from kweek.report import figures
from kweek.report.glossary import term
from kweek.report.history import Fields, History, Record
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.section import Missing, Section
from kweek.report.tables import number
from kweek.report.transcript import shortened, transcript

TITLE = "Growing up"
MOST_PROMPTS = 8  # more would bury the rest of the page
MOST_AGES = 11  # rows that the style sheet lines up
MOST_ANSWER = 280  # characters; an untrained model fills any space it is given


def section(history: History) -> Section | Missing:
    """Every prompt with one answer for each age, youngest first."""
    records = history.of("age")
    prompts = list(
        dict.fromkeys(item.name("prompt") for record in records for item in record.items("prompts"))
    )
    if not prompts:
        return Missing(TITLE, "answers at several ages (records “age”)")
    lede = join(
        "The same prompts put to the model at every ",
        term("age", "age"),
        " of its ",
        term("pretraining", "pretraining"),
        " and after each later stage. At first there is only noise, then letters, then words, then sense.",
    )
    first = history.stages_with("age")[0]
    cards = [_card(prompt, records, first) for prompt in prompts[:MOST_PROMPTS]]
    return Section("ages", TITLE, lede, tag("div", cards, class_="cards"))


def _card(prompt: str, records: list[Record], first: str) -> Markup:
    rows = []
    for record in records:
        answer = next((item for item in record.items("prompts") if item.name("prompt") == prompt), None)
        if answer is not None:
            rows.append(_row(record, answer, record.stage == first))
    shown = shortened(prompt.strip(), MOST_ANSWER)
    heading = tag("h3", tag("span", "Prompt: ", class_="aloud"), shown, dir="auto")
    return tag("article", heading, tag("ol", rows[:MOST_AGES], class_="timeline"), class_="card")


def _row(record: Record, answer: Fields, growing: bool) -> Markup:
    age = record.number("age")
    size = f"age{min(max(int(age), 0), 4)}" if growing and age is not None else "grown"
    label = _age(record, growing)
    said = (answer.text("answer") or "").strip()  # blanks at the ends would only push the words about
    return tag("li", tag("p", label, class_="when"), transcript(shortened(said, MOST_ANSWER)), class_=size)


def _age(record: Record, growing: bool) -> Child:
    if not growing:
        return f"after {record.stage}"
    tokens = record.number("tokens")
    if tokens == 0:
        return "untrained"
    if tokens is None:
        return "unknown age"
    return join(number(tokens, figures.compact), " ", term("token", "tokens"))
