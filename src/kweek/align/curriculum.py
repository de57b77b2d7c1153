"""A curriculum from measured success: items are preferred of levels that are solved about half of the time.

A group of right and wrong answers has the more signal the nearer its success is to a half: with success p its rewards
have the variance p (1 - p). What is always or never solved teaches nothing and is met rarely.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kweek.align.environment import Item
from kweek.align.rollout import Group
from kweek.data.packing import keyed_generator

FORGETTING = 0.9  # of what was seen, per update: success moves by some points per update
LEAST = (
    0.1  # weight of a level that is always or never solved, against 1 at a half: its success must stay known
)


@dataclass(frozen=True)
class Curriculum:
    """Success by level so far.

    Attributes:
        tallies: by level, (sum of scores, number of attempts), earlier ones fading.
    """

    tallies: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def success(self, level: str) -> float:
        """Expected score of a level; a half where nothing is known (Laplace's rule)."""
        right, total = self.tallies.get(level, (0.0, 0.0))
        return (right + 1) / (total + 2)

    def after(self, groups: Iterable[Group]) -> Curriculum:
        """With what one batch of rollouts showed."""
        tallies = {level: (a * FORGETTING, b * FORGETTING) for level, (a, b) in self.tallies.items()}
        for group in groups:
            for rollout in group:
                right, total = tallies.get(rollout.item.level, (0.0, 0.0))
                tallies[rollout.item.level] = (right + rollout.score.value, total + 1)
        return Curriculum(tallies)

    def choose(self, items: Sequence[Item], count: int, key: str) -> list[Item]:
        """`count` of the items, in their order, drawn without replacement by the promise of their levels.

        Efraimidis and Spirakis 2006: the largest of u^(1 / weight), u uniform; the same key gives the same choice.
        """
        if count >= len(items):
            return list(items)
        weights = [
            max(LEAST, 4 * self.success(item.level) * (1 - self.success(item.level))) for item in items
        ]
        ranks = keyed_generator("curriculum", key).random(len(items)) ** (1 / np.array(weights))
        return [items[index] for index in sorted(np.argsort(-ranks)[:count])]

    def state(self) -> dict[str, list[float]]:
        """As JSON."""
        return {level: list(tally) for level, tally in self.tallies.items()}

    @classmethod
    def restore(cls, state: Mapping[str, Sequence[float]]) -> Curriculum:
        """From what `state` gave."""
        return cls({level: (tally[0], tally[1]) for level, tally in state.items()})
