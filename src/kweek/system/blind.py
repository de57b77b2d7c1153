"""Pairs of answers between which a person chooses without knowing whose they are: what is shown, kept and counted.

The order is drawn anew for every pair and told only with the result. What is kept can be read as preference data
(format "labels" of `kweek.data.chats_formats`). Two models are compared on questions typed one by one by `BlindTrial`,
on many prompts by `kweek.system.labels`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kweek.data.chats import Messages
from kweek.data.chats_formats import LABELLED
from kweek.stats.intervals import Interval, wilson
from kweek.store.records import Records
from kweek.system.session import Session

#: What a person may say of a pair: the first answer, the second, neither is better, or nothing at all.
Choice = Literal["1", "2", "tie", "skip"]
Coin = Callable[[], bool]


def toss() -> bool:
    """The operating system's own chance."""
    return random.SystemRandom().random() < 0.5


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, in the order in which they are shown.

    Attributes:
        prompt: what was asked.
        answers: by name of who gave them.
        order: the names in the order shown; for the record, not for the person.
        item: what the pair is told apart from others by.
        repeat: whether the person has judged it before.
    """

    prompt: Messages
    answers: Mapping[str, Messages]
    order: tuple[str, str]
    item: str = ""
    repeat: bool = False

    @property
    def shown(self) -> tuple[str, str]:
        """The first and the second answer as text."""
        return as_text(self.answers[self.order[0]]), as_text(self.answers[self.order[1]])

    @property
    def same(self) -> bool:
        """Whether the answers agree to the letter, so that there is nothing to choose."""
        return self.shown[0] == self.shown[1]


@dataclass(frozen=True)
class Tally:
    """What came of all pairs.

    Attributes:
        won: pairs won by each model, by name.
        ties: pairs where the person saw no better one.
        same: pairs of equal answers, which nobody was asked about.
        share: of the first model among the pairs that were decided, with its 95% Wilson interval; None without any.
    """

    won: dict[str, int]
    ties: int
    same: int
    share: Interval | None

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves out one half: the person prefers one of them, beyond chance."""
        return self.share is not None and not self.share.lo <= 0.5 <= self.share.hi


class BlindTrial:
    """Makes pairs of what two models answer to one question at a time.

    Each question is asked afresh, because histories that differ would give the models away; and both have answered
    before either answer is shown, because speed would.

    Args:
        sessions: of the two models by name; their histories are cleared before every question.
        records: where pairs are kept; those of the same two models already there count too.
        coin: true puts the first model first.

    Raises:
        ValueError: not two models.
    """

    def __init__(self, sessions: dict[str, Session], records: Records, coin: Coin = toss) -> None:
        if len(sessions) != 2:
            raise ValueError(f"a pair needs two models, not {len(sessions)}")
        self.names: tuple[str, ...] = tuple(sessions)
        self._sessions, self._records, self._coin = sessions, records, coin

    def ask(self, question: str) -> Pair:
        """Both answers, in random order. Raises KweekError when the question does not fit."""
        first, second = self.names if self._coin() else self.names[::-1]
        answers = {}
        for name in self.names:
            self._sessions[name].messages.clear()
            content = self._sessions[name].ask(question).content
            answers[name] = ({"role": "assistant", "content": content},)
        return Pair(({"role": "user", "content": question},), answers, (first, second))

    def judge(self, pair: Pair, choice: Choice) -> None:
        """Keep what was said of a pair; equal answers are kept as such whatever was said."""
        keep(self._records, pair, choice)

    def tally(self) -> Tally:
        """Of all pairs of these two models on record."""
        return count(self.names, Records.read(self._records.path))


def keep(records: Records, pair: Pair, choice: Choice, **more: Any) -> None:
    """Add a judgement to the records: at once on the disk's side, so that a killed session loses nothing."""
    decided = choice in ("1", "2") and not pair.same
    first, second = pair.order
    winner, loser = (first, second) if choice == "1" else (second, first)
    records.append(
        LABELLED,
        item=pair.item,
        prompt=list(pair.prompt),
        order=pair.order,
        answers=dict(zip(pair.order, pair.shown, strict=True)),
        choice=choice,
        winner=winner if decided else None,
        same=pair.same,
        repeat=pair.repeat,
        chosen=list(pair.answers[winner]) if decided else None,
        rejected=list(pair.answers[loser]) if decided else None,
        **more,
    )


def pairs_of(names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The judgements of two models among records; others are passed over."""
    return [r for r in records if r["kind"] == LABELLED and set(r["order"]) == set(names)]


def count(names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> Tally:
    """What came of the pairs of two models; pairs shown again and pairs passed over do not count."""
    mine = [r for r in pairs_of(names, records) if not r.get("repeat") and r.get("choice") != "skip"]
    won = {name: sum(record["winner"] == name for record in mine) for name in names}
    decided = sum(won.values())
    same = sum(bool(record["same"]) for record in mine)
    share = wilson(won[names[0]], decided) if decided else None
    return Tally(won, len(mine) - decided - same, same, share)


def as_text(answer: Messages) -> str:
    """An answer as a person reads it: contents, and calls of tools by name and arguments; not the thinking."""
    parts = []
    for message in answer:
        parts += [str(message["content"])] if message.get("content") else []
        for call in message.get("tool_calls", ()):
            function = call["function"]
            parts.append(f"{function['name']}({json.dumps(function['arguments'], ensure_ascii=False)})")
    return "\n".join(parts)
