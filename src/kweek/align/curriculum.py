"""A curriculum from measured success: items are preferred that are solved about half of the time.

A group of right and wrong answers has the more signal the nearer its success is to a half: with success p its rewards
have the variance p (1 - p). What is always or never solved teaches nothing and is met rarely. Success is that
of an item's level; an item without one, as from a file of prompts, has its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kweek.align.environment import Item
from kweek.align.rollout import Group
from kweek.data.packing import keyed_generator

FORGETTING = 0.9  # of what was seen of a level, per update: success moves by some points per update
ITEM_FORGETTING = 0.99  # of what was seen of one item: a pool of a thousand comes round in some forty updates
FORGOTTEN = 0.5  # attempts; an item with fewer left is as good as new, and no longer kept
LEAST = (
    0.1  # weight of a level that is always or never solved, against 1 at a half: its success must stay known
)

Tallies = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Curriculum:
    """Success so far: by level, and by item where items have no levels.

    Attributes:
        tallies: by level, (sum of scores, number of attempts), earlier ones fading.
        items: the same by the ids of items without a level.
    """

    tallies: Tallies = field(default_factory=dict)
    items: Tallies = field(default_factory=dict)

    def success(self, level: str) -> float:
        """Expected score of a level; a half where nothing is known (Laplace's rule)."""
        return _expected(self.tallies.get(level))

    def promise(self, item: Item) -> float:
        """Weight of an item: 4 p (1 - p) of its expected score p, and never nothing."""
        found = self.success(item.level) if item.level else _expected(self.items.get(item.id))
        return max(LEAST, 4 * found * (1 - found))

    def after(self, groups: Iterable[Group]) -> Curriculum:
        """With what one batch of rollouts showed."""
        levels = {level: (a * FORGETTING, b * FORGETTING) for level, (a, b) in self.tallies.items()}
        items = {
            name: (a * ITEM_FORGETTING, b * ITEM_FORGETTING)
            for name, (a, b) in self.items.items()
            if b * ITEM_FORGETTING >= FORGOTTEN
        }
        for group in groups:
            for rollout in group:
                item = rollout.item
                tallies, name = (levels, item.level) if item.level else (items, item.id)
                right, total = tallies.get(name, (0.0, 0.0))
                tallies[name] = (right + rollout.score.value, total + 1)
        return Curriculum(levels, items)

    def choose(self, items: Sequence[Item], count: int, key: str) -> list[Item]:
        """`count` of the items, in their order, drawn without replacement by their promise.

        Efraimidis and Spirakis 2006: the largest of u^(1 / weight), u uniform; the same key gives the same choice.
        """
        if count >= len(items):
            return list(items)
        weights = [self.promise(item) for item in items]
        ranks = keyed_generator("curriculum", key).random(len(items)) ** (1 / np.array(weights))
        return [items[index] for index in sorted(np.argsort(-ranks)[:count])]

    def state(self) -> dict[str, dict[str, list[float]]]:
        """As JSON."""
        return {
            "levels": {level: list(tally) for level, tally in self.tallies.items()},
            "items": {name: list(tally) for name, tally in self.items.items()},
        }

    @classmethod
    def restore(cls, state: Mapping[str, Mapping[str, Sequence[float]]]) -> Curriculum:
        """From what `state` gave."""
        return cls(*({name: (a, b) for name, (a, b) in state[part].items()} for part in ("levels", "items")))


def _expected(tally: tuple[float, float] | None) -> float:
    """Expected score after some attempts, by Laplace's rule."""
    right, total = tally or (0.0, 0.0)
    return (right + 1) / (total + 2)
