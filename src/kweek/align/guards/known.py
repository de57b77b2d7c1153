"""Known pairs: answers of which everybody can say beforehand which is the better one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from kweek.align.audit.audit import known_answer
from kweek.align.collecting import Judge
from kweek.align.environment import Environment, Item
from kweek.align.rollout import Rollout
from kweek.align.sampling import given
from kweek.errors import ConfigError
from kweek.protocols import LanguageModel
from kweek.tokenize.tokenizer import Tokenizer

FEWEST = 20  # pairs: of twenty fair coins not one in a million shows the same side throughout

Known = tuple[Rollout, Rollout]  # the better answer, the worse one


def another_gold(items: Sequence[Item]) -> Callable[[Item], str]:
    """For every item a right answer to the next one whose answer differs, of the same level where there is one.

    Such an answer has the form and length of a right one: only being wrong tells it from one.

    Raises:
        ConfigError: an item without a right answer, or all have the same.
    """
    right = {item.id: known_answer(item) for item in items}
    if not all(right.values()) or len(set(right.values())) < 2:
        raise ConfigError(
            "known pairs need items whose right answers are known and differ",
            fix="give items with gold, or say what a worse answer is",
        )
    numbers = {item.id: number for number, item in enumerate(items)}

    def worse(item: Item) -> str:
        number = numbers[item.id]
        others = [o for o in (*items[number + 1 :], *items[:number]) if right[o.id] != right[item.id]]
        return right[next((o for o in others if o.level == item.level), others[0]).id]

    return worse


def known_pairs(
    model: LanguageModel,
    tokenizer: Tokenizer,
    environment: Environment,
    items: Sequence[Item],
    *,
    worse: Callable[[Item], str] | None = None,
    judge: Judge | None = None,
) -> list[Known]:
    """A right answer to every item beside a worse one, judged as the run judges and as likely as the model thinks now.

    Args:
        worse: gives the worse answer; None takes `another_gold`.
        judge: of the run, where one takes the place of the environment's own.

    Raises:
        ConfigError: see `another_gold`.
    """
    wrong = worse or another_gold(items)
    asked = [(item, answer) for item in items for answer in (known_answer(item), wrong(item))]
    flat = given(model, tokenizer, environment, asked)
    if judge is not None:
        flat = [replace(rollout, score=score) for rollout, score in zip(flat, judge(flat), strict=True)]
    return list(zip(flat[::2], flat[1::2], strict=True))


def log_margins(model: LanguageModel, pairs: Sequence[Known]) -> list[float]:
    """Log-probability of the better answer less that of the worse, of each pair, nats over their own tokens."""
    rollouts = [rollout for pair in pairs for rollout in pair]
    scored = model.score([rollout.token_ids for rollout in rollouts])
    sums = [
        sum(lp for lp, own in zip(logprobs, rollout.sampled, strict=True) if own)
        for logprobs, rollout in zip(scored, rollouts, strict=True)
    ]
    return [better - worse for better, worse in zip(sums[::2], sums[1::2], strict=True)]
