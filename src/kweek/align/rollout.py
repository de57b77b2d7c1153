"""What an attempt leaves behind: the very tokens, who chose them, how likely they were, and the judgement.

Training reads the tokens and never the text: rendering and encoding a chat anew need not give the ids that were
sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kweek.align.environment import Item
from kweek.protocols import Message, Score, StopReason


@dataclass(frozen=True)
class Rollout:
    """One episode. The lists of tokens are parallel and begin with the prompt.

    Attributes:
        item: what was attempted.
        token_ids: prompt, answers and everything between them.
        num_prompt_tokens: those before the first answer.
        sampled: true where the model chose the token; prompts, results of tools and other people's turns are not its
            choice.
        logprobs: natural logs under the distribution that was drawn from; 0.0 where nothing was drawn.
        kept_mass: share of the tempered softmax that truncation (top-k, top-p, min-p) kept at each token; empty where
            nothing was truncated.
        messages: the chat with the answers, a view for people and judges.
        score: the judgement.
        stop_reason: of the last answer.
        flop: of all answers.
        version: number of the update that made the weights which sampled.
    """

    item: Item
    token_ids: Sequence[int]
    num_prompt_tokens: int
    sampled: Sequence[bool]
    logprobs: Sequence[float]
    messages: tuple[Message, ...]
    score: Score
    stop_reason: StopReason
    flop: float
    version: int = 0
    kept_mass: Sequence[float] = ()

    @property
    def num_sampled(self) -> int:
        """Tokens that the model chose."""
        return sum(self.sampled)


#: Attempts at one item.
Group = Sequence[Rollout]
