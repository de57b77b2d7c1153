"""Which sequence is in which slot: computed prefixes are found again, the least recently used slot makes room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Slot:
    """A place for the keys and values of one sequence.

    Attributes:
        token_ids: those whose keys and values it holds, in order.
        busy: a generation is in it.
        used: when it was last taken.
        reserved: how many tokens there is memory for.
    """

    number: int
    tenant: str = ""
    token_ids: list[int] = field(default_factory=list)
    busy: bool = False
    used: int = 0
    reserved: int = 0


class Slots:
    """All slots of an engine. Rows of different tenants never see each other's prefixes."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._slots = [Slot(number) for number in range(count)]
        self._clock = self._latest = 0

    def take(self, prompt_ids: Sequence[int], tenant: str) -> tuple[Slot, Slot | None, int] | None:
        """A slot for a prompt, the slot to copy a prefix from (None: it is there already), and the prefix's length.

        The last token of a prompt always passes through the network, since its logits are wanted. Returns None when all
        slots are busy.
        """
        free = [slot for slot in self._slots if not slot.busy]
        if not free:
            return None
        best: Slot | None = None
        wanted, longest = list(prompt_ids[:-1]), 0
        # First the one that was taken last: the samples of a prompt follow one another.
        for slot in (self._slots[self._latest], *self._slots):
            held = slot.token_ids
            # The place that a prefix as long as the longest so far would end with tells most of the others apart.
            if longest and (len(held) < longest or held[longest - 1] != wanted[longest - 1]):
                continue
            if slot.tenant == tenant and held and held[:longest] == wanted[:longest]:
                length = longest + common_prefix(held[longest:], wanted[longest:])
                # An idle slot before a busy one of the same length: nothing to copy.
                if length > longest or (
                    length == longest and length and best is not None and best.busy and not slot.busy
                ):
                    best, longest = slot, length
        if best is not None and not best.busy and 2 * longest >= len(best.token_ids):
            chosen, source = best, None  # most of what it holds is used again: go on in place
        else:
            chosen, source = min(free, key=lambda slot: (bool(slot.token_ids), slot.used)), best
            if source is chosen:
                source = None
        self._clock, self._latest = self._clock + 1, chosen.number
        chosen.busy, chosen.tenant, chosen.used = True, tenant, self._clock
        chosen.token_ids = list(prompt_ids[:longest])
        return chosen, source, longest

    def forget_idle(self) -> list[int]:
        """Give up what no generation uses; returns the numbers of slots whose memory is then free."""
        idle = [slot for slot in self._slots if not slot.busy and slot.reserved]
        for slot in idle:
            slot.token_ids, slot.reserved = [], 0
        return [slot.number for slot in idle]

    def release(self, slot: Slot) -> None:
        """The sequence has ended; what it computed stays to be found until the slot is needed."""
        slot.busy = False


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many leading tokens agree."""
    same, length = 0, min(len(a), len(b))
    while same < length:
        # Halving what is compared at once: slices are compared much faster than tokens one by one.
        middle = (same + length + 1) // 2
        if a[same:middle] == b[same:middle]:
            same = middle
        else:
            length = middle - 1
    return same
