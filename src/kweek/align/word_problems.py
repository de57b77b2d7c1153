"""The generated stories about counting (`kweek.data.stories`) as an environment, with the calculator in mid-thought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kweek.align.environment import Item, Split
from kweek.align.verifier import whole_number
from kweek.data import stories
from kweek.evaluate.problems import MAX_NEW_TOKENS
from kweek.protocols import Message, Score, TokenInterceptor, Verifier
from kweek.system.calculator import Calculator
from kweek.tokenize.tokenizer import Tokenizer


class OneAnswer:
    """An `Episode` that ends with the first answer, whose content a verifier judges."""

    def __init__(self, item: Item, verifier: Verifier) -> None:
        self._item, self._verifier, self._answer = item, verifier, ""

    def step(self, message: Message) -> Sequence[Message]:
        """See `Episode`."""
        self._answer = str(message["content"])
        return ()

    def score(self) -> Score:
        """See `Episode`."""
        return self._verifier(self._answer, self._item.gold)


@dataclass(frozen=True)
class WordProblems:
    """An `Environment` of stories, any number of them.

    Attributes:
        share_sums: share of bare sums among them.
        levels: numbers of operations, drawn evenly.
        wording: "unseen" uses phrasings that no training text has.
        calculator: whether calls of the calculator are answered.
        max_new_tokens: as in evaluation.
    """

    share_sums: float = 0.0
    levels: tuple[int, ...] = (1, 2, 3, 4)
    wording: stories.Wording = "seen"
    calculator: bool = True
    verifier: Verifier = whole_number
    name: str = "stories"
    max_new_tokens: int = MAX_NEW_TOKENS
    max_turns: int = 1

    def items(self, key: str, count: int, split: Split) -> list[Item]:
        """See `Environment`; the level is the number of operations."""
        found = stories.problems(
            key, count, split, levels=self.levels, wording=self.wording, share_sums=self.share_sums
        )
        return [as_item(problem) for problem in found]

    def begin(self, item: Item) -> OneAnswer:
        """See `Environment`."""
        return OneAnswer(item, self.verifier)

    def interceptor(self, tokenizer: Tokenizer) -> TokenInterceptor | None:
        """See `Environment`."""
        return Calculator(tokenizer) if self.calculator else None


def as_item(problem: stories.Problem) -> Item:
    """A problem as an item."""
    return Item(({"role": "user", "content": problem.question},), problem.answer, str(problem.level))
