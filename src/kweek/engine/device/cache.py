"""Keys and values of all slots in tensors made once, read and written at positions that live on the device.

Legend: N slots, C capacity, B rows, T tokens, L length looked at, K key heads, E head dimension.
"""

from __future__ import annotations

from torch import Tensor

from kweek.model.cache import KVCache


class DeviceCache(KVCache):
    """Rows are slots; where a pass reads and writes is set by `place`. Nothing here waits for the device."""

    _slots_B: Tensor
    _into_BT: Tensor
    _at_BT: Tensor
    _length: int
    _direct: bool
    _capacity: int | None = None

    @property
    def max_length(self) -> int:
        """Positions of a slot that every layer has."""
        return super().max_length if self._capacity is None else self._capacity

    def place(
        self, slots_B: Tensor, into_BT: Tensor, at_BT: Tensor, length: int, *, direct: bool = False
    ) -> None:
        """Set where the next pass reads and writes.

        Args:
            slots_B: the slot that each row reads.
            into_BT, at_BT: slot and position that each new token is written to.
            length: positions of a slot that attention looks at.
            direct: row i reads slot i where it lies, whatever `slots_B` says.
        """
        self._slots_B, self._into_BT, self._at_BT = slots_B, into_BT, at_BT
        self._length, self._direct = length, direct

    def update(self, layer: int, k_BKTE: Tensor, v_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values of a layer; those to attend to, (B, K, L, E)."""
        keys, values = self.keys[layer], self.values[layer]
        keys[self._into_BT, :, self._at_BT] = k_BKTE.transpose(1, 2).to(keys.dtype)
        values[self._into_BT, :, self._at_BT] = v_BKTE.transpose(1, 2).to(values.dtype)
        if self._direct:
            batch = len(self._slots_B)
            return keys[:batch, :, : self._length], values[:batch, :, : self._length]
        return keys[self._slots_B, :, : self._length], values[self._slots_B, :, : self._length]

    def grow(self, capacity: int) -> None:
        """More positions for every slot; what is there stays. Without the memory for it the capacity is what it was."""
        self._capacity = self.max_length
        for parts in (self.keys, self.values):
            for layer, part in enumerate(parts):
                slots, heads, before, size = part.shape
                if before >= capacity:
                    continue  # an attempt before came this far
                grown = part.new_zeros(slots, heads, capacity, size)
                grown[:, :, :before] = part
                parts[layer] = grown  # layer by layer, so that only one is there twice
        self._capacity = capacity

    def begin(self, num_tokens: int) -> tuple[Tensor, Tensor | None]:
        """Not asked: the pass is given its positions."""
        raise NotImplementedError("positions are set by place")
