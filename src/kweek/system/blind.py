"""Two models answer the same question, a person chooses without knowing which is which: can they be told apart?

Each question is asked afresh, because histories that differ would give the models away; and both have answered before
either answer is shown, because speed would. The order is drawn anew for every pair and told only with the result.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kweek.stats.intervals import Interval, wilson
from kweek.store.records import Records
from kweek.system.session import Session

#: What a person may say of a pair: the first answer, the second, neither is better.
Choice = Literal["1", "2", "tie"]
RECORD = "pair"


@dataclass(frozen=True)
class Pair:
    """Two answers to a question, in the order in which they are shown.

    Attributes:
        question: what was asked.
        shown: the first and the second answer.
        order: the models' names in that order; for the record, not for the person.
    """

    question: str
    shown: tuple[str, str]
    order: tuple[str, str]

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
    """Makes pairs and keeps what is said of them.

    Args:
        sessions: of the two models by name; their histories are cleared before every question.
        records: where pairs are kept; those of the same two models already there count too.
        coin: true puts the first model first; by default the operating system's own chance.

    Raises:
        ValueError: not two models.
    """

    def __init__(
        self, sessions: dict[str, Session], records: Records, coin: Callable[[], bool] | None = None
    ) -> None:
        if len(sessions) != 2:
            raise ValueError(f"a pair needs two models, not {len(sessions)}")
        self.names: tuple[str, ...] = tuple(sessions)
        self._sessions, self._records = sessions, records
        self._coin = coin or (lambda: random.SystemRandom().random() < 0.5)

    def ask(self, question: str) -> Pair:
        """Both answers, in random order. Raises KweekError when the question does not fit."""
        first, second = self.names if self._coin() else self.names[::-1]
        answers = {}
        for name in self.names:
            self._sessions[name].messages.clear()
            answers[name] = self._sessions[name].ask(question).content
        return Pair(question, (answers[first], answers[second]), (first, second))

    def judge(self, pair: Pair, choice: Choice) -> None:
        """Keep what was said of a pair; equal answers are kept as such whatever was said."""
        winner = None if choice == "tie" or pair.same else pair.order[0 if choice == "1" else 1]
        self._records.append(
            RECORD, question=pair.question, order=pair.order, answers=dict(zip(pair.order, pair.shown, strict=True)),
            winner=winner, same=pair.same,
        )  # fmt: skip

    def tally(self) -> Tally:
        """Of all pairs of these two models on record."""
        return count(self.names, Records.read(self._records.path))


def count(names: Sequence[str], records: Sequence[dict[str, Any]]) -> Tally:
    """The pairs of two models among records; others are passed over."""
    mine = [r for r in records if r["kind"] == RECORD and set(r["order"]) == set(names)]
    won = {name: sum(record["winner"] == name for record in mine) for name in names}
    decided = sum(won.values())
    same = sum(bool(record["same"]) for record in mine)
    share = wilson(won[names[0]], decided) if decided else None
    return Tally(won, len(mine) - decided - same, same, share)
