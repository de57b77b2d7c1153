"""What became of work that was shared: messages, work done twice, disagreements and how they ended, deadlocks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

from kweek.system.context import Context
from kweek.system.scaffolds.asking import key

SAME_WORK = 0.8  # share of words in common from which two messages say the same
FEWEST_WORDS = 6  # "I agree." twice is no work done twice

#: All came to say the same; some did not and were outvoted; nobody had more votes than another.
End = Literal["agreed", "outvoted", "tied"]


@dataclass(frozen=True)
class Said:
    """A message with the number of its round."""

    round: int
    sender: str
    to: str
    text: str


@dataclass
class Teamwork:
    """The record of a team at work.

    Attributes:
        messages: in their order.
        positions: answers by round, of each member who gave one.
        deadlocks: what brought the team to a standstill, in words.
    """

    messages: list[Said] = field(default_factory=list)
    positions: list[dict[str, str]] = field(default_factory=list)
    deadlocks: list[str] = field(default_factory=list)

    def say(self, context: Context, sender: str, to: str, text: str, round: int) -> None:
        """Take a message into the record, and into the trace."""
        self.messages.append(Said(round, sender, to, text))
        context.message(sender, to, text, round=round)

    def duplicated(self) -> list[tuple[str, str]]:
        """Who did whose work again: of each message with nearly the words of an earlier one of another, the senders."""
        found = []
        for place, one in enumerate(self.messages):
            others = (other for other in self.messages[:place] if other.sender != one.sender)
            first = next((other for other in others if _is_same(one.text, other.text)), None)
            found += [(first.sender, one.sender)] if first is not None else []
        return found

    def disagreements(self) -> list[dict[str, Any]]:
        """Stretches of rounds in which members gave different answers, and how each ended.

        `changed` names who gave up an answer, `towards` what they came to.
        """
        found: list[dict[str, Any]] = []
        begun: int | None = None
        for number, given in enumerate(self.positions):
            apart = len({key(answer) for answer in given.values()}) > 1
            if apart and begun is None:
                begun = number
            if begun is not None and (not apart or number == len(self.positions) - 1):
                found.append(self._ended(begun, number))
                begun = None
        return found

    def conformity(self) -> float | None:
        """Of the members who gave up an answer, the share that went over to what most of the others had said."""
        went = []
        for before, after in pairwise(self.positions):
            for name, answer in before.items():
                others = [key(one) for other, one in before.items() if other != name]
                if name in after and key(after[name]) != key(answer) and others:
                    most = max(others, key=others.count)
                    went.append(key(after[name]) == most)
        return sum(went) / len(went) if went else None

    def report(self) -> dict[str, Any]:
        """All of it as JSON data."""
        duplicated = self.duplicated()
        return {
            "messages": [asdict(one) for one in self.messages],
            "num_messages": len(self.messages),
            "duplicated_work": duplicated,
            "disagreements": self.disagreements(),
            "conformity": self.conformity(),
            "deadlocks": list(self.deadlocks),
        }

    def _ended(self, first: int, last: int) -> dict[str, Any]:
        before, after = self.positions[first], self.positions[last]
        changed = {
            name: after[name] for name in after if name in before and key(after[name]) != key(before[name])
        }
        return {
            "from_round": first,
            "to_round": last,
            "between": dict(before),
            "ended": _end(after),
            "changed": sorted(changed),
            "towards": sorted(set(changed.values())),
        }


def _end(positions: Mapping[str, str]) -> End:
    votes = [key(answer) for answer in positions.values()]
    counts = sorted((votes.count(one) for one in set(votes)), reverse=True)
    if len(counts) < 2:
        return "agreed"
    return "outvoted" if counts[0] > counts[1] else "tied"


def _is_same(one: str, other: str) -> bool:
    ours, theirs = (set(re.findall(r"\w+", text.casefold())) for text in (one, other))
    if min(len(ours), len(theirs)) < FEWEST_WORDS:
        return False
    return len(ours & theirs) / len(ours | theirs) >= SAME_WORK
