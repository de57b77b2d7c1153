"""What thinking is worth to a model: how long its chains are, and how often it is right when they are cut short.

A budget is forced: thinking that is longer ends after so many tokens with the mark that closes it, and the model goes
on with its answer (Muennighoff et al. 2025, arXiv 2501.19393, "budget forcing"). Shorter thinking is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kweek.align.environment import Environment
from kweek.align.rollout import Rollout
from kweek.align.sampling import sample
from kweek.errors import ConfigError
from kweek.protocols import LanguageModel
from kweek.tokenize.chat import END_THINK, THINK
from kweek.tokenize.tokenizer import Tokenizer


class Marks(NamedTuple):
    """Ids of the tokens around thinking."""

    open: int
    close: int


def marks(tokenizer: Tokenizer) -> Marks:
    """The marks of a tokenizer. Raises ConfigError where it has none."""
    try:
        return Marks(tokenizer.special[THINK], tokenizer.special[END_THINK])
    except KeyError as error:
        raise ConfigError(
            f"the tokenizer has no token {error}, so thinking cannot be told from answering",
            fix=f"use a model whose template has {THINK} and {END_THINK}",
        ) from None


def thinking_of(rollout: Rollout, around: Marks) -> list[int]:
    """The tokens of thinking in the model's first answer, without their marks; none where it answered at once.

    What precedes the last closing mark is thinking, opened or not; so is everything that was opened and never closed.
    """
    answer = list(rollout.token_ids[rollout.num_prompt_tokens :])
    if around.close in answer:
        answer = answer[: len(answer) - 1 - answer[::-1].index(around.close)]
        return answer[answer[:1] == [around.open] :]
    return answer[1:] if answer[:1] == [around.open] else []


def within(
    model: LanguageModel,
    tokenizer: Tokenizer,
    environment: Environment,
    greedy: Sequence[Rollout],
    budget: int,
) -> list[float]:
    """Scores of greedy answers whose thinking is held to a budget.

    Args:
        environment: of single answers, whose rollouts these are.
        greedy: one for each item, without a budget.
        budget: tokens of thinking.
    """
    around = marks(tokenizer)
    scores = [rollout.score.value for rollout in greedy]
    cut = {
        number: [around.open, *found[:budget], around.close]
        for number, rollout in enumerate(greedy)
        if len(found := thinking_of(rollout, around)) > budget
    }
    begun = {greedy[number].item.id: tokens for number, tokens in cut.items()}
    items = [greedy[number].item for number in cut]
    groups = sample(
        model, tokenizer, environment, items, samples=1, key="budget", beginning=lambda item: begun[item.id]
    )
    for number, group in zip(cut, groups, strict=True):
        scores[number] = group[0].score.value
    return scores
