"""Whether a question needs the memory, decided from what the memory has on it; and whether so deciding is any good.

Looking costs a few milliseconds, reading what was found costs a prefill: so the memory is always asked and its
passages are read only when they speak of what the question speaks of. How much of the question the best passage
covers is measured in bits: a word that few passages hold counts for more, one that none holds counts most (Ponte &
Croft 1998 call a query's likelihood under a passage the same thing with other weights). `12 * 7` and "thank you!"
cover nothing.

`measure` holds the decision against always and never, on questions with known answers and any reader.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kweek.stats.intervals import Interval, wilson
from kweek.stats.paired import Paired, paired_difference
from kweek.system.memory import analysis
from kweek.system.memory.passage import Passage
from kweek.system.memory.store import Store
from kweek.system.memory.terms import Terms

#: Share of the question's bits that the best passage covers; see the log for the sweep it was chosen by.
THRESHOLD = 0.5
_PASSAGES = 5  # looked at: the passage that covers most need not score best


@dataclass(frozen=True)
class Decision:
    """Whether to read what was found.

    Attributes:
        retrieve: the decision.
        coverage: share of the question's bits in the best passage, 0 to 1.
        unknown: words of the question that stand nowhere in the memory.
    """

    retrieve: bool
    coverage: float
    unknown: tuple[str, ...]

    @property
    def reason(self) -> str:
        """For the trace."""
        verdict = "covered" if self.retrieve else "not covered"
        unknown = f"; nowhere: {', '.join(self.unknown)}" if self.unknown else ""
        return f"{verdict}: {self.coverage:.0%} of what the question asks for is in one passage{unknown}"


class Need:
    """Decides for one memory."""

    def __init__(self, store: Store, threshold: float = THRESHOLD) -> None:
        self._store, self.threshold = store, threshold
        self._terms = Terms()
        self._seen, self._num_chunks = -1, 0

    def decide(self, question: str, passages: Sequence[Passage]) -> Decision:
        """Whether the passages found for a question are worth reading."""
        words = analysis.asked(question)
        if all(word.isdigit() or word in analysis.STOP_WORDS for word in words):
            return Decision(False, 0.0, ())  # a sum, or nothing that tells passages apart
        bits = {word: self._bits(word) for word in words}
        total = sum(max(value.values(), default=0.0) for value in bits.values())
        best = 0.0
        for passage in passages[:_PASSAGES]:
            there = self._terms.of(analysis.indexed(passage.text))
            held = sum(
                max((b for term, b in value.items() if term in there), default=0.0) for value in bits.values()
            )
            best = max(best, held)
        coverage = best / total if total else 0.0
        nowhere = self._ceiling()
        unknown = tuple(word for word, value in bits.items() if value and min(value.values()) >= nowhere)
        return Decision(coverage >= self.threshold, coverage, unknown)

    def _bits(self, word: str) -> dict[str, float]:
        """What it tells that a passage holds a word, by its terms, in bits."""
        found = {}
        for term in self._terms([word]):
            holding = self._store.one("select doc from temp.vocabulary where term = ?", (term,)) or 0
            found[term] = math.log2((self._size() + 1) / (int(holding) + 0.5))
        return found

    def _ceiling(self) -> float:
        return math.log2((self._size() + 1) / 0.5)

    def _size(self) -> int:
        if self._store.generation != self._seen:
            self._seen, self._num_chunks = self._store.generation, self._store.num_chunks
        return self._num_chunks


# -- measuring the decision

#: Reads a question, with passages or none: a score from 0 to 1, and the tokens it took.
Reading = Callable[[str, Sequence[Passage]], tuple[float, int]]


@dataclass(frozen=True)
class Policy:
    """What came of one way of deciding: mean score, tokens per question, share of questions with passages."""

    name: str
    score: float
    tokens: float
    retrieved: Interval


@dataclass(frozen=True)
class Measured:
    """The three ways side by side, and the decision's score less theirs, paired."""

    policies: tuple[Policy, ...]
    over_always: Paired
    over_never: Paired
    questions: int


def measure(
    questions: Sequence[str], need: Need, search: Callable[[str], Sequence[Passage]], read: Reading
) -> Measured:
    """Answer every question with passages and without, and see what each way of deciding would have got.

    Args:
        search: the passages for a question.
        read: answers and scores.

    Raises:
        ValueError: fewer than two questions.
    """
    rows = []
    for question in questions:
        found = search(question)
        decided = need.decide(question, found).retrieve
        rows.append((decided, *read(question, found), *read(question, ())))
    scores = {
        "always": [row[1] for row in rows],
        "never": [row[3] for row in rows],
        "decided": [row[1] if row[0] else row[3] for row in rows],
    }
    tokens = {
        "always": [row[2] for row in rows],
        "never": [row[4] for row in rows],
        "decided": [row[2] if row[0] else row[4] for row in rows],
    }
    taken = {"always": len(rows), "never": 0, "decided": sum(row[0] for row in rows)}
    count = len(rows)
    return Measured(
        tuple(
            Policy(name, sum(scores[name]) / count, sum(tokens[name]) / count, wilson(taken[name], count))
            for name in scores
        ),
        paired_difference(scores["decided"], scores["always"]),
        paired_difference(scores["decided"], scores["never"]),
        count,
    )
