"""Votes: many answers to one question, of which the most frequent wins; asked no longer than it takes to decide.

Self-consistency: Wang et al. 2022, arXiv 2203.11171. Every other scaffold is compared with it at equal FLOP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from scipy import stats

from kweek.system.context import Context
from kweek.system.samples import Sample
from kweek.system.scaffolds.asking import Way, key
from kweek.system.scaffolds.marks import Mark
from kweek.system.task import Answer, Task

NUM_VOTES = 8  # most of the gain of 16 at half of the cost


@dataclass
class Poll:
    """The votes so far.

    Attributes:
        weights: by answer, in the order in which they first came; ties go to the earlier.
        words: each answer as it was first written.
        num_empty: samples that gave no answer.
    """

    weights: dict[str, float] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    num_empty: int = 0

    def add(self, answer: str | None, weight: float = 1.0) -> None:
        """One vote; None is none."""
        if answer is None:
            self.num_empty += 1
            return
        name = key(answer)
        self.words.setdefault(name, answer)
        self.weights[name] = self.weights.get(name, 0.0) + weight

    @property
    def winner(self) -> str | None:
        """The answer with most votes."""
        return self.words[max(self.weights, key=lambda name: self.weights[name])] if self.weights else None

    @property
    def share(self) -> float:
        """Of the winner among all votes, those without an answer too."""
        everything = sum(self.weights.values()) + self.num_empty
        return max(self.weights.values(), default=0.0) / everything if everything else 0.0

    @property
    def lead(self) -> tuple[float, float]:
        """Votes of the first and of the second."""
        first, second, *_ = [*sorted(self.weights.values(), reverse=True), 0.0, 0.0]
        return first, second

    def is_decided(self, num_left: int, sure: float = 1.0) -> bool:
        """Whether votes that are still to come can be spared.

        Args:
            num_left: how many.
            sure: 1 asks until they cannot change the winner. Less asks until the first is ahead of the second with
                this probability, under a uniform prior on their shares (Aggarwal et al. 2023, arXiv 2305.11860).
        """
        first, second = self.lead
        if first - second > num_left:
            return True
        return sure < 1 and bool(first) and float(stats.beta.sf(0.5, first + 1, second + 1)) >= sure

    def next_batch(self, num_left: int) -> int:
        """The fewest further votes that could decide."""
        first, second = self.lead
        return max(1, min(num_left, int(num_left - (first - second)) // 2 + 1))

    def answer(self, finished: bool = True) -> Answer:
        """The winner; its share is the confidence."""
        votes = {self.words[name]: round(weight, 6) for name, weight in self.weights.items()}
        data = {"votes": votes, "without_answer": self.num_empty}
        return Answer(self.winner or "", confidence=self.share, finished=finished, data=data)


def self_consistency(
    context: Context, task: Task, *, n: int = NUM_VOTES, way: Way | None = None, sure: float = 1.0
) -> Answer:
    """The most frequent of `n` answers; fewer are asked for once the vote is decided. See `Poll.is_decided`.

    With `sure` 1 the winner is that of all `n`, for less.
    """
    way, poll, num_left = way or Way(), Poll(), n
    while num_left and not poll.is_decided(num_left, sure):
        for sample in way.ask(context, task.messages, poll.next_batch(num_left)):
            poll.add(way.answer_of(sample))
            num_left -= 1
        context.offer(poll.answer(finished=False))
    return poll.answer()


def weighted_vote(
    context: Context, task: Task, *, mark: Mark, n: int = NUM_VOTES, way: Way | None = None
) -> Answer:
    """The answer whose samples have the largest sum of marks (Li et al. 2023, arXiv 2206.02336).

    Args:
        context, task: as for every scaffold.
        mark: what a sample's vote weighs; marks below 0 count as 0.
        n: samples.
        way: how to ask.
    """
    way, poll = way or Way(), Poll()
    samples = way.ask(context, task.messages, n)
    context.offer(polled(way, samples).answer(finished=False))
    for sample, weight in zip(samples, mark(context, task, samples), strict=True):
        poll.add(way.answer_of(sample), max(0.0, weight))
    return poll.answer()


def polled(way: Way, samples: Sequence[Sample]) -> Poll:
    """A plain vote of samples."""
    poll = Poll()
    for sample in samples:
        poll.add(way.answer_of(sample))
    return poll
