"""Samples that have said the same so far: one of them passes through the network, the others choose from its logits.

The samples of a prompt begin as one text and part token by token; a trained model often says the same several times.
Every sample draws with its own random numbers and its own settings, so each gets the bits that it would get alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from kweek.engine.generation import Generation

_Key = tuple[str, int, int]


def _key(generation: Generation) -> _Key:
    """Equal for equal texts, and seldom for others."""
    return generation.request.tenant, len(generation.ids), generation.ids[-1]


class Riding:
    """The generations that ride on others."""

    def __init__(self) -> None:
        self.riders: list[Generation] = []
        self._leaders: dict[_Key, list[Generation]] = {}

    def look(self, running: Iterable[Generation]) -> None:
        """Note whom one may ride on now."""
        self._leaders = {}
        for generation in running:
            self.lead(generation)

    def lead(self, generation: Generation) -> None:
        """Note one more, that has just got a slot."""
        if generation.shareable and not generation.cancelled and generation.reason is None:
            self._leaders.setdefault(_key(generation), []).append(generation)

    def join(self, generation: Generation) -> bool:
        """Let it ride on one that has said the same, if there is any."""
        if not generation.shareable:
            return False
        for leader in self._leaders.get(_key(generation), ()):
            if leader.ids == generation.ids:
                generation.leader = leader
                self.riders.append(generation)
                return True
        return False

    def leave(self, running: Iterable[Generation]) -> tuple[list[Generation], list[Generation]]:
        """Riders that have ended, and those that have parted from their leader and need a slot of their own.

        Args:
            running: the generations that go on.
        """
        leading = set(map(id, running))
        ended: list[Generation] = []
        parted: list[Generation] = []
        staying: list[Generation] = []
        for rider in self.riders:
            assert rider.leader is not None
            if rider.cancelled or rider.reason is not None:
                ended.append(rider)
            elif id(rider.leader) not in leading or rider.leader.ids != rider.ids:
                parted.append(rider)
            else:
                staying.append(rider)
        for rider in [*ended, *parted]:
            rider.leader, rider.num_ridden = None, len(rider.token_ids) - rider.num_resumed
        self.riders = staying
        return ended, parted

    def remove(self, generation: Generation) -> bool:
        """Take a rider out, wherever it is; returns whether it was one."""
        if generation not in self.riders:
            return False
        self.riders.remove(generation)
        generation.leader, generation.num_ridden = None, len(generation.token_ids) - generation.num_resumed
        return True
