"""The generated stories about counting (`kweek.data.stories`) as an environment, with the calculator in mid-thought."""

from __future__ import annotations

from dataclasses import dataclass

from kweek.align.environment import Item, Split
from kweek.align.environments.single_turn import OneAnswer
from kweek.align.verifier import whole_number
from kweek.data import stories
from kweek.evaluate.problems import MAX_NEW_TOKENS
from kweek.protocols import TokenInterceptor, Verifier
from kweek.system.calculator import Calculator
from kweek.tokenize.tokenizer import Tokenizer


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
