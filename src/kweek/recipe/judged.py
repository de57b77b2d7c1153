"""Reinforcement whose reward is learnt: the guards that such a reward needs.

A reward model stands for what is wanted and is not that. So its sign is checked on known answers before the first
update and after it, the policy is charged for its distance from where it began, and the environment's own judge, which
nothing is then trained on, watches held-out items: the run ends, and goes back to the peak, when its judgement falls
while the reward does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kweek.align.behaviour.world import World, worse
from kweek.align.environment import Environment, Item
from kweek.align.guards.collapse import CollapseGuard
from kweek.align.guards.guard import Guard
from kweek.align.guards.hacking import HackingGuard, held_out
from kweek.align.guards.known import Known, known_pairs
from kweek.align.guards.policy_path import policy_sign
from kweek.align.learner import Learner
from kweek.align.reward import RewardModel
from kweek.align.rollout import Rollout
from kweek.engine.engine import Engine
from kweek.recipe.pair_guards import KNOWN_PAIRS, known_items
from kweek.tokenize.tokenizer import Tokenizer

HELD_OUT = 192  # items that gold is measured on: of 96 a fall by a sixth was not beyond chance
EVERY = 5  # updates between two measurements


def guards_of_learnt(
    learner: Learner, engine: Engine, tokenizer: Tokenizer, environment: Environment, judge: RewardModel
) -> list[Guard]:
    """Against a reward that points the wrong way, one that is hacked, and collapse."""
    items, worse_answer = _known(environment)

    def pairs() -> list[Known]:
        return known_pairs(engine, tokenizer, environment, items, worse=worse_answer, judge=judge)

    def gold(rollout: Rollout) -> float:
        return judged_by(environment, rollout)

    items_of_gold = environment.items("rl/gold", HELD_OUT, "validation")
    measure = held_out(engine, tokenizer, environment, items_of_gold, gold, judge=judge)
    sign = policy_sign(learner, engine, pairs, exact=False)
    return [sign, HackingGuard(measure, every=EVERY), CollapseGuard()]


def _known(environment: Environment) -> tuple[Sequence[Item], Callable[[Item], str] | None]:
    """Items whose right answer is known, and what a worse one is; None where that is another item's right answer."""
    if not isinstance(environment, World):
        return environment.items("audit", KNOWN_PAIRS, "train"), None
    items = known_items(environment)
    wrong = worse(environment.rules, items)
    return items, lambda item: wrong[item.id]


def judged_by(environment: Environment, rollout: Rollout) -> float:
    """What the environment's own judge says of a rollout, whoever else has judged it."""
    episode = environment.begin(rollout.item)
    episode.step(rollout.messages[-1])
    return episode.score().value
