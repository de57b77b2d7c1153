"""Memory of slots: keys and values of sequences, where the native library finds them.

Whoever begins as a copy of another slot reads the whole blocks of 16 positions that they have in common where they are:
the samples of one prompt then share it in the processor's caches too. Nobody outside sees that. Before a position is
written to that others read, or that is another's, each gets what is its own.
"""

from __future__ import annotations

import ctypes
import math

import numpy as np
import numpy.typing as npt

from kweek.engine.native.library import Model
from kweek.engine.native.pack import TILE
from kweek.engine.native.rows import SLOT

NOBODY = -1


def stride(tokens: int) -> int:
    """At least `tokens`, an odd multiple of 16: at a power of two all keys would fall into one set of the cache."""
    blocks = math.ceil(tokens / TILE)
    return TILE * (blocks + 1 - blocks % 2)


class SlotMemory:
    """The memory of all slots of a backend.

    Args:
        library: the native one.
        model: tells the sizes of keys and values; its weights are not looked at.
        num_slots: how many; none has memory yet.

    Attributes:
        table: what C reads, of dtype `SLOT`.
        capacities: positions that each slot has memory for.
    """

    def __init__(self, library: ctypes.CDLL, model: Model, num_slots: int) -> None:
        self._library, self._model = library, model
        self.table = np.zeros(num_slots, SLOT)
        self.capacities = [0] * num_slots
        self._arrays = [np.zeros(0, np.uint8) for _ in range(num_slots)]
        self._owners = [NOBODY] * num_slots  # of the first positions, where they are another slot's
        self._readers: list[set[int]] = [set() for _ in range(num_slots)]  # the same, seen from the owner
        # Positions below are read by others, or are another's: they are not written to as they are.
        self._bounds = np.zeros(num_slots, np.int32)

    def grow(self, slot: int, capacity: int) -> None:
        """Give a slot so much memory, keeping what is in it.

        Raises:
            MemoryError: there is none; nothing has changed then.
        """
        size = self._library.kw_slot_bytes(ctypes.byref(self._model), capacity)
        old, before, array = self._arrays[slot], self.capacities[slot], np.zeros(size, np.uint8)
        first = int(self.table[slot]["shared_length"])
        self._copy(old.ctypes.data, before, array.ctypes.data, capacity, first, before)
        self._arrays[slot], self.capacities[slot] = array, capacity
        self.table[slot]["data"], self.table[slot]["capacity"] = array.ctypes.data, capacity
        for reader in list(self._readers[slot]):
            self._point(reader, slot, int(self.table[reader]["shared_length"]))

    def release(self, slot: int) -> None:
        """Give a slot's memory back, and forget what is in it."""
        self._forget(slot)
        self.table[slot] = np.zeros(1, SLOT)[0]
        self._arrays[slot], self.capacities[slot] = np.zeros(0, np.uint8), 0

    def fork(self, source: int, target: int, length: int) -> None:
        """The first `length` positions of one slot into another, which has the capacity for them."""
        self._forget(target)
        owner = self._owners[source]
        shared = length
        if owner == NOBODY:
            owner = source
        else:
            shared = min(length, int(self.table[source]["shared_length"]))
        shared -= shared % TILE
        if shared:
            self._point(target, owner, shared)
        row = self.table[source]
        data, capacity = int(self.table[target]["data"]), self.capacities[target]
        kept = int(row["shared_length"])
        if shared < kept:  # part of a block of the owner's
            end = min(kept, length)
            self._copy(int(row["shared"]), int(row["shared_capacity"]), data, capacity, shared, end)
        first = max(shared, kept)
        self._copy(int(row["data"]), self.capacities[source], data, capacity, first, length)

    def settle(self, slot: int, position: int) -> None:
        """Before anything is written to a slot at `position` and after it."""
        if position >= self._bounds[slot]:
            return
        shared = int(self.table[slot]["shared_length"])
        if position >= shared:
            self._hand_over(slot)
            return
        row, first = self.table[slot], position - position % TILE
        self._copy(
            int(row["shared"]), int(row["shared_capacity"]), int(row["data"]), self.capacities[slot], first, shared
        )  # fmt: skip
        self._point(slot, self._owners[slot], first)

    def settle_all(self, slots: npt.NDArray[np.int32], positions: npt.NDArray[np.int32]) -> None:
        """`settle` for many."""
        for index in np.flatnonzero(positions < self._bounds[slots]):
            self.settle(int(slots[index]), int(positions[index]))

    def forget_all(self) -> None:
        """What slots hold means nothing any more; their memory stays."""
        self.table["shared_length"] = 0
        self._owners = [NOBODY] * len(self._owners)
        self._readers = [set() for _ in self._readers]
        self._bounds[:] = 0

    def _forget(self, slot: int) -> None:
        """Nobody reads what is in a slot any more, nor does it read what is in another."""
        if self._bounds[slot] and self._owners[slot] == NOBODY:
            self._hand_over(slot)
        self._point(slot, self._owners[slot], 0)

    def _point(self, slot: int, owner: int, length: int) -> None:
        """Let the first positions of a slot be those of its owner; of nobody where there are none."""
        before, row = self._owners[slot], self.table[slot]
        now = self._owners[slot] = owner if length else NOBODY
        row["shared_length"] = self._bounds[slot] = length
        if length:
            row["shared"], row["shared_capacity"] = self.table[owner]["data"], self.capacities[owner]
        if before != NOBODY:
            self._readers[before].discard(slot)
        if now != NOBODY:
            self._readers[now].add(slot)
        for changed in {before, now} - {NOBODY}:
            self._bounds[changed] = max(
                (int(self._bounds[reader]) for reader in self._readers[changed]), default=0
            )

    def _hand_over(self, slot: int) -> None:
        """The one that reads most of this slot becomes the owner for the others."""
        readers = list(self._readers[slot])
        heir = max(readers, key=lambda reader: int(self.table[reader]["shared_length"]))
        length = int(self.table[heir]["shared_length"])
        self._copy(
            int(self.table[slot]["data"]), self.capacities[slot],
            int(self.table[heir]["data"]), self.capacities[heir], 0, length,
        )  # fmt: skip
        self._point(heir, NOBODY, 0)
        for reader in readers:
            if reader != heir:
                self._point(reader, heir, int(self.table[reader]["shared_length"]))

    def _copy(self, source: int, held: int, target: int, capacity: int, first: int, length: int) -> None:
        model = ctypes.byref(self._model)
        self._library.kw_copy(model, source, held, target, capacity, first, length)
