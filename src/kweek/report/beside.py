"""Texts side by side: a prompt, what was written to it by the one and by the other, and how each was judged."""

from __future__ import annotations

from collections.abc import Sequence

from kweek.report import figures
from kweek.report.history import Fields, Record
from kweek.report.markup import Child, Markup, tag
from kweek.report.tables import number
from kweek.report.transcript import shortened, transcript

GOLD = 120  # characters of a right answer that are shown


def beside(records: Sequence[Record]) -> Markup:
    """The prompts of records `beside` in their order, each with its texts next to one another."""
    return tag("ol", [_one(record) for record in records], class_=["chats", "of-two"])


def _one(record: Record) -> Markup:
    question = tag("p", shortened(record.name("prompt")), class_="question", dir="auto")
    gold = record.text("gold")
    right = tag("p", "right: ", tag("b", shortened(gold, GOLD), dir="auto"), class_="note") if gold else None
    sides = record.items("sides")
    first = sides[0].number("reward") if sides else None
    shown = [_side(side, None if index == 0 else first) for index, side in enumerate(sides)]
    return tag("li", question, right, tag("div", shown, class_="beside"))


def _side(side: Fields, first: float | None) -> Markup:
    """One text under its name; the mark says how its reward compares with the first one's."""
    reward, length = side.number("reward"), side.number("length")
    change = None if reward is None or first is None or reward == first else reward > first
    sign: Child = None
    if change is not None:
        words = "better" if change else "worse"
        arrow = tag("span", "▲ " if change else "▼ ", aria_hidden="true")
        sign = tag("span", arrow, words, class_="right" if change else "wrong")
    figures_ = [
        tag("b", side.name("name")),
        tag("span", "reward ", number(reward, figures.value)),
        tag("span", number(length, figures.whole), " tokens") if length is not None else None,
        sign,
    ]
    return tag("div", tag("p", figures_, class_="side"), transcript(side.text("text") or ""))
