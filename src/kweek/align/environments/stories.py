"""The stories of `kweek.data.stories` as an environment: prompts and judgement are those of the recipe `laptop`."""

from __future__ import annotations

from dataclasses import dataclass

from kweek.align.environment import Episode, Item, Split
from kweek.align.environments.single_turn import OneAnswer
from kweek.align.verifier import whole_number
from kweek.data import stories
from kweek.evaluate.problems import MAX_NEW_TOKENS
from kweek.protocols import TokenInterceptor
from kweek.system.calculator import Calculator
from kweek.tokenize.tokenizer import Tokenizer


@dataclass
class Stories:
    """Counting stories and bare sums, with a calculator in the middle of an answer.

    Attributes:
        levels: numbers of steps; by default those that the recipe teaches.
        wording: "unseen" for sentences that are never trained on.
        share_sums: share of bare sums.
        calculator: whether its calls are answered.
        max_new_tokens: as in evaluation.
    """

    levels: tuple[int, ...] = (1, 2, 3, 4)
    wording: stories.Wording = "seen"
    share_sums: float = 0.0
    calculator: bool = True
    name: str = "stories"
    max_new_tokens: int = MAX_NEW_TOKENS
    max_turns: int = 1

    def items(self, key: str, count: int, split: Split) -> list[Item]:
        """The problems of `kweek.data.stories.problems`, in their order."""
        problems = stories.problems(
            key, count, split, levels=self.levels, wording=self.wording, share_sums=self.share_sums
        )
        return [as_item(problem) for problem in problems]

    def begin(self, item: Item) -> Episode:
        """A fresh attempt, right when the answer is the whole number and nothing else."""
        return OneAnswer(item, whole_number)

    def interceptor(self, tokenizer: Tokenizer) -> TokenInterceptor | None:
        """The calculator, if there is one."""
        return Calculator(tokenizer) if self.calculator else None


def as_item(problem: stories.Problem) -> Item:
    """A problem as an item; its level is its number of steps."""
    return Item(
        ({"role": "user", "content": problem.question},),
        problem.answer,
        str(problem.level),
        {"kind": problem.kind},
    )
