"""The examination of one model that may think: how often it is right, with chance, when forced, and on a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kweek.align.rollout import Group
from kweek.align.sampling import Drawing, sample
from kweek.align.thinking import marks, thinking_of, within
from kweek.engine.engine import Engine
from kweek.errors import ConfigError
from kweek.evaluate.problems import pass_of
from kweek.recipe.materials import load
from kweek.recipe.tasks import TaskConfig, measured

NUM_TRANSCRIPTS = 6


@dataclass(frozen=True)
class ThinkingExam:
    """What to ask one model.

    Attributes:
        tasks: the environment.
        greedy, sampled: items asked greedily, and with chance; the second are the first of the first.
        samples: of each of these, plainly; half as many with thinking forced.
        ks: of pass@k.
        budgets: tokens of thinking.
    """

    model: Path
    tasks: TaskConfig
    greedy: int
    sampled: int
    samples: int
    ks: tuple[int, ...]
    budgets: tuple[int, ...]
    key: str


def examine_thinking(exam: ThinkingExam) -> dict[str, Any]:
    """Ask everything; plain data, item by item, so that models can be compared on the same items.

    Raises:
        ConfigError: an environment of several turns, or a tokenizer without marks around thinking.
    """
    network, tokenizer = load(exam.model)
    engine, around = Engine(network), marks(tokenizer)
    environment = measured(exam.tasks.open_environment())
    if environment.max_turns != 1:
        raise ConfigError(
            f"{environment.name} has several turns; thinking is measured in single answers",
            where="environment",
        )
    items = environment.items("reasoning", exam.greedy, "test")
    few = items[: exam.sampled]
    greedy = [group[0] for group in sample(engine, tokenizer, environment, items, samples=1, key="greedy")]
    plain = sample(engine, tokenizer, environment, few, samples=exam.samples, key=exam.key, drawing=Drawing())
    forced = sample(
        engine, tokenizer, environment, few, samples=max(1, exam.samples // 2), key=f"{exam.key}/forced",
        drawing=Drawing(), beginning=lambda item: (around.open,),
    )  # fmt: skip
    lengths = [[len(thinking_of(rollout, around)) for rollout in group] for group in plain]
    everything = [[rollout] for rollout in greedy] + plain + forced
    return {
        "greedy": [rollout.score.value for rollout in greedy],
        "level": [item.level for item in items],
        "pass": {str(k): [pass_of(sum(_right(group)), len(group), k) for group in plain] for k in exam.ks},
        "forced": [sum(_right(group)) / len(group) for group in forced],
        "thinking": [sum(group) / len(group) for group in lengths],
        "thinking_share": sum(length > 0 for group in lengths for length in group) / sum(map(len, lengths)),
        "unreadable": sum(not r.score.parsed for group in plain for r in group) / sum(map(len, plain)),
        "budgets": {
            str(budget): within(engine, tokenizer, environment, greedy, budget) for budget in exam.budgets
        },
        "answer_flop": sum(rollout.flop for rollout in greedy) / len(greedy),
        "answer_tokens": sum(rollout.num_sampled for rollout in greedy) / len(greedy),
        "flop": sum(rollout.flop for group in everything for rollout in group),
        "transcripts": [
            {
                "question": str(rollout.item.messages[-1].get("content")),
                "gold": rollout.item.gold,
                "transcript": tokenizer.decode(rollout.token_ids[rollout.num_prompt_tokens :]),
                "answer": str(rollout.messages[-1].get("content")),
                "correct": rollout.score.value >= 1.0,
            }
            for rollout in greedy[:NUM_TRANSCRIPTS]
        ],
    }


def _right(group: Group) -> Sequence[bool]:
    """Which attempts are right."""
    return [rollout.score.value >= 1.0 for rollout in group]
