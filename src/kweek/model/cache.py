"""The keys and values of tokens already seen, so that generating a token costs one token.

Shapes: L layers, B rows, K key heads, T new tokens, S capacity, E head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kweek.model.config import ModelConfig


class KVCache:
    """Preallocated keys and values for `batch_size` rows of up to `max_length` tokens each.

    Rows are left-aligned and may differ in length: row b holds positions 0 .. lengths_B[b] - 1. A forward
    pass writes its T new tokens behind each row's end. In a prompt batch padded on the right, the padding is
    written too but never counted, never attended to, and overwritten by the tokens that follow.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        max_length: int,
        *,
        dtype: torch.dtype = torch.float32,  # as exact as the network it serves
        device: torch.device | str = "cpu",  # where a network is built unless moved
    ) -> None:
        shape = (batch_size, config.num_kv_heads, max_length, config.head_dim)
        self._config = config
        # One tensor per layer: a single stacked one was copied whole on every step by some back ends.
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]
        self.lengths_B = torch.zeros(batch_size, dtype=torch.long, device=device)
        self._positions_BT = torch.empty(batch_size, 0, dtype=torch.long, device=device)
        self._uniform_start: int | None = 0
        self._end = 0

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return self.lengths_B.shape[0]

    @property
    def max_length(self) -> int:
        """Tokens a row can hold."""
        return self.keys[0].shape[2]

    @property
    def num_bytes(self) -> int:
        """Memory of all keys and values."""
        return sum(part.numel() * part.element_size() for part in (*self.keys, *self.values))

    def begin(self, num_tokens: int) -> tuple[Tensor, Tensor | None]:
        """Make ready for `num_tokens` new tokens per row.

        Returns:
            their positions (B, T), and the mask (B, 1, T, S') of what they may attend to, or None where
            plain causal attention over an empty cache, or over equally long rows, says the same.

        Raises:
            ValueError: a row would grow beyond the capacity.
        """
        lengths = self.lengths_B.tolist()
        self._end = max(lengths, default=0) + num_tokens
        if self._end > self.max_length:
            raise ValueError(f"{self._end} tokens do not fit into a cache of {self.max_length}")
        steps = torch.arange(num_tokens, device=self.lengths_B.device)
        self._positions_BT = self.lengths_B[:, None] + steps
        self._uniform_start = lengths[0] if len(set(lengths)) == 1 else None
        if self._uniform_start is not None and (num_tokens == 1 or self._uniform_start == 0):
            return self._positions_BT, None
        keys = torch.arange(self._end, device=self.lengths_B.device)
        return self._positions_BT, (keys <= self._positions_BT[:, :, None])[:, None]

    def update(self, layer: int, k_BKTE: Tensor, v_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values of a layer; returns all that may be attended to, (B, K, S', E)."""
        keys, values = self.keys[layer], self.values[layer]
        if self._uniform_start is not None:
            keys[:, :, self._uniform_start : self._end] = k_BKTE
            values[:, :, self._uniform_start : self._end] = v_BKTE
        else:
            rows = torch.arange(self.batch_size, device=self.lengths_B.device)[:, None]
            keys[rows, :, self._positions_BT] = k_BKTE.transpose(1, 2).to(keys.dtype)
            values[rows, :, self._positions_BT] = v_BKTE.transpose(1, 2).to(values.dtype)
        return keys[:, :, : self._end], values[:, :, : self._end]

    def advance(self, counts_B: Tensor | int) -> None:
        """Count `counts_B` of the tokens just written as part of each row (the rest was padding)."""
        self.lengths_B = self.lengths_B + counts_B

    def select(self, rows: Sequence[int] | Tensor) -> KVCache:
        """A cache of the given rows, in that order, with its own memory.

        Leaves finished rows out of a batch, or repeats one prompt's row for many continuations.
        """
        index = torch.as_tensor(rows, dtype=torch.long, device=self.lengths_B.device)
        chosen = KVCache(
            self._config, len(index), self.max_length, dtype=self.keys[0].dtype, device=self.lengths_B.device
        )
        chosen.lengths_B = self.lengths_B[index]
        used = int(chosen.lengths_B.max()) if len(index) else 0
        for mine, theirs in zip((*self.keys, *self.values), (*chosen.keys, *chosen.values), strict=True):
            theirs[:, :, :used] = mine[index, :, :used]
        return chosen
