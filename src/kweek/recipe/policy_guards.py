"""The guards that watch every stage of reinforcement unless its environment cannot tell right from wrong."""

from __future__ import annotations

from collections.abc import Sequence

from kweek.align.environment import Environment, Item
from kweek.align.guards.collapse import CollapseGuard
from kweek.align.guards.gold import can_judge, states
from kweek.align.guards.guard import Guard, Verdict
from kweek.align.guards.hacking import HackingGuard, Measured, held_out
from kweek.align.guards.known import FEWEST, Known, known_pairs
from kweek.align.guards.policy_path import policy_sign
from kweek.align.learner import Learner
from kweek.engine.engine import Engine
from kweek.recipe.watch import heard
from kweek.store.records import Records
from kweek.tokenize.tokenizer import Tokenizer


class HeldOut:
    """Greedy answers to items that are never trained on: what they earn, and what they are worth.

    Args:
        environment: judges them.
        items: always the same.
    """

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, environment: Environment, items: Sequence[Item]
    ) -> None:
        self._measure = held_out(engine, tokenizer, environment, items, states)
        self._latest: Measured | None = None

    def reward(self) -> float:
        """Mean reward of the model as it is now, kept for the guard that asks next."""
        self._latest = self._measure()
        return sum(self._latest[0]) / len(self._latest[0])

    def __call__(self) -> Measured:
        """What `reward` has just measured, or else measured now."""
        found, self._latest = self._latest or self._measure(), None
        return found


def policy_guards(
    learner: Learner,
    engine: Engine,
    tokenizer: Tokenizer,
    environment: Environment,
    items: Sequence[Item],
    measure: HeldOut,
    every: int,
    records: Records,
) -> list[Guard]:
    """Against a reward that points the wrong way, one that is hacked, and collapse.

    Args:
        items: whose right answers make known pairs, at least twenty.
        every: updates between looks at held-out items, at which `measure.reward` may have been asked.
        records: are told of what cannot be watched.
    """
    if len(items) < FEWEST or any(not item.gold for item in items):
        told = "no right answers are known, so neither the sign nor a hacked reward can be seen beforehand"
        heard(records, "sign", 0, Verdict("warn", told))
        return [CollapseGuard()]

    def pairs() -> list[Known]:
        return known_pairs(engine, tokenizer, environment, items)

    if not can_judge(pairs()):
        told = "the right answers cannot be read by a second judgement, so a hacked reward would not be seen"
        heard(records, "hacking", 0, Verdict("warn", told))
        return [policy_sign(learner, engine, pairs), CollapseGuard()]
    return [
        policy_sign(learner, engine, pairs, gold=states),
        HackingGuard(measure, every=every),
        CollapseGuard(),
    ]
